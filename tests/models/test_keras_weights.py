"""Weight files of keras.applications, whole, without their head, or wrong."""

import functools
import logging

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


def assert_weights(found, model, without_head):
  """Compares with the variables of a network, whose names are its own."""
  params, state = found
  count = 0
  for part, trainable in ((params, True), (state, False)):
    for layer, named in part.items():
      for name, array in named.items():
        assert isinstance(array, np.ndarray)
        if layer == 'dense':
          variable = {'kernel': 0, 'bias': 1}[name]
          expected = model.layers[-1].get_weights()[variable]
        else:
          expected = np.asarray(getattr(model.get_layer(layer), name).value)
        if layer == 'dense' and without_head:
          expected = np.full_like(array, 7)
        assert_array_equal(array, expected)
        assert (
          getattr(model.get_layer(layer), name).trainable == trainable
          if (layer != 'dense')
          else trainable
        )
        count += array.size
  if not without_head:
    assert count == model.count_params()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A network and its files."""
  folder = tmp_path_factory.mktemp('weights')
  model = network()
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
      names = [variable.name for variable in layer.weights]
      group.attrs['weight_names'] = [name.encode() for name in names]
      for name, array in zip(names, layer.get_weights(), strict=True):
        group[name] = array
  found = started(create(tmp_path / 'no_top.h5'))
  assert_weights(found, model, without_head=True)


def test_files_that_do_not_fit(saved, tmp_path):
  _, folder = saved
  other = keras.applications.MobileNet
  with pytest.raises(ValueError, match='does not fit MobileNet: '):
    create(folder / 'whole.weights.h5', member=other)
  with pytest.raises(ValueError, match='does not fit MobileNet: '):
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
  source = member(include_top=False, weights=None, input_shape=(224, 224, 3))
  random = np.random.default_rng(0)
  for variable in source.variables:
    low = 0.5 if variable.name in ('gamma', 'moving_variance') else -0.1
    if variable.dtype == 'float32':
      variable.assign(random.uniform(low, -2 * low, variable.shape))
      if low > 0:
        variable.assign(random.uniform(low, 1, variable.shape))
  for layer in source.layers:
    if isinstance(layer, keras.layers.Normalization):
      # What the published files hold.
      layer.adapt_mean.assign([0.485, 0.456, 0.406])
      layer.adapt_variance.assign([0.229, 0.224, 0.225])
  file = tmp_path / 'published.weights.h5'
  source.save_weights(file)
  monkeypatch.setattr(
    'keras.src.utils.file_utils.get_file', lambda *_, **__: str(file)
  )
  theirs = (
    member(include_top=False, weights='imagenet', input_shape=(64, 64, 3))
    if name != 'MobileNetV2'
    else source
  )
  images = random.uniform(size=(2, 64, 64, 3)).astype('float32')
  if name == 'MobileNetV2':
    images = random.uniform(size=(2, 224, 224, 3)).astype('float32')
  inputs = 255 * images if 'Efficient' in name else 2 * images - 1
  with jax.numpy_rank_promotion('allow'):
    expected = theirs(inputs, training=False)
  for source in ('imagenet', str(file)):
    model = create(source, member=member)
    params, state = model.pretrained(*model.init(jax.random.key(0), images))
    maps = model.features(params, state, images)
    assert np.ptp(expected) > 1e-3
    assert_allclose(
      maps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
