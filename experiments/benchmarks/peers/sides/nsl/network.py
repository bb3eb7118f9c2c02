"""The tutorial's network in Keras, with weights by the names of Flax."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# Keras' names of BatchNorm's arrays, and Flax's.
_NAMES = {
  'gamma': 'scale',
  'beta': 'bias',
  'moving_mean': 'mean',
  'moving_variance': 'var',
}
Arrays = dict[str, Any]


def build(network: str) -> tf.keras.Model:
  """The tutorial's network: 'cnn', 'cnn_bn', or 'cnn_features' on two inputs.

  BatchNorm has the epsilon and momentum of Flax, and stands before the ReLU.
  It is not fused: TensorFlow's fused kernel records the variance of n values
  with n / (n - 1), Keras' own code and Flax without.
  """
  layers = tf.keras.layers
  if network == 'cnn_features':
    inputs = [
      tf.keras.Input((28, 14, 1), name=name) for name in ('left', 'right')
    ]
    hidden = layers.Concatenate(axis=2)(inputs)
  else:
    inputs = hidden = tf.keras.Input((28, 28, 1), name='image')
  for index, filters in enumerate((32, 64, 64)):
    if network == 'cnn_bn':
      hidden = layers.Conv2D(filters, (3, 3), name=f'Conv_{index}')(hidden)
      hidden = layers.BatchNormalization(
        momentum=0.99, epsilon=1e-5, fused=False, name=f'BatchNorm_{index}'
      )(hidden)
      hidden = layers.ReLU()(hidden)
    else:
      hidden = layers.Conv2D(
        filters, (3, 3), activation='relu', name=f'Conv_{index}'
      )(hidden)
    if index < 2:
      hidden = layers.MaxPooling2D((2, 2))(hidden)
  hidden = layers.Flatten()(hidden)
  hidden = layers.Dense(64, activation='relu', name='Dense_0')(hidden)
  logits = layers.Dense(10, name='Dense_1')(hidden)
  return tf.keras.Model(inputs, logits)


def name_of(variable: tf.Variable) -> str:
  layer, name = variable.name.split(':')[0].split('/')[-2:]
  return f'{layer}/{_NAMES.get(name, name)}'


def set_weights(model: tf.keras.Model, arrays: Arrays, prefix: str) -> None:
  for variable in model.variables:
    variable.assign(arrays[prefix + name_of(variable)])


def loss_fn() -> tf.keras.losses.Loss:
  return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
