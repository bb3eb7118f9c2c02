"""From a config to a model."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn

from advjax.config import check_range, choose, find, parameters_of
from advjax.models import keras_applications
from advjax.models.adapters import Model, from_linen, from_nnx
from advjax.models.cnn import CNN, MLP, MatlabCNN
from advjax.models.resnet import (
  RESIDUAL_NETWORKS,
  residual_network,
  small_resnet,
)

# Each makes a Linen module or a `Model` from num_classes, the first parameter;
# the others are a config's fields (`config.parameters_of`).
ARCHITECTURES: dict[str, Callable[..., Any]] = {
  'cnn': CNN,
  'matlab_cnn': MatlabCNN,
  'mlp': lambda num_classes, hidden_units=MLP.hidden_units: MLP(
    num_classes, hidden_units
  ),
  'logistic_regression': lambda num_classes, zero_init=False: MLP(
    num_classes, (), zero_init
  ),
  'keras': keras_applications.create,
  'small_resnet': small_resnet,
  **{
    name: functools.partial(residual_network, architecture)
    for name, architecture in RESIDUAL_NETWORKS.items()
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
      `advjax.models.resnet` and 'keras' (`keras.applications`), or
      'module:function' of your own, called as `function(num_classes, **fields)`
      (a class of NNX modules with `rngs` too); and fields of that network.
    num_classes: Logits.
    axis_name: Mapped axis over which BatchNorm averages its statistics in
      training; None: each device has its own. Keras' BatchNorm always has.
    axis_index_groups: Groups of indices of that axis which are averaged over
      together; None: all of them.

  Returns:
    The model.

  Raises:
    ValueError: if the name or a field is unknown, or a value is wrong.

  Example:
    >>> model = create_model({'name': 'mlp', 'hidden_units': (32,)}, 10)
    >>> model.stages, model.features
    ((), None)
  """
  fields = dict(config)
  name = fields.pop('name', None)
  build = find('model.name', name, ARCHITECTURES)
  check_range('num_classes', num_classes, 2, integer=True)
  parameters = dict([*parameters_of(build).items()][1:])
  for field, value in fields.items():
    choose(f'field of model {name}', field, parameters)
    default = parameters[field].default
    # Of strings, each network checks its own.
    if isinstance(default, tuple):
      fields[field] = _sizes(f'model.{field}', value, field.endswith('_size'))
    elif isinstance(default, bool) and not isinstance(value, bool):
      raise ValueError(f'model.{field} = {value!r}; allowed: True or False')
  axis = {'axis_name': axis_name, 'axis_index_groups': axis_index_groups}
  accepted = inspect.signature(build).parameters
  fields |= {name: each for name, each in axis.items() if name in accepted}
  # Of a user's own, who may not have imported NNX: it is slow to import.
  nnx = sys.modules.get('flax.nnx')
  if nnx and isinstance(build, type) and issubclass(build, nnx.Module):
    return from_nnx(lambda rngs: build(num_classes, **fields, rngs=rngs))
  network = build(num_classes, **fields)
  if isinstance(network, Model):
    return network
  if not isinstance(network, nn.Module):
    raise ValueError(
      f'model.name = {name!r} makes a {type(network).__name__}; allowed: a '
      'Model (from_nnx makes one), a Linen module, or a class of NNX modules'
    )
  return from_linen(network)


def _sizes(field: str, value: Any, is_pair: bool) -> tuple[int, ...]:
  is_tuple = hasattr(value, '__iter__') and not isinstance(value, str)
  if not is_tuple or (is_pair and len(value) != 2):
    allowed = 'two' if is_pair else 'a tuple of'
    raise ValueError(f'{field} = {value!r}; allowed: {allowed} integers >= 1')
  for index, size in enumerate(value):
    check_range(f'{field}[{index}]', size, 1, integer=True)
  return tuple(value)
