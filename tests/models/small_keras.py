"""A small network of Keras in the place of a large one."""

import contextlib
import warnings

import numpy as np
import pytest

from advjax.models import keras_applications
from advjax.models.keras import import_keras

keras = import_keras()
layers = keras.layers


def preprocess_input(images):
  """Where `keras.applications` has it: in the module of the network."""
  return images / 127.5 - 1


def small(include_top, weights, input_shape):
  """Two resolutions, BatchNorm and dropout."""
  assert not include_top and weights is None
  inputs = keras.Input(input_shape)
  x = inputs
  for name, strides in (('first', 1), ('second', 2)):
    x = layers.Conv2D(4, 3, strides, padding='same', name=name)(x)
    x = layers.BatchNormalization(name=f'{name}_norm')(x)
    x = layers.ReLU()(x)
  return keras.Model(inputs, layers.Dropout(0.2, name='dropout')(x))


@contextlib.contextmanager
def in_the_place_of(architecture='MobileNetV2', network=small):
  """Changes `keras.applications`."""
  keras_applications.build.cache_clear()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(keras.applications, architecture, network)
    yield
  keras_applications.build.cache_clear()


def save(folder, num_classes):
  """Writes `whole.weights.h5` and others of random values; the network."""
  network = keras_applications.build(
    'MobileNetV2', num_classes, 'float32', (32, 32, 3)
  )
  random = np.random.default_rng(0)
  for variable in network.model.variables:
    if variable.dtype == 'float32':
      variable.assign(random.uniform(0.2, 1, variable.shape))
  with warnings.catch_warnings():
    # Of NumPy's about how Keras saves.
    warnings.simplefilter('ignore', DeprecationWarning)
    network.model.save_weights(folder / 'whole.weights.h5')
    network.model.save(folder / 'whole.keras')
    network.body.save_weights(folder / 'base.weights.h5')
  return network
