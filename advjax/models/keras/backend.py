"""Keras itself, imported late and only on JAX."""

import os
import sys
from typing import Any


def import_keras() -> Any:
  """Returns the module `keras`, which is an optional dependency.

  Sets KERAS_BACKEND=jax where nothing has chosen a backend yet.

  Returns:
    The module.

  Raises:
    ValueError: if Keras is not installed, runs on another backend, or has
      channels first.

  Example:
    >>> import_keras().backend.backend()
    'jax'
  """
  if 'keras' not in sys.modules:
    os.environ.setdefault('KERAS_BACKEND', 'jax')
  try:
    import keras
  except ModuleNotFoundError as error:
    if error.name == 'keras':
      raise ValueError(
        "Keras is not installed: pip install 'advjax[pretrained]'"
      ) from error
    # Keras imports what its backend needs, TensorFlow say.
    raise ValueError(_wrong(os.environ['KERAS_BACKEND'])) from error
  if keras.backend.backend() != 'jax':
    raise ValueError(_wrong(keras.backend.backend()))
  if keras.config.image_data_format() != 'channels_last':
    raise ValueError(
      f'image_data_format = {keras.config.image_data_format()!r} in the '
      "settings of Keras; allowed: 'channels_last'"
    )
  return keras


def _wrong(backend: str) -> str:
  return (
    f"KERAS_BACKEND = {backend!r}; allowed: 'jax', set before anything "
    'imports Keras'
  )
