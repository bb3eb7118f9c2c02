"""Tests of loading sets of TensorFlow Datasets, on small ones prepared here."""

import io
import logging
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets

from advjax import data
from advjax.config import default_config
from advjax.data import records, tfds
from advjax.training.setup import create_run, device_inputs
from tests.data import tfds_sets

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures('home')


# ------------------------------------------------------------------ what loads


def test_a_set_is_what_it_was_made_of(sets):
  before = tfds_sets.contents(sets)
  dataset = data.load(
    {'name': 'tfds', 'builder': 'pets', 'data_dir': str(sets)}
  )
  assert (dataset.name, dataset.num_classes) == ('pets', 3)
  assert dataset.class_names == tfds_sets.NAMES
  for split, num_images, seed in (
    (dataset.train, 30, 0),
    (dataset.test, 12, 1),
  ):
    images = tfds_sets.pixels(num_images, seed=seed)
    np.testing.assert_array_equal(split.images, images)
    assert split.images.dtype == np.uint8
    np.testing.assert_array_equal(split.labels, tfds_sets.labels_of(num_images))
    assert split.labels.dtype == np.int32
  assert tfds_sets.contents(sets) == before


def test_pixels_are_those_of_tfds(tmp_path, monkeypatch):
  """Ours against `tfds.data_source` with its own decoder, for RGB JPEGs."""
  images = tfds_sets.pixels(8, (16, 12, 3))
  splits = {
    'train': [
      {'image': tfds_sets.encode(image, 'JPEG'), 'label': 0} for image in images
    ]
  }
  features = tfds_sets.default_features((None, None, 3))
  tfds_sets.prepare(tmp_path / 'sets', splits, features)
  dataset = tfds.load('pets', str(tmp_path / 'sets'), test_split='train')
  builder = tensorflow_datasets.builder_from_directory(
    tmp_path / 'sets' / 'pets' / '1.0.0'
  )
  monkeypatch.setattr(logging.getLogger('absl'), 'disabled', True)
  theirs = [record['image'] for record in builder.as_data_source('train')]
  np.testing.assert_array_equal(dataset.train.images, np.stack(theirs))


@pytest.mark.parametrize(
  ('split', 'rows'),
  [
    ('train[:90%]', range(27)),
    ('train[90%:]', range(27, 30)),
    ('train[5:9]', range(5, 9)),
    ('train[-4:]', range(26, 30)),
    ('train[:50%]+test[:3]', [*range(15), *range(30, 33)]),
    ('all', range(42)),
  ],
)
@pytest.mark.parametrize('num_shards', [1, 3])
def test_slices_and_sums(tmp_path, monkeypatch, split, rows, num_shards):
  monkeypatch.setattr(records, '_BLOCK', 4)
  tfds_sets.prepare_pets(tmp_path / 'sets', num_shards=num_shards)
  dataset = tfds.load('pets', str(tmp_path / 'sets'), train_split=split)
  every = [tfds_sets.pixels(30), tfds_sets.pixels(12, seed=1)]
  images = np.concatenate(every)[list(rows)]
  labels = np.concatenate([tfds_sets.labels_of(30), tfds_sets.labels_of(12)])[
    list(rows)
  ]
  np.testing.assert_array_equal(dataset.train.images, images)
  np.testing.assert_array_equal(dataset.train.labels, labels)
  assert len(dataset.test.labels) == 12


def test_versions_and_configs_by_name(tmp_path):
  first = tfds_sets.examples(tfds_sets.pixels(3))
  second = tfds_sets.examples(tfds_sets.pixels(4))
  for version, records_ in (('1.0.0', first), ('1.2.0', second)):
    tfds_sets.prepare(
      tmp_path, {'train': records_}, config='small', version=version
    )
  for name, num_images in (
    ('pets', 4),
    ('pets/small', 4),
    ('pets/small:1.0.0', 3),
    ('pets:1.0.*', 3),
  ):
    dataset = tfds.load(name, str(tmp_path), test_split='train')
    assert (dataset.name, len(dataset.train.labels)) == ('pets', num_images)


def test_the_set_says_which_of_its_features_to_use(tmp_path):
  (image,) = tfds_sets.pixels(1)
  (mask,) = tfds_sets.pixels(1, (9, 9, 1), seed=1)
  features = {
    **tfds_sets.default_features(),
    'mask': tensorflow_datasets.features.Image(shape=(9, 9, 1)),
    'breed': tensorflow_datasets.features.ClassLabel(num_classes=2),
    'text': tensorflow_datasets.features.Text(),
  }
  record = {
    'image': tfds_sets.encode(image),
    'mask': tfds_sets.encode(mask),
    'label': 2,
    'breed': 1,
    'text': 'a cat',
  }
  splits = {'train': [record]}
  for name, keys, expected, label, num_classes in (
    ('pets', ('image', 'label'), image, 2, 3),
    ('masks', ('mask', 'breed'), mask, 1, 2),
  ):
    tfds_sets.prepare(
      tmp_path, splits, features, name=name, supervised_keys=keys
    )
    dataset = tfds.load(name, str(tmp_path), test_split='train')
    np.testing.assert_array_equal(dataset.train.images[0], expected)
    np.testing.assert_array_equal(dataset.train.labels, [label])
    assert dataset.num_classes == num_classes
  tfds_sets.prepare(tmp_path, splits, features, name='unsaid')
  with pytest.raises(
    ValueError, match=r'one Image feature; this one has 2: .*mask \(Image\)'
  ):
    tfds.load('unsaid', str(tmp_path), test_split='train')


def test_config_fields_and_classes(sets):
  config = default_config()
  config.lock()
  config.dataset.update(
    name='tfds',
    builder='pets:1.*.*',
    data_dir=str(sets),
    train_split='train[:20]',
    test_split='train[20:]',
    cache_dir=str(sets.parent / 'elsewhere'),
    classes=(2, 0),
  )
  dataset = data.load(config.dataset)
  images, labels = tfds_sets.pixels(30), tfds_sets.labels_of(30)
  kept = np.isin(labels, (0, 2))
  np.testing.assert_array_equal(dataset.train.images, images[:20][kept[:20]])
  np.testing.assert_array_equal(dataset.test.images, images[20:][kept[20:]])
  assert dataset.class_names == ('owl', 'cat')
  assert (sets.parent / 'elsewhere').is_dir()
  assert not (sets.parent / 'cache').exists()


def test_it_trains(sets):
  """Memory-mapped images reach the devices, and can be held out."""
  dataset = tfds.load('pets', str(sets))
  config = default_config()
  config.model = {'name': 'logistic_regression'}
  config.num_validation = 5
  training = create_run(config, dataset, jax.devices()[:1])
  on_device, _ = device_inputs(training)
  images = tfds_sets.pixels(30)
  np.testing.assert_array_equal(np.asarray(on_device['image']), images)
  held_out = [bytes(image) for image in training.monitor_split.images]
  assert len(set(held_out)) == 5
  assert set(held_out) <= {bytes(image) for image in images}


def test_no_tensorflow_and_on_a_second_start_no_tfds(sets):
  program = f"""
import sys
from advjax import data
dataset = data.load(
  {{'name': 'tfds', 'builder': 'pets', 'data_dir': {str(sets)!r}}}
)
assert 'tensorflow' not in sys.modules
print(int(dataset.train.images.sum()), 'tensorflow_datasets' in sys.modules)
"""
  outputs = [
    subprocess.run(
      [sys.executable, '-c', program],
      env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      check=True,
      text=True,
      timeout=120,
    ).stdout
    for _ in range(2)
  ]
  total = int(tfds_sets.pixels(30).sum())
  assert outputs == [f'{total} True\n', f'{total} False\n']


# ------------------------------------------------------------------- the cache


def test_a_second_load_decodes_nothing(sets, decoded):
  first = tfds.load('pets', str(sets))
  assert decoded == ['train', 'test']
  second = tfds.load('pets', str(sets))
  assert decoded == ['train', 'test']
  for one, other in zip(
    (*first.train, *first.test), (*second.train, *second.test), strict=True
  ):
    np.testing.assert_array_equal(one, other)
  assert second.class_names == first.class_names
  # One new split, one known.
  tfds.load('pets', str(sets), train_split='train[:10]')
  assert decoded == ['train', 'test', 'train[:10]']


def test_a_changed_set_is_decoded_anew(sets, decoded, tmp_path):
  tfds.load('pets', str(sets))
  images = tfds_sets.pixels(30, seed=7)
  records_ = tfds_sets.examples(images)
  made = tfds_sets.prepare(tmp_path / 'new', {'train': records_})
  name = 'pets-train.array_record-00000-of-00001'
  os.replace(made / name, sets / 'pets' / '1.0.0' / name)
  dataset = tfds.load('pets', str(sets))
  np.testing.assert_array_equal(dataset.train.images, images)
  assert decoded == ['train', 'test', 'train', 'test']
  # The former entries have gone.
  cache = tmp_path / 'cache' / 'advjax' / 'datasets'
  assert len(list(cache.glob('*/*/entry.json'))) == 2


def test_a_newer_version_is_taken(sets, decoded):
  tfds.load('pets', str(sets))
  records_ = tfds_sets.examples(tfds_sets.pixels(5))
  splits = {'train': records_, 'test': records_}
  tfds_sets.prepare(sets, splits, version='1.0.1')
  assert len(tfds.load('pets', str(sets)).train.labels) == 5
  assert len(tfds.load('pets:1.0.0', str(sets)).train.labels) == 30
  assert decoded == ['train', 'test'] * 2


def test_a_damaged_cache_is_an_error(sets, tmp_path):
  tfds.load('pets', str(sets))
  cache = tmp_path / 'cache' / 'advjax' / 'datasets'
  (file,) = cache.glob('pets-test-*/*/images.npy')
  content = bytearray(file.read_bytes())
  content[-1] ^= 255
  file.write_bytes(content)
  before = tfds_sets.contents(tmp_path)
  with pytest.raises(ValueError, match='the cache is damaged') as error:
    tfds.load('pets', str(sets))
  assert str(file) in str(error.value)
  assert tfds_sets.contents(tmp_path) == before


def test_progress_is_shown_on_a_terminal_else_logged(sets, monkeypatch, caplog):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  with caplog.at_level(logging.INFO, 'advjax'):
    tfds.load('pets', str(sets))
  assert 'decoding pets/1.0.0 train: 100%' in terminal.getvalue()
  assert '30/30' in terminal.getvalue()
  assert 'decoding pets/1.0.0 test once: 12 images' in caplog.text


# ------------------------------------------------------------------ real images


def test_mnist(tmp_path):
  """Facts that MNIST is known by."""
  data_dir = os.environ.get('ADVJAX_TFDS_DATA_DIR')
  if not data_dir:
    pytest.skip('ADVJAX_TFDS_DATA_DIR names no folder with mnist')
  dataset = tfds.load('mnist', data_dir)
  assert dataset.train.images.shape == (60_000, 28, 28, 1)
  assert dataset.test.images.shape == (10_000, 28, 28, 1)
  counts = np.bincount(dataset.test.labels)
  assert counts.tolist() == [
    980,
    1135,
    1032,
    1010,
    982,
    892,
    958,
    1028,
    974,
    1009,
  ]
  pixels = dataset.train.images / 255.0
  assert pixels.mean() == pytest.approx(0.1307, abs=5e-5)
  assert pixels.std() == pytest.approx(0.3081, abs=5e-5)
