"""The networks of `keras.applications`, and their trained weights."""

import functools
import inspect
import logging
import pathlib
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from advjax.config import choose
from advjax.files import expand
from advjax.models.adapters import Model
from advjax.models.keras import Network, adapt, import_keras, layers_of

logger = logging.getLogger(__name__)

# In Keras' words: params and logits are float32 with both.
_POLICIES = {'float32': 'float32', 'bfloat16': 'mixed_bfloat16'}

# Stages and weight files are read from a network for such images, which all
# architectures take.
_SHAPE = (224, 224, 3)

_SUFFIXES = ('.weights.h5', '.keras', '.h5')

# EfficientNets as published hold these deviations where Normalization expects
# variances; Keras divides by their roots with `weights='imagenet'`.
_DEVIATIONS = (0.229, 0.224, 0.225)


def architectures() -> dict[str, Callable[..., Any]]:
  """Returns the functions of `keras.applications` by name."""
  return dict(
    inspect.getmembers(import_keras().applications, inspect.isfunction)
  )


def create(
  num_classes: int,
  architecture: str = 'MobileNetV2',
  weights: str = 'random',
  dtype: str = 'float32',
) -> Model:
  """Builds a network of `keras.applications` with a new head.

  `weights` are 'random', 'imagenet', which Keras downloads when training
  starts, or a file of the same architecture, checked now and read when training
  starts; a head for other classes is left random.
  """
  choose('model.architecture', architecture, architectures())
  policy = _POLICIES[choose('model.dtype', dtype, _POLICIES)]
  network_of = functools.partial(build, architecture, num_classes, policy)
  network = network_of(_SHAPE)
  model = adapt(network, network_of, preprocessing(architecture))
  if weights == 'random':
    return model
  if weights != 'imagenet':
    # For its errors alone: what it holds may change until training starts.
    _read(network, weights, architecture)

  def pretrained(params: Any, model_state: Any) -> tuple[Any, Any]:
    read = _download if weights == 'imagenet' else _read
    head = () if read(network, weights, architecture) else network.stages[-1]
    if head:
      message = '%s has no weights of the shapes of %s: initialised at random'
      logger.info(message, weights, ', '.join(head))
    return network.current_values(params, model_state, without=head)

  return model._replace(pretrained=pretrained)


def preprocessing(architecture: str) -> Callable[[Array], Array]:
  """Returns `preprocess_input` of 255 images, for images in [0, 1]."""
  module = sys.modules[architectures()[architecture].__module__]
  return lambda images: module.preprocess_input(255 * images)


@functools.lru_cache(maxsize=8)
def build(
  architecture: str, num_classes: int, policy: str, shape: tuple[int, ...]
) -> Network:
  """Builds a network for images of a shape; its own weights are zeros."""
  keras = import_keras()
  if len(shape) != 3 or shape[-1] != 3:
    raise ValueError(f'images of shape {shape}; allowed: [height, width, 3]')

  def make() -> Any:
    member = architectures()[architecture]
    base = member(include_top=False, weights=None, input_shape=shape)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    dtype = base.layers[-1].variable_dtype
    logits = keras.layers.Dense(num_classes, dtype=dtype)(pooled)
    return keras.Model(base.inputs[0], logits, name=base.name)

  previous = keras.config.dtype_policy()
  keras.config.set_dtype_policy(policy)
  try:
    with jax.numpy_rank_promotion('allow'):
      model = without_values(make)
  finally:
    keras.config.set_dtype_policy(previous)
  return Network(model, renumber=True)


def without_values(make: Callable[[], Any]) -> Any:
  """Makes a model of zeros: drawing weights would compile for each shape."""
  keras = import_keras()
  # Outside of any current trace: the model is kept.
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


def _read(network: Network, file: str, architecture: str) -> bool:
  """Reads a weight file into a network; False where its head does not fit."""
  if not file.endswith(_SUFFIXES):
    raise ValueError(
      f"model.weights = {file!r}; allowed: 'random', 'imagenet' or a file "
      f'*{", *".join(_SUFFIXES)}'
    )
  file = str(expand(file))
  if not pathlib.Path(file).is_file():
    raise ValueError(f'model.weights = {file!r}; allowed: a file that exists')
  with_head = _load(network.model, file) is None
  reason = None if with_head else _load(network.body, file)
  if reason is not None:
    raise ValueError(
      f'model.weights = {file!r}; allowed: weights of {architecture}, which '
      f'these do not fit: {reason}'
    )
  _correct_deviations(network)
  return with_head


def _load(model: Any, file: str) -> str | None:
  """Loads a file into a model; returns why it cannot, or not all of it."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', UserWarning)
    try:
      model.load_weights(file)
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
      return textwrap.shorten(str(error), 400)
  reasons = [str(each.message) for each in caught]
  return textwrap.shorten(reasons[0], 400) if reasons else None


def _download(network: Network, weights: str, architecture: str) -> bool:
  """Gives all but the head ImageNet's weights; False, as `_read` then does."""
  try:
    trained = architectures()[architecture](
      include_top=False, weights=weights, input_shape=_SHAPE
    )
  except Exception as error:  # Without network Keras raises just that.
    if not isinstance(error, OSError) and 'URL fetch' not in str(error):
      raise
    raise ValueError(
      "model.weights = 'imagenet'; allowed: the name of a weight file, for "
      f'Keras cannot download any ({error})'
    ) from error
  for variable, other in zip(
    network.body.weights, trained.weights, strict=True
  ):
    variable.assign(other.value)
  _correct_deviations(network)
  return False


def _correct_deviations(network: Network) -> None:
  kind = import_keras().layers.Normalization
  for layer in layers_of(network.model):
    if not isinstance(layer, kind) or not layer.weights:
      continue
    variance = np.asarray(layer.adapt_variance.value)
    if np.allclose(variance, _DEVIATIONS, rtol=1e-3):
      scale = 1 / np.sqrt(_DEVIATIONS)
      layer.adapt_variance.assign(variance / np.square(scale))
