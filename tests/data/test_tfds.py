"""Sets of TensorFlow Datasets, on small ones that are prepared here."""

import http.server
import logging
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets import features as tf_features

from advjax import data
from advjax.data import tfds
from tests.data import tfds_sets
from tests.data.image_folders import encode

ROOT = pathlib.Path(__file__).parents[2]
needs_tensorflow = pytest.mark.skipif(
  not tfds._has_tensorflow(), reason='TensorFlow is not installed'
)
pytestmark = pytest.mark.usefixtures('home')


LABEL = tf_features.ClassLabel(names=tfds_sets.NAMES)
IMAGE = tf_features.Image(shape=(5, 4, 1))


@pytest.fixture
def with_tensorflow(monkeypatch):
  """As if TensorFlow were installed, and with no proxy in the way."""
  monkeypatch.setattr(tfds, '_has_tensorflow', lambda: True)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without_tensorflow(monkeypatch):
  monkeypatch.setattr(tfds, '_has_tensorflow', lambda: False)


def check_refused(data_dir, match, builder='pets', **fields):
  """Nothing is kept, nothing is touched, and the message says why."""
  before = tfds_sets.contents(data_dir)
  with pytest.raises(ValueError, match=match):
    tfds.load(builder, str(data_dir), **fields)
  assert tfds_sets.contents(data_dir) == before
  assert not [p for p in (data_dir.parent / 'cache').rglob('*.npz')]


# ----------------------------------------------------------------- what loads


def test_a_set_is_what_it_was_made_of(sets, caplog):
  caplog.set_level(logging.INFO, 'advjax')
  before = tfds_sets.contents(sets)
  fields = {'name': 'tfds', 'builder': 'pets', 'data_dir': str(sets)}
  for dataset in (data.load(fields), data.load(fields)):
    assert (dataset.name, dataset.num_classes) == ('pets', 3)
    assert dataset.class_names == tfds_sets.NAMES
    for split, num_images, seed in (
      (dataset.train, 30, 0),
      (dataset.test, 12, 1),
    ):
      images = tfds_sets.pixels(num_images, seed=seed)
      np.testing.assert_array_equal(split.images, images)
      np.testing.assert_array_equal(split.labels, tfds_sets.labels(num_images))
      assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
  assert tfds_sets.contents(sets) == before
  # The second time, nothing; then one new split.
  assert caplog.text.count('decoding') == 2
  tfds.load('pets', str(sets), train_split='train[:10]')
  assert 'decoding pets/1.0.0 train[:10] once: 10 images' in caplog.text
  assert caplog.text.count('decoding') == 3
  # Of a set that changed, both.
  (sets / 'pets' / '1.0.0' / 'pets-train.array_record-00000-of-00001').touch()
  tfds.load('pets', str(sets))
  assert caplog.text.count('decoding') == 5
  info = sets / 'pets' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('"30"', '"31"'))
  with pytest.raises(ValueError, match=r"'train'.*(cannot be read|30 images)"):
    tfds.load('pets', str(sets))


def test_pixels_are_those_of_tfds(tmp_path, monkeypatch):
  """Ours against `tfds.data_source` with its own decoder, for RGB JPEGs."""
  records = tfds_sets.examples(tfds_sets.pixels(8, (16, 12, 3)), 'JPEG')
  features = tfds_sets.default_features((None, None, 3))
  folder = tfds_sets.prepare(tmp_path, {'train': records}, features)
  dataset = tfds.load('pets', str(tmp_path), test_split='train')
  builder = tensorflow_datasets.builder_from_directory(folder)
  monkeypatch.setattr(logging.getLogger('absl'), 'disabled', True)
  theirs = [record['image'] for record in builder.as_data_source('train')]
  np.testing.assert_array_equal(dataset.train.images, np.stack(theirs))


def test_slices_and_sums(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds, '_BLOCK', 4)
  tfds_sets.prepare_pets(tmp_path, num_shards=3)
  every = [tfds_sets.pixels(30), tfds_sets.pixels(12, seed=1)]
  images = np.concatenate(every)
  labels = np.concatenate([tfds_sets.labels(30), tfds_sets.labels(12)])
  for split, rows in (
    ('train[:90%]', range(27)),
    ('train[5:9]', range(5, 9)),
    ('train[-4:]', range(26, 30)),
    ('train[:50%]+test[:3]', [*range(15), *range(30, 33)]),
    ('all', range(42)),
  ):
    dataset = tfds.load('pets', str(tmp_path), train_split=split)
    np.testing.assert_array_equal(dataset.train.images, images[list(rows)])
    np.testing.assert_array_equal(dataset.train.labels, labels[list(rows)])


def test_versions_and_configs_by_name(tmp_path):
  for config, version, count in (
    ('small', '1.0.9', 3),
    ('small', '1.0.10', 4),
    ('large', '2.0.0', 5),
  ):
    records = tfds_sets.examples(tfds_sets.pixels(count))
    splits = {'train': records}
    tfds_sets.prepare(tmp_path, splits, config=config, version=version)
  # TFDS itself notes which config is the default: here, the last one.
  for name, count in (
    ('pets', 5),
    ('pets/small', 4),
    ('pets/small:1.0.9', 3),
    ('pets/small:1.*.*', 4),
    ('pets:2.0.*', 5),
  ):
    dataset = tfds.load(name, str(tmp_path), test_split='train')
    assert (dataset.name, len(dataset.train.labels)) == ('pets', count)
  there = r'pets/large:2\.0\.0, pets/small:1\.0\.9, pets/small:1\.0\.10\. Set'
  for name in ('pets/huge', 'pets:4.*.*', 'pets/small:2.0.0'):
    with pytest.raises(ValueError, match=f'allowed: .*: {there}'):
      tfds.load(name, str(tmp_path))
  for inside in ('pets', 'pets/small'):
    with pytest.raises(ValueError, match=r'holds the sets.*not one inside'):
      tfds.load('pets', str(tmp_path / inside))


def test_the_set_says_which_of_its_features_to_use(tmp_path):
  image, mask = tfds_sets.pixels(2)
  features = {
    **tfds_sets.default_features(),
    'mask': IMAGE,
    'breed': tf_features.ClassLabel(num_classes=2),
    'text': tf_features.Text(),
  }
  record = {
    'image': encode(image[..., 0]),
    'mask': encode(mask[..., 0]),
    'label': 2,
    'breed': 1,
    'text': 'a cat',
  }

  def load(name, keys):
    splits = {'train': [record]}
    prepare = tfds_sets.prepare
    prepare(tmp_path, splits, features, name, supervised_keys=keys)
    return tfds.load(name, str(tmp_path), test_split='train')

  for keys, expected, label, num_classes in (
    (('image', 'label'), image, 2, 3),
    (('mask', 'breed'), mask, 1, 2),
  ):
    dataset = load(f'{keys[0]}s', keys)
    np.testing.assert_array_equal(dataset.train.images[0], expected)
    np.testing.assert_array_equal(dataset.train.labels, [label])
    assert dataset.num_classes == num_classes
  message = r'mask \(Image\).*; allowed: one Image feature, not 2'
  with pytest.raises(ValueError, match=message):
    load('unsaid', None)


def test_a_second_start_imports_no_tfds(sets):
  total = int(tfds.load('pets', str(sets)).train.images.sum())
  program = f"""
import sys
from advjax.data import tfds
assert tfds.load('pets', {str(sets)!r}).train.images.sum() == {total}
assert not {{'tensorflow', 'tensorflow_datasets'}}.intersection(sys.modules)
"""
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  subprocess.run([sys.executable, '-c', program], env=environment, check=True)


def test_mnist(tmp_path):
  """Facts that MNIST is known by."""
  data_dir = os.environ.get('ADVJAX_TFDS_DATA_DIR')
  if not data_dir:
    pytest.skip('ADVJAX_TFDS_DATA_DIR names no folder with mnist')
  dataset = tfds.load('mnist', data_dir)
  assert dataset.train.images.shape == (60_000, 28, 28, 1)
  counts = np.bincount(dataset.test.labels).tolist()
  assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  pixels = dataset.train.images / 255.0
  assert pixels.mean() == pytest.approx(0.1307, abs=5e-5)
  assert pixels.std() == pytest.approx(0.3081, abs=5e-5)


# ------------------------------------------- sets to prepare, and TensorFlow


class AdvjaxMadeUp(tensorflow_datasets.core.GeneratorBasedBuilder):
  """A set of TFDS that takes no TensorFlow to prepare."""

  code_path = None
  VERSION = tensorflow_datasets.core.Version('2.0.0')

  def _info(self):
    features = tf_features.FeaturesDict(tfds_sets.default_features())
    return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    if 'offline' in str(self.data_dir):
      raise ConnectionError('no route to host')
    return {
      split: enumerate(tfds_sets.examples(tfds_sets.pixels(6)))
      for split in ('train', 'test')
    }

  def _generate_examples(self):
    raise NotImplementedError


def test_a_set_that_is_not_there_is_prepared(
  sets, with_tensorflow, monkeypatch
):
  """It is if one of its hosts answers, whatever it says; port 9 is silent."""
  before = tfds_sets.contents(sets)
  handler = http.server.BaseHTTPRequestHandler  # Answers with an error.
  monkeypatch.setattr(handler, 'log_message', lambda *args: None)
  with http.server.HTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    ports = (9, server.server_port)
    urls = {f'http://127.0.0.1:{port}/images': None for port in ports}
    monkeypatch.setattr(AdvjaxMadeUp, 'url_infos', urls)
    dataset = tfds.load('advjax_made_up', str(sets))
    thread.join()
  assert len(dataset.train.labels) == 6
  folder = sets / 'advjax_made_up' / '2.0.0'
  assert len(list(folder.glob('*.array_record*'))) == 2
  assert {path: tfds_sets.contents(sets)[path] for path in before} == before


def test_a_set_that_cannot_be_prepared(tmp_path, with_tensorflow, monkeypatch):
  offline = tmp_path / 'offline'
  offline.mkdir()
  for builder, message in (
    ('advjax_made_up', r'\(no route to host\)\. Set config'),
    ('no_such_set', 'or one of TFDS'),
  ):
    check_refused(offline, message, builder)
  # Without a network, no time is spent.
  urls = {'http://127.0.0.1:9/images': None, 'ftp://127.0.0.1/images': None}
  monkeypatch.setattr(AdvjaxMadeUp, 'url_infos', urls)
  message = r'could not prepare it \(cannot reach 127\.0\.0\.1:9\)'
  check_refused(tmp_path, message, 'advjax_made_up')


def test_a_missing_set_names_two_ways_out(sets, without_tensorflow):
  message = (
    r"'mnist'; allowed: a set that .*: pets:1\.0\.0\. Set "
    r'config\.dataset\.data_dir to .*pip install tensorflow-cpu'
  )
  check_refused(sets, message, 'mnist')
  with pytest.raises(ValueError, match=r'prepared in .*: none') as error:
    tfds.load('mnist')
  home = sets.parent / 'home'
  assert str(home / 'tensorflow_datasets') in str(error.value)
  assert not home.exists()


def test_tfrecord_takes_tensorflow(sets, without_tensorflow):
  info = sets / 'pets' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  check_refused(
    sets,
    r'prepared as tfrecord, which takes TensorFlow to read\. Install it '
    r"\(.*tensorflow-cpu.*\); or prepare .*file_format='array_rec",
  )


@needs_tensorflow
def test_tfrecord_gives_the_same(tmp_path):
  for name in ('tfrecord', 'array_record'):
    tfds_sets.prepare_pets(tmp_path / name, file_format=name, num_shards=3)
  one, other = (
    tfds.load('pets', str(tmp_path / name), train_split='train[5:20]+test[:3]')
    for name in ('tfrecord', 'array_record')
  )
  np.testing.assert_array_equal(one.train.images, other.train.images)
  np.testing.assert_array_equal(one.train.labels, other.train.labels)
  file = sorted((tmp_path / 'tfrecord').rglob('pets-train*'))[0]
  os.truncate(file, file.stat().st_size - 50)
  with pytest.raises(ValueError, match="files of split 'train' cannot be read"):
    tfds.load('pets', str(tmp_path / 'tfrecord'))


# ------------------------------------------------------------- what is refused


def test_other_names_are_refused():
  for name in ('Mnist', 'a b', 'mnist:3', 'mnist/', '../mnist', 'a/b/c'):
    message = rf'builder = {name!r}; allowed: NAME\[/CONFIG\]'
    with pytest.raises(ValueError, match=message):
      tfds.load(name)


def test_data_dir(sets, monkeypatch):
  for data_dir in ('', '/no/such/folder', __file__):
    with pytest.raises(
      ValueError, match=r'^data_dir = .*; allowed: the folder'
    ):
      tfds.load('pets', data_dir)
  monkeypatch.chdir(sets.parent)
  monkeypatch.setenv('TFDS_DATA_DIR', str(sets))
  assert tfds.load('pets', 'sets').class_names == tfds.load('pets').class_names


@pytest.mark.parametrize(
  ('name', 'how', 'message'),
  [
    ('dataset_info.json', 'gone', 'incomplete, it lacks dataset_info.json'),
    ('features.json', 'gone', 'incomplete, it lacks features.json'),
    ('dataset_info.json', 'cut', r'dataset_info.json or .* is damaged'),
    ('features.json', 'cut', r'features.json is damaged'),
    ('*-train*', 'gone', r"1 of the files of train_split = 'train' are miss"),
    ('*-test*', 'gone', r"1 of the files of test_split = 'test' are missing"),
    ('*-train*', 'cut', r"files of split 'train' cannot be read"),
    ('*-train*', 'empty', r"files of split 'train' cannot be read"),
  ],
)
def test_damaged_sets(sets, name, how, message):
  (file,) = (sets / 'pets' / '1.0.0').glob(name)
  if how == 'gone':
    file.unlink()
  else:
    os.truncate(file, 0 if how == 'empty' else file.stat().st_size * 2 // 3)
  check_refused(sets, message)


def test_wrong_splits(sets):
  for field in ('train_split', 'test_split'):
    for split, message in (
      ('dev', "'dev': Unknown split 'dev'.*allowed: train, test, slices"),
      ('train[:', 'Unrecognized split format'),
      ('train[:200%]', 'should be in'),
      ('train[9:3]', 'allowed: at least one image'),
      ('test+train[9:3]', 'allowed: at least one image'),
    ):
      check_refused(sets, f'{field} = .*{message}', **{field: split})


DEEP = tf_features.Image(shape=(5, 4, 1), dtype=np.uint16)
UNKNOWN = tf_features.Image(shape=(5, 4, 0))
PNG = encode(tfds_sets.pixels(1)[0, ..., 0])
DEEP_PNG = encode(np.zeros((5, 4), np.uint16))


@pytest.mark.parametrize(
  ('name', 'feature', 'value', 'label', 'message'),
  [
    ('text', tf_features.Text(), 'a cat', LABEL, r'text \(Text\).*not none'),
    ('clip', tf_features.Sequence(IMAGE), [PNG], LABEL, r'clip \(Sequence\)'),
    ('image', IMAGE, PNG, tf_features.Scalar(np.int64), r'label \(Scalar\)'),
    ('image', DEEP, DEEP_PNG, LABEL, 'image is uint16 of .*; allowed: uint8'),
    ('image', UNKNOWN, PNG, LABEL, r'\(5, 4, 0\); allowed: .* 1 to 4 channels'),
    ('image', IMAGE, PNG[:-30], LABEL, 'train: image 0 cannot be decoded'),
  ],
)
def test_sets_of_another_kind(tmp_path, name, feature, value, label, message):
  records = [{name: value, 'label': 0}]
  splits = {'train': records, 'test': records}
  features = {name: feature, 'label': label}
  tfds_sets.prepare(tmp_path / 'sets', splits, features)
  check_refused(tmp_path / 'sets', message)


def test_labels_that_are_hidden(tmp_path):
  records = tfds_sets.examples(tfds_sets.pixels(2))
  hidden = [{**record, 'label': -1} for record in records]
  tfds_sets.prepare(tmp_path, {'train': hidden, 'test': records})
  with pytest.raises(ValueError, match='image 0 has the label -1; allowed: 0'):
    tfds.load('pets', str(tmp_path))


def test_images_of_several_sizes(tmp_path):
  records = tfds_sets.examples(tfds_sets.pixels(4))
  other = tfds_sets.examples(tfds_sets.pixels(1, (7, 6, 1)))
  features = tfds_sets.default_features((None, None, 1))
  for name, train, message in (
    (
      'one',
      [*records, *other],
      r'train: image 4 is 7 x 6 .*allowed: 5 x 4.*npz',
    ),
    ('two', records, r'\(7, 6, 1\); allowed: that of train_split.*\(5, 4, 1\)'),
  ):
    splits = {'train': train, 'test': other}
    tfds_sets.prepare(tmp_path, splits, features, name=name)
    with pytest.raises(ValueError, match=message):
      tfds.load(name, str(tmp_path))
