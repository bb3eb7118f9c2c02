"""Keras models, fields, images and installations that are refused."""

import ast
import pathlib
import sys

import jax
import numpy as np
import pytest

import advjax
from advjax.models import create_model, from_keras
from advjax.models.keras.backend import import_keras

keras = import_keras()


def test_models_that_are_no_classifiers():
  with pytest.raises(ValueError, match=r'allowed: a keras\.Model'):
    from_keras(lambda images: images)
  with pytest.raises(ValueError, match='no weights yet: call it on a batch'):
    from_keras(keras.Sequential([keras.layers.Dense(3)]))
  inputs = keras.Input((4,))
  softmax = keras.layers.Dense(3, activation='softmax', name='said')(inputs)
  with pytest.raises(ValueError, match="'said' returns probabilities"):
    from_keras(keras.Model(inputs, softmax))

  class Own(keras.Model):
    def build(self, shape):
      self.own = self.add_weight(shape=(3,), name='own')

    def call(self, images):
      return images + self.own

  own = Own()
  own.build((1, 3))
  with pytest.raises(ValueError, match=r'own.* belongs to no layer'):
    from_keras(own).init(jax.random.key(0), np.zeros((1, 3)))


def test_keras_is_optional(monkeypatch):
  for file in pathlib.Path(advjax.__file__).parent.rglob('*.py'):
    for node in ast.parse(file.read_text()).body:
      if isinstance(node, (ast.Import, ast.ImportFrom)):
        assert not ast.unparse(node).startswith(('import keras', 'from keras'))
  monkeypatch.setitem(sys.modules, 'keras', None)
  with pytest.raises(ValueError, match=r"pip install 'advjax\[pretrained\]'"):
    import_keras()


def test_another_backend_is_an_error(monkeypatch):
  monkeypatch.setattr(keras.backend, 'backend', lambda: 'torch')
  with pytest.raises(ValueError, match="'torch'; allowed: 'jax', set before"):
    import_keras()
  monkeypatch.undo()
  monkeypatch.setattr(
    keras.config, 'image_data_format', lambda: 'channels_first'
  )
  with pytest.raises(ValueError, match="allowed: 'channels_last'"):
    import_keras()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'architecture': 'MobileNet2'}, "did you mean 'MobileNetV2'"),
    ({'dtype': 'float16'}, 'unknown dtype'),
    ({'alpha': 0.5}, "unknown field of model keras 'alpha'"),
    ({'weights': 'nothing.weights.h5'}, 'there is no such file'),
    ({'weights': 'imagnet'}, "allowed: 'random', 'imagenet' or a file"),
  ],
)
def test_wrong_fields(fields, message):
  with pytest.raises(ValueError, match=message):
    create_model({'name': 'keras', **fields}, 4)


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((16, 16, 3), 'at least 32x32'),
    ((32, 32, 1), r'allowed: \[height, width, 3\]'),
    ((32, 3), r'allowed: \[height, width, 3\]'),
  ],
)
def test_images_that_it_does_not_take(shape, message):
  model = create_model({'name': 'keras'}, 4)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *shape)))
