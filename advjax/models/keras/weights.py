"""Trained weights of `keras.applications`: files, and Keras' downloads."""

import logging
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from advjax.models.keras.adapter import current
from advjax.models.keras.backend import import_keras
from advjax.models.keras.network import Network, parts

logger = logging.getLogger(__name__)

# Layer -> name -> array.
Values = dict[str, dict[str, np.ndarray]]

_SUFFIXES = ('.weights.h5', '.keras', '.h5')

# What Keras divides the images by once more where EfficientNet has its
# published weights: they hold deviations where variances belong.
_DEVIATIONS = (0.229, 0.224, 0.225)


def read(network: Network, file: str, architecture: str) -> Values:
  """Reads a weight file of the network, or of the network with another head.

  Args:
    network: The network; its own variables are overwritten.
    file: The file's name.
    architecture: The network's name, for messages.

  Returns:
    Layer -> name -> array; without the head if it does not fit.

  Raises:
    ValueError: if there is no such file, or it is not of this network.
  """
  if not file.endswith(_SUFFIXES):
    raise ValueError(
      f"model.weights = {file!r}; allowed: 'random', 'imagenet' or a file "
      f'*{", *".join(_SUFFIXES)}'
    )
  if not pathlib.Path(file).is_file():
    raise ValueError(f'model.weights = {file!r}: there is no such file')
  keras = import_keras()
  base = keras.Model(network.model.inputs, network.body.outputs)
  for model in (network.model, base):
    try:
      model.load_weights(file)
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
      reason = str(error)
    else:
      break
  else:
    raise ValueError(
      f'model.weights = {file!r} does not fit {architecture}: '
      + ' '.join(reason.split())
    )
  _correct(network)
  return _values(network, with_head=model is network.model, source=file)


def download(
  network: Network, member: Callable[..., Any], shape: Sequence[int]
) -> Values:
  """Returns the ImageNet weights that Keras downloads, or has downloaded.

  Args:
    network: The network; its own variables are overwritten.
    member: Its function in `keras.applications`.
    shape: Of its images.

  Returns:
    Layer -> name -> array, without the head.

  Raises:
    ValueError: if they cannot be had.
  """
  try:
    trained = member(
      include_top=False, weights='imagenet', input_shape=tuple(shape)
    )
  except Exception as error:  # Keras raises just that without network.
    if not isinstance(error, OSError) and 'URL fetch' not in str(error):
      raise
    raise ValueError(
      "model.weights = 'imagenet' could not be downloaded by Keras; allowed "
      f'without network: the name of a weight file ({error})'
    ) from error
  theirs = [layer for layer in parts(trained) if layer.weights]
  ours = [layer for layer in parts(network.model) if layer.weights]
  for layer, other in zip(ours[:-1], theirs, strict=True):
    layer.set_weights(other.get_weights())
  _correct(network)
  return _values(network, with_head=False, source='imagenet')


def _correct(network: Network) -> None:
  """Lets variances be what the published EfficientNets are used with."""
  keras = import_keras()
  for layer in parts(network.model):
    if isinstance(layer, keras.layers.Normalization) and layer.weights:
      variance = np.asarray(layer.adapt_variance.value)
      if np.allclose(variance, _DEVIATIONS, rtol=1e-3):
        layer.adapt_variance.assign(variance * np.array(_DEVIATIONS))


def _values(network: Network, *, with_head: bool, source: str) -> Values:
  values = current(network.params) | {}
  for layer, named in current(network.state).items():
    values[layer] = values.get(layer, {}) | named
  if not with_head:
    head = network.stages[-1]
    for layer in head:
      del values[layer]
    logger.info('%s has no such head: %s is random', source, ', '.join(head))
  return jax.tree.map(np.array, values)
