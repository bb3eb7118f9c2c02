"""The networks of `keras.applications`, by their names in a config."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from advjax.config import choose
from advjax.models.adapters import Model
from advjax.models.keras import weights as weight_files
from advjax.models.keras.adapter import adapt, merge
from advjax.models.keras.backend import import_keras
from advjax.models.keras.network import Network, take_apart

logger = logging.getLogger(__name__)

# In Keras' words: params and logits are float32 with both.
_POLICIES = {'float32': 'float32', 'bfloat16': 'mixed_bfloat16'}

# Stages and weight files are read from a network for such images, which all
# members take.
_SHAPE = (224, 224, 3)


def architectures() -> dict[str, Callable[..., Any]]:
  """Returns the networks of the installed Keras.

  Returns:
    Their functions in `keras.applications` by name.

  Example:
    >>> 'MobileNetV2' in architectures()
    True
  """
  members = vars(import_keras().applications)
  return {
    name: member
    for name, member in members.items()
    if inspect.isfunction(member)
  }


def create(
  num_classes: int,
  architecture: str,
  weights: str = 'random',
  dtype: str = 'float32',
) -> Model:
  """Builds a network of `keras.applications` with a new head.

  The head is global average pooling and a dense layer. Images are in [0, 1]:
  the network's own `preprocess_input` of 255 images runs inside `apply`. See
  `advjax.models.from_keras` for params, stages and BatchNorm. The network is
  built for the images that it sees first; the smallest sides are 32 pixels, 71
  for Xception and 75 for InceptionV3 and InceptionResNetV2.

  Args:
    num_classes: Logits.
    architecture: 'MobileNetV2', 'NASNetLarge', 'EfficientNetB4', ...: a name
      of `architectures()`.
    weights: 'random'; 'imagenet', which Keras downloads when training starts;
      or a file of the same architecture, checked now and read when training
      starts: `.weights.h5`, `.keras`, or an `.h5` that Keras offers for it
      without top. If its head is for other classes, a random one stays.
    dtype: 'float32' or 'bfloat16'; params and logits are float32.

  Returns:
    The model.

  Raises:
    ValueError: for a name that is unknown or a file that does not fit.

  Example:
    >>> create(10, 'MobileNetV4')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: unknown architecture 'MobileNetV4'; allowed: ...
  """
  choose('architecture', architecture, architectures())
  policy = _POLICIES[choose('dtype', dtype, _POLICIES)]
  network_of = functools.partial(build, architecture, num_classes, policy)
  network = network_of(_SHAPE)
  preprocess = preprocessing(architecture)
  model = adapt(network, lambda shape: network_of(tuple(shape)), preprocess)
  if weights == 'random':
    return model
  if weights != 'imagenet':
    # For its errors alone: what it holds may change until training starts.
    weight_files.read(network, weights, architecture)

  def pretrained(params: Any, model_state: Any) -> tuple[Any, Any]:
    if weights == 'imagenet':
      member = architectures()[architecture]
      values = weight_files.download(network, member, _SHAPE)
    else:
      values = weight_files.read(network, weights, architecture)
    if missing := sorted(params.keys() - values.keys()):
      logger.info(
        '%s has no weights that fit %s: random', weights, ', '.join(missing)
      )
    return merge(params, values), merge(model_state, values)

  return model._replace(pretrained=pretrained)


def preprocessing(architecture: str) -> Callable[[Array], Array]:
  """Returns what makes a network's input from images in [0, 1].

  Args:
    architecture: A name of `architectures()`.

  Returns:
    `images -> preprocess_input(255 images)`.
  """
  module = sys.modules[architectures()[architecture].__module__]

  def preprocess(images: Array) -> Array:
    return module.preprocess_input(255 * images)

  return preprocess


@functools.lru_cache(maxsize=8)
def build(
  architecture: str, num_classes: int, policy: str, shape: Sequence[int]
) -> Network:
  """Builds a network for images of a shape; its own weights are zeros.

  Args:
    architecture: A name of `architectures()`.
    num_classes: Logits.
    policy: Keras' name of a dtype policy.
    shape: Height, width and channels.

  Returns:
    The network.

  Raises:
    ValueError: if it does not take such images.
  """
  keras = import_keras()
  if len(shape) != 3 or shape[-1] != 3:
    raise ValueError(f'images of shape {shape}; allowed: [height, width, 3]')
  previous = keras.config.dtype_policy()
  with jax.numpy_rank_promotion('allow'):
    keras.config.set_dtype_policy(policy)
    try:
      model = _without_values(
        lambda: _with_head(architectures()[architecture], num_classes, shape)
      )
    finally:
      keras.config.set_dtype_policy(previous)
  return take_apart(model, renumber=True)


def _with_head(
  member: Callable[..., Any], num_classes: int, shape: Sequence[int]
) -> Any:
  keras = import_keras()
  base = member(include_top=False, weights=None, input_shape=tuple(shape))
  pooled = keras.layers.GlobalAveragePooling2D()(base.output)
  dtype = base.layers[-1].variable_dtype
  logits = keras.layers.Dense(num_classes, dtype=dtype)(pooled)
  return keras.Model(base.inputs[0], logits, name=base.name)


def _without_values(make: Callable[[], Any]) -> Any:
  """Makes a model whose variables are zeros, since others take their places.

  Drawing them would compile a program for each shape.
  """
  keras = import_keras()
  # Not in the trace that asks for it: what is made here stays.
  with (
    jax.ensure_compile_time_eval(),
    keras.StatelessScope(initialize_variables=False),
  ):
    model = make()

  def draw() -> list[Array]:
    with keras.StatelessScope():
      pass  # Variables that have no values yet get them where it ends.
    return [variable.value for variable in model.variables]

  jax.eval_shape(draw)
  with jax.ensure_compile_time_eval():
    for variable in model.variables:
      variable.assign(np.zeros(variable.shape, variable.dtype))
  return model
