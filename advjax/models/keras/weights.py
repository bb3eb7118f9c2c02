"""Trained weights of `keras.applications`: files, and Keras' downloads."""

import pathlib
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from advjax.models.keras.adapter import current
from advjax.models.keras.backend import import_keras
from advjax.models.keras.network import Network, parts

# Layer -> name -> array.
Values = dict[str, dict[str, np.ndarray]]

_SUFFIXES = ('.weights.h5', '.keras', '.h5')

# EfficientNets as published hold these deviations where Normalization expects
# variances.
_DEVIATIONS = (0.229, 0.224, 0.225)


def read(network: Network, file: str, architecture: str) -> Values:
  """Reads a weight file of the network, or of it with another head.

  EfficientNets as published are scaled as Keras scales them with
  `weights='imagenet'`.

  Args:
    network: The network; its own variables are overwritten.
    file: The file's name.
    architecture: The network's name, for messages.

  Returns:
    Layer -> name -> array; without the head if that does not fit.

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
  with_head = _loads(network.model, file) is None
  reason = None if with_head else _loads(network.body, file)
  if reason is not None:
    raise ValueError(
      f'model.weights = {file!r} does not fit {architecture}: {reason}'
    )
  for layer in _normalizations(network.model):
    if np.allclose(layer.adapt_variance.value, _DEVIATIONS, rtol=1e-3):
      _rescale(layer, 1 / np.sqrt(_DEVIATIONS))
  return _values(network, with_head)


def _loads(model: Any, file: str) -> str | None:
  """Loads a file into a model; returns why it cannot, or not all of it."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', UserWarning)
    try:
      model.load_weights(file)
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
      return textwrap.shorten(str(error), 400)
  reasons = [str(each.message) for each in caught]
  return textwrap.shorten(reasons[0], 400) if reasons else None


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
  except Exception as error:  # Without network Keras raises just that.
    if not isinstance(error, OSError) and 'URL fetch' not in str(error):
      raise
    raise ValueError(
      "model.weights = 'imagenet': Keras cannot download them; allowed "
      f'without network: the name of a weight file ({error})'
    ) from error
  theirs = [layer for layer in parts(trained) if layer.weights]
  ours = [layer for layer in parts(network.body) if layer.weights]
  for layer, other in zip(ours, theirs, strict=True):
    for variable, value in zip(layer.weights, other.weights, strict=True):
      variable.assign(value.value)
  scales = [_scales(model) for model in (network.body, trained)]
  for layer in _normalizations(network.model):
    for scale in scales[1][len(scales[0]) :]:
      _rescale(layer, scale)
  return _values(network, with_head=False)


def _scales(model: Any) -> list[Any]:
  keras = import_keras()
  layers = parts(model)
  return [x.scale for x in layers if isinstance(x, keras.layers.Rescaling)]


def _normalizations(model: Any) -> list[Any]:
  """Layers that hold the mean and variance of a data set."""
  kind = import_keras().layers.Normalization
  return [x for x in parts(model) if isinstance(x, kind) and x.weights]


def _rescale(layer: Any, scale: Any) -> None:
  """Multiplies a Normalization's outputs by a scale."""
  variance = np.asarray(layer.adapt_variance.value) / np.square(scale)
  layer.adapt_variance.assign(variance)


def _values(network: Network, with_head: bool) -> Values:
  values = current(network.params)
  for layer, named in current(network.state).items():
    values[layer] = values.get(layer, {}) | named
  head = () if with_head else network.stages[-1]
  return {layer: named for layer, named in values.items() if layer not in head}
