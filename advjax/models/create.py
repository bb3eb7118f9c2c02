"""From a config to a model."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn

from advjax.config import check_range, choose
from advjax.models.adapters import Model, from_linen
from advjax.models.keras import applications
from advjax.models.networks import CNN, MLP, MatlabCNN
from advjax.models.resnet import (
  RESIDUAL_NETWORKS,
  residual_network,
  small_resnet,
)

# Of a network's BatchNorm: `axis_name` and `axis_index_groups`.
_Axis = Mapping[str, Any]


def _cnn(
  num_classes: int,
  axis: _Axis,
  *,
  conv_filters: Sequence[int] = CNN.conv_filters,
  kernel_size: Sequence[int] = CNN.kernel_size,
  pool_size: Sequence[int] = CNN.pool_size,
  num_fc_units: Sequence[int] = CNN.num_fc_units,
  batch_norm: bool = False,
) -> Model:
  return from_linen(
    CNN(
      num_classes,
      conv_filters,
      kernel_size,
      pool_size,
      num_fc_units,
      batch_norm,
      **axis,
    )
  )


def _matlab_cnn(num_classes: int, axis: _Axis) -> Model:
  del axis  # No BatchNorm.
  return from_linen(MatlabCNN(num_classes))


def _mlp(
  num_classes: int,
  axis: _Axis,
  *,
  hidden_units: Sequence[int] = MLP.hidden_units,
) -> Model:
  del axis  # No BatchNorm.
  return from_linen(MLP(num_classes, hidden_units))


def _logistic_regression(
  num_classes: int,
  axis: _Axis,
  *,
  zero_init: bool = False,
) -> Model:
  del axis  # No BatchNorm.
  return from_linen(MLP(num_classes, (), zero_init))


def _residual(build: Callable[..., nn.Module]) -> Callable[..., Model]:
  # Fields and defaults are those that `build` names.
  @functools.wraps(build)
  def create(num_classes: int, axis: _Axis, **fields: Any) -> Model:
    return from_linen(build(num_classes, **fields, **axis))

  return create


def _keras(
  num_classes: int,
  axis: _Axis,
  *,
  architecture: str = 'MobileNetV2',
  weights: str = 'random',
  dtype: str = 'float32',
) -> Model:
  del axis  # Keras' BatchNorm cannot look at other devices.
  return applications.create(num_classes, architecture, weights, dtype)


ARCHITECTURES: dict[str, Callable[..., Model]] = {
  'cnn': _cnn,
  'matlab_cnn': _matlab_cnn,
  'mlp': _mlp,
  'logistic_regression': _logistic_regression,
  'keras': _keras,
  'small_resnet': _residual(small_resnet),
  **{
    name: _residual(functools.partial(residual_network, name))
    for name in RESIDUAL_NETWORKS
  },
}


def create_model(
  config: Mapping[str, Any],
  num_classes: int,
  axis_name: str | None = None,
  axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Model:
  """Builds the model that a config names.

  Args:
    config: `name`, one of 'cnn' (NSL's), 'matlab_cnn', 'mlp',
      'logistic_regression', 'small_resnet', the residual networks of
      `advjax.models.resnet` and 'keras' (`keras.applications`), and fields of
      that network.
    num_classes: Logits.
    axis_name: Mapped axis over which BatchNorm averages its statistics in
      training; None: each device its own.
    axis_index_groups: Places on that axis which are averaged over together;
      None: all of them.

  Returns:
    The model.

  Raises:
    ValueError: if the name or a field is unknown, or a value is wrong.

  Example:
    >>> model = create_model({'name': 'mlp', 'hidden_units': (32,)}, 10)
  """
  fields = dict(config)
  name = choose('model', fields.pop('name'), ARCHITECTURES)
  check_range('num_classes', num_classes, 2, integer=True)
  factory = ARCHITECTURES[name]
  axis = {'axis_name': axis_name, 'axis_index_groups': axis_index_groups}
  defaults = {
    field: parameter.default
    for field, parameter in inspect.signature(factory).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and field not in axis
  }
  for field, value in fields.items():
    choose(f'field of model {name}', field, defaults)
    # Of words, each network knows its own.
    if isinstance(defaults[field], tuple):
      fields[field] = _sizes(f'model.{field}', value, field.endswith('_size'))
    elif isinstance(defaults[field], bool) and not isinstance(value, bool):
      raise ValueError(f'model.{field} = {value!r}; allowed: True or False')
  return factory(num_classes, axis, **fields)


def _sizes(field: str, value: Any, is_pair: bool) -> tuple[int, ...]:
  if isinstance(value, str) or not hasattr(value, '__iter__'):
    raise ValueError(f'{field} = {value!r}; allowed: a tuple of integers >= 1')
  sizes = tuple(value)
  for index, size in enumerate(sizes):
    check_range(f'{field}[{index}]', size, 1, integer=True)
  if is_pair and len(sizes) != 2:
    raise ValueError(f'{field} = {value!r}; allowed: two integers >= 1')
  return sizes
