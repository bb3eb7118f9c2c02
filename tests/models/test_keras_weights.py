"""Weight files of keras.applications, whole, without their head, or wrong."""

import functools
import logging
import shutil
import warnings

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from advjax.models import create_model
from advjax.models.keras import applications, weights
from advjax.models.keras.backend import import_keras

keras = import_keras()
MEMBER = keras.applications.MobileNetV2


def network(member=MEMBER, classes=4, seed=0):
  """A network as a user builds it in Keras, with weights of chance."""
  model = applications._without_values(
    lambda: applications._with_head(member, classes, (32, 32, 3))
  )
  random = np.random.default_rng(seed)
  for variable in model.variables:
    if variable.dtype == 'float32':
      variable.assign(random.uniform(0.5, 1, variable.shape))
  return model


def base_of(model):
  return keras.Model(model.inputs[0], model.layers[-3].output)


def create(file, classes=4, member=MEMBER):
  fields = {'architecture': member.__name__, 'weights': str(file)}
  return create_model({'name': 'keras', **fields}, classes)


def started(model):
  """What training starts from, and what was drawn."""
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), 'float32')
  )
  drawn = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes)
  return model.pretrained(*drawn)


def assert_weights(found, model, *, without_head):
  """Compares with the variables of a network, whose layers have our names."""
  arrays = {}
  for part in found:
    for layer, named in part.items():
      arrays |= {(layer, name): array for name, array in named.items()}
  head = model.layers[-1]
  expected = {}
  for layer in model.layers:
    for variable in layer.weights:
      value = np.asarray(variable.value)
      if layer is head:
        shape = arrays['dense', variable.name].shape
        value = np.full(shape, 7.0) if without_head else value
      expected['dense' if layer is head else layer.name, variable.name] = value
  assert arrays.keys() == expected.keys()
  for key, value in expected.items():
    assert isinstance(arrays[key], np.ndarray)
    assert_array_equal(arrays[key], value)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A network and its files."""
  folder = tmp_path_factory.mktemp('weights')
  model = network()
  with warnings.catch_warnings():
    # Of NumPy's about how Keras saves.
    warnings.simplefilter('ignore', DeprecationWarning)
    model.save_weights(folder / 'whole.weights.h5')
    model.save(folder / 'whole.keras')
    base_of(model).save_weights(folder / 'base.weights.h5')
  return model, folder


@pytest.mark.parametrize('name', ['whole.weights.h5', 'whole.keras'])
def test_whole_network(saved, name, caplog):
  model, folder = saved
  with caplog.at_level(logging.INFO, logger='advjax'):
    found = started(create(folder / name))
  assert_weights(found, model, without_head=False)
  assert not caplog.records


def test_values_are_those_when_training_starts(saved, tmp_path):
  model, folder = saved
  file = tmp_path / 'best.weights.h5'
  shutil.copy(folder / 'base.weights.h5', file)
  created = create(file)
  shutil.copy(folder / 'whole.weights.h5', file)
  assert_weights(started(created), model, without_head=False)
  file.unlink()
  with pytest.raises(ValueError, match='there is no such file'):
    started(created)


@pytest.mark.parametrize(
  ('name', 'classes'),
  [('whole.weights.h5', 5), ('whole.keras', 5), ('base.weights.h5', 4)],
)
def test_another_head_stays_random(saved, name, classes, caplog):
  model, folder = saved
  with caplog.at_level(logging.INFO, logger='advjax'):
    found = started(create(folder / name, classes))
  assert found[0]['dense']['kernel'].shape == (1280, classes)
  assert_weights(found, model, without_head=True)
  (record,) = caplog.records
  assert 'no weights that fit dense: random' in record.getMessage()


def test_legacy_file_without_top(saved, tmp_path):
  h5py = pytest.importorskip('h5py')
  model, _ = saved
  # As Keras 2 wrote them: layers by name, in the order of the network.
  with h5py.File(tmp_path / 'no_top.h5', 'w') as file:
    layers = [layer for layer in base_of(model).layers if layer.weights]
    file.attrs['layer_names'] = [layer.name.encode() for layer in layers]
    for layer in layers:
      group = file.create_group(layer.name)
      names = [variable.name.encode() for variable in layer.weights]
      group.attrs['weight_names'] = names
      for variable in layer.weights:
        group[variable.name] = np.asarray(variable.value)
  found = started(create(tmp_path / 'no_top.h5'))
  assert_weights(found, model, without_head=True)


def test_files_that_do_not_fit(saved, tmp_path):
  _, folder = saved
  other = keras.applications.MobileNet
  with pytest.raises(
    ValueError, match=r'does not fit MobileNet: .*could not be'
  ):
    create(folder / 'whole.weights.h5', member=other)
  with pytest.raises(
    ValueError, match=r'does not fit MobileNet: .*could not be'
  ):
    create(folder / 'whole.keras', member=other)
  for name in ('text.weights.h5', 'text.keras', 'text.h5'):
    (tmp_path / name).write_text('nothing')
    with pytest.raises(ValueError, match='does not fit MobileNetV2: '):
      create(tmp_path / name)


def test_download_without_network():
  built = applications.build('MobileNetV2', 4, 'float32', (224, 224, 3))

  def fails(error, **options):
    assert options['weights'] == 'imagenet'
    raise error

  for error in (OSError('no route'), Exception('URL fetch failure on x: -2')):
    with pytest.raises(ValueError, match='without network: the name of a wei'):
      weights.download(built, functools.partial(fails, error), (224, 224, 3))
  with pytest.raises(KeyError):  # Anything else is a mistake of ours.
    weights.download(built, functools.partial(fails, KeyError()), (32, 32, 3))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['MobileNetV2', 'EfficientNetB0'])
def test_imagenet_is_the_network_of_keras(name, monkeypatch, tmp_path):
  member = getattr(keras.applications, name)
  published = member(include_top=False, weights=None)
  random = np.random.default_rng(0)
  for variable in published.variables:
    if variable.name in ('gamma', 'moving_variance'):
      variable.assign(random.uniform(0.5, 1, variable.shape))
    elif variable.dtype == 'float32':
      scale = 0.1
      if len(variable.shape) > 1:
        scale = np.sqrt(2 / np.prod(variable.shape[:-1]))
      variable.assign(random.normal(0, scale, variable.shape))
  for layer in published.layers:
    if isinstance(layer, keras.layers.Normalization):
      # What the published files hold.
      layer.adapt_mean.assign([0.485, 0.456, 0.406])
      layer.adapt_variance.assign([0.229, 0.224, 0.225])
  file = str(tmp_path / 'published.weights.h5')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)
    published.save_weights(file)
  monkeypatch.setattr(
    'keras.src.utils.file_utils.get_file', lambda *_, **__: file
  )
  # A size for which Keras has no other weights.
  theirs = member(
    include_top=False, weights='imagenet', input_shape=(96, 96, 3)
  )
  images = random.uniform(size=(2, 96, 96, 3)).astype('float32')
  inputs = 255 * images if 'Efficient' in name else 2 * images - 1
  with jax.numpy_rank_promotion('allow'):
    expected = theirs(inputs, training=False)
  largest = np.abs(expected).max()
  assert np.std(expected) > 1e-3 * largest
  for source in ('imagenet', file):
    model = create(source, member=member)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    maps = model.features(*model.pretrained(*zeros), images)
    assert_allclose(maps / largest, expected / largest, atol=1e-4)
