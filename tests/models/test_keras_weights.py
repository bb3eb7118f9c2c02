"""Weight files of networks of keras.applications, and bfloat16."""

import functools
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from advjax.models import create_model, keras_applications
from tests.models import small_keras

keras = small_keras.keras


@pytest.fixture(scope='module', autouse=True)
def small_network():
  with small_keras.in_the_place_of():
    yield


def create(architecture='MobileNetV2', classes=4, **fields):
  config = {'name': 'keras', 'architecture': architecture, **fields}
  return create_model(config, classes)


@pytest.fixture(scope='module')
def saved(small_network, tmp_path_factory):
  """Random weights by layer and name, their files, and the network."""
  folder = tmp_path_factory.mktemp('weights')
  network = small_keras.save(folder, 4)
  weights = jax.tree.map(
    lambda variable: np.array(variable.value), (network.params, network.state)
  )
  # A run draws with its own seeds: those that are given.
  weights[1]['dropout']['seed_generator_state'][:] = 7
  return weights, folder, network


def given(classes=4):
  """Params and state before weights are read: 7 everywhere."""
  network = keras_applications.build(
    'MobileNetV2', classes, 'float32', (224, 224, 3)
  )
  return jax.tree.map(
    lambda variable: np.full(variable.shape, 7, variable.dtype),
    (network.params, network.state),
  )


def assert_weights(found, saved, *, without_head):
  """Compares with what was saved; the head may be as it was given."""
  if without_head:
    shapes = jax.tree.map(np.shape, found[0]['dense'])
    head = {name: np.full(shape, 7.0) for name, shape in shapes.items()}
    saved = {**saved[0], 'dense': head}, saved[1]
  jax.tree.map(assert_array_equal, found, saved)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_another_head_stays_random(saved, caplog):
  weights, folder, _ = saved
  model = create(classes=5, weights=str(folder / 'whole.keras'))
  with caplog.at_level(logging.INFO, logger='advjax'):
    found = model.pretrained(*given(classes=5))
  assert_weights(found, weights, without_head=True)
  message = 'no weights of the shapes of dense: initialised at random'
  assert message in caplog.text


def test_values_are_those_when_training_starts(saved, tmp_path):
  weights, folder, _ = saved
  file = tmp_path / 'best.weights.h5'
  shutil.copy(folder / 'base.weights.h5', file)
  model = create(weights=str(file))
  shutil.copy(folder / 'whole.weights.h5', file)
  assert_weights(model.pretrained(*given()), weights, without_head=False)
  file.unlink()
  with pytest.raises(ValueError, match='allowed: a file that exists'):
    model.pretrained(*given())


def test_legacy_file_without_top(saved, tmp_path):
  h5py = pytest.importorskip('h5py')
  weights, _, network = saved
  # As Keras 2 wrote them: layers by name, in the order of the network.
  with h5py.File(tmp_path / 'no_top.h5', 'w') as file:
    layers = [layer for layer in network.body.layers if layer.weights]
    file.attrs['layer_names'] = [layer.name.encode() for layer in layers]
    for layer in layers:
      group = file.create_group(layer.name)
      names = [variable.name.encode() for variable in layer.weights]
      group.attrs['weight_names'] = names
      for variable in layer.weights:
        group[variable.name] = np.asarray(variable.value)
  found = create(weights=str(tmp_path / 'no_top.h5')).pretrained(*given())
  assert_weights(found, weights, without_head=True)


def test_files_that_do_not_fit(saved, tmp_path):
  _, folder, _ = saved
  message = r'allowed: weights of MobileNet, .*do not fit: .*could not be'

  def deeper(**options):
    network = small_keras.small(**options)
    last = keras.layers.Conv2D(2, 3, name='third')(network.output)
    return keras.Model(network.inputs, last)

  with (
    small_keras.in_the_place_of('MobileNet', deeper),
    pytest.raises(ValueError, match=message),
  ):
    create('MobileNet', weights=str(folder / 'whole.weights.h5'))
  for name in ('text.weights.h5', 'text.keras', 'text.h5'):
    (tmp_path / name).write_text('nothing')
    with pytest.raises(ValueError, match='allowed: weights of MobileNetV2, '):
      create(weights=str(tmp_path / name))


def test_download_without_network(monkeypatch):
  model = create(weights='imagenet')

  def fails(error):
    def MobileNetV2(**options):
      assert options['weights'] == 'imagenet'
      raise error

    monkeypatch.setattr(keras.applications, 'MobileNetV2', MobileNetV2)

  for error in (OSError('no route'), Exception('URL fetch failure on x: -2')):
    fails(error)
    with pytest.raises(ValueError, match='allowed: the name of a weight file'):
      model.pretrained(*given())
  fails(KeyError())
  with pytest.raises(KeyError):  # Anything else is a mistake of ours.
    model.pretrained(*given())


def test_bfloat16_is_for_computing_alone():
  model = create(dtype='bfloat16')
  images = np.zeros((2, 8, 8, 3), np.float32)
  params, state = jax.eval_shape(model.init, jax.random.key(0), images)
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves((params, state))}
  assert dtypes == {'float32', 'uint32'}
  logits, updated = jax.eval_shape(
    functools.partial(model.apply, train=True), params, state, images
  )
  assert logits.dtype == jnp.float32
  assert jax.tree.map(str, updated) == jax.tree.map(str, state)
  maps = jax.eval_shape(model.features, params, state, images)
  assert maps.dtype == jnp.bfloat16
  assert keras.config.dtype_policy().name == 'float32'
