"""Tests of loading sets of TensorFlow Datasets, on small ones prepared here."""

import http.server
import io
import json
import logging
import os
import pathlib
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from advjax import data
from advjax.config import default_config
from advjax.data import records, tfds
from advjax.training.setup import create_training, device_inputs
from tests.data import tfds_sets

ROOT = pathlib.Path(__file__).parents[2]
needs_tensorflow = pytest.mark.skipif(
  not records.has_tensorflow(), reason='TensorFlow is not installed'
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Nothing of a test's goes to the user's own folders."""
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  return tmp_path


@pytest.fixture
def sets(tmp_path):
  """A data_dir with `pets`: 30 and 12 grey images of 5 x 4."""
  tfds_sets.prepare_pets(tmp_path / 'sets')
  return tmp_path / 'sets'


@pytest.fixture
def decoded(monkeypatch):
  """A list that gets the name of every split that is decoded."""
  names = []
  decode = records.decode

  def counted(builder, features, split, num_images):
    names.append(split)
    return decode(builder, features, split, num_images)

  monkeypatch.setattr(records, 'decode', counted)
  return names


def no_tensorflow(monkeypatch):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: False)


def labels_of(num_images):
  return np.arange(num_images) % len(tfds_sets.NAMES)


def contents(folder):
  """Every file of a folder with all that could tell that it was touched."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in folder.rglob('*')
    if path.is_file()
  }


# ------------------------------------------------------------------ what loads


def test_a_set_is_what_it_was_made_of(sets):
  before = contents(sets)
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
    np.testing.assert_array_equal(split.labels, labels_of(num_images))
    assert split.labels.dtype == np.int32
  assert contents(sets) == before


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
  labels = np.concatenate([labels_of(30), labels_of(12)])[list(rows)]
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
  images, labels = tfds_sets.pixels(30), labels_of(30)
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
  training = create_training(config, dataset, jax.devices()[:1])
  on_device, _ = device_inputs([training])
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
  before = contents(tmp_path)
  with pytest.raises(ValueError, match='the cache is damaged') as error:
    tfds.load('pets', str(sets))
  assert str(file) in str(error.value)
  assert contents(tmp_path) == before


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


# ------------------------------------------------------------- what is refused


def load_pets(data_dir, **fields):
  return tfds.load('pets', str(data_dir), **fields)


def check_refused(data_dir, match, **fields):
  """Nothing is decoded, nothing is touched, and the message says why."""
  before = contents(data_dir)
  with pytest.raises(ValueError, match=match):
    load_pets(data_dir, **fields)
  assert contents(data_dir) == before
  assert not (data_dir.parent / 'cache' / 'advjax').exists()


def test_a_set_that_is_not_there(sets, monkeypatch):
  no_tensorflow(monkeypatch)
  with pytest.raises(
    ValueError,
    match=r"'mnist': no such set .*prepared there: pets:1\.0\.0\. Two ways "
    r'out: point config\.dataset\.data_dir at .*pip install tensorflow-cpu',
  ) as error:
    tfds.load('mnist', str(sets))
  assert str(sets) in str(error.value)


def test_the_default_folder_need_not_be_there(tmp_path, monkeypatch):
  no_tensorflow(monkeypatch)
  with pytest.raises(ValueError, match='prepared there: none') as error:
    tfds.load('mnist')
  assert str(tmp_path / 'home' / 'tensorflow_datasets') in str(error.value)
  assert not (tmp_path / 'home').exists()


@pytest.mark.parametrize('installed', [True, False])
def test_a_wrong_data_dir(tmp_path, monkeypatch, installed):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: installed)
  with pytest.raises(ValueError, match=r"^data_dir = '.*typo' is no folder"):
    load_pets(tmp_path / 'typo')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('num_shards', [1, 3])
def test_missing_files(tmp_path, split, num_shards):
  folder = tfds_sets.prepare_pets(tmp_path / 'sets', num_shards=num_shards)
  file = sorted(folder.glob(f'pets-{split}*'))[-1]
  file.unlink()
  check_refused(
    tmp_path / 'sets',
    rf"incomplete, 1 of the files of {split}_split = '{split}' are missing "
    rf'\({file.name}\)',
  )


@pytest.mark.parametrize('size', [0, 40_000])
def test_files_that_were_cut_off(tmp_path, size):
  folder = tfds_sets.prepare_pets(tmp_path / 'sets')
  (file,) = folder.glob('pets-train*')
  os.truncate(file, size)
  before = contents(tmp_path / 'sets')
  with pytest.raises(
    ValueError, match=r"files of split 'train' cannot be read"
  ):
    load_pets(tmp_path / 'sets')
  assert contents(tmp_path / 'sets') == before
  assert not list((tmp_path / 'cache').glob('**/entry.json'))
  assert not list((tmp_path / 'cache').glob('**/writing-*'))


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
def test_a_description_that_was_cut_off(sets, name):
  file = sets / 'pets' / '1.0.0' / name
  file.write_text(file.read_text()[:-20])
  check_refused(sets, r'dataset_info.json or features.json is damaged')


def test_fewer_images_than_promised(sets):
  info = sets / 'pets' / '1.0.0' / 'dataset_info.json'
  text = info.read_text()
  content = json.loads(text)
  content['splits'][0]['shardLengths'] = ['31']
  info.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"'train'.*(cannot be read|30 images)"):
    load_pets(sets)


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    ('dev', r"'dev': Unknown split 'dev'.*splits train \(30\), test \(12\)"),
    ('train[:', 'Unrecognized split format'),
    ('train[:200%]', 'should be in'),
    ('', 'Unrecognized split format'),
    ('train[9:3]', 'selects no image'),
    ('train[:0]', 'selects no image'),
    ('test+train[9:3]', 'selects no image'),
  ],
)
@pytest.mark.parametrize('field', ['train_split', 'test_split'])
def test_wrong_splits(sets, field, split, message):
  check_refused(sets, f'{field} = .*{message}', **{field: split})


def feature_cases():
  features = tensorflow_datasets.features
  label = features.ClassLabel(names=tfds_sets.NAMES)
  image = features.Image(shape=(5, 4, 1))
  encoded = tfds_sets.encode(tfds_sets.pixels(1)[0])
  deep = io.BytesIO()
  Image.fromarray(np.zeros((5, 4), np.uint16)).save(deep, 'PNG')
  deep = deep.getvalue()
  return {
    'no image': (
      {'text': features.Text(), 'label': label},
      {'text': 'a cat', 'label': 0},
      r'one Image feature; this one has none: .*text \(Text\)',
    ),
    'no label': (
      {'image': image, 'label': features.Scalar(np.int64)},
      {'image': encoded, 'label': 0},
      r'one ClassLabel feature; this one has none: .*label \(Scalar\)',
    ),
    'several images': (
      {'clip': features.Sequence(image), 'label': label},
      {'clip': [encoded], 'label': 0},
      r'one Image feature; this one has none: .*clip \(Sequence\)',
    ),
    '16 bits': (
      {
        'image': features.Image(shape=(5, 4, 1), dtype=np.uint16),
        'label': label,
      },
      {'image': deep, 'label': 0},
      'image is uint16; allowed are images of 8 bits',
    ),
    'unknown channels': (
      {'image': features.Image(shape=(5, 4, 0)), 'label': label},
      {'image': encoded, 'label': 0},
      r'of shape \(5, 4, 0\); allowed is .* with 1 to 4 channels',
    ),
  }


@pytest.mark.parametrize('case', feature_cases())
def test_sets_of_another_kind(tmp_path, case):
  features, record, message = feature_cases()[case]
  splits = {'train': [record], 'test': [record]}
  tfds_sets.prepare(tmp_path / 'sets', splits, features)
  check_refused(tmp_path / 'sets', message)


def test_labels_without_a_number_of_classes(sets):
  folder = sets / 'pets' / '1.0.0'
  text = (folder / 'features.json').read_text()
  (folder / 'features.json').write_text(text.replace('"numClasses": "3"', ''))
  (folder / 'label.labels.txt').unlink()
  check_refused(sets, 'label does not say how many classes')


def test_a_video(sets):
  file = sets / 'pets' / '1.0.0' / 'features.json'
  text = file.read_text()
  assert '"image"' in text
  text = text.replace('image_feature.Image', 'video_feature.Video')
  text = text.replace('"dimensions": [', '"dimensions": ["-1",')
  file.write_text(text.replace('"image": {', '"video": {', 2))
  # The second one where there is no TensorFlow, without which TFDS does not
  # even say what it is.
  check_refused(
    sets,
    r'one Image feature; this one has none: video \(Video\)|'
    'features that TFDS cannot read without another package',
  )


@pytest.mark.parametrize('split', ['train', 'test'])
def test_images_of_several_sizes(tmp_path, split):
  records_ = tfds_sets.examples(tfds_sets.pixels(4))
  other = tfds_sets.examples(tfds_sets.pixels(1, (7, 6, 1)))
  splits = {'train': records_, 'test': records_}
  splits[split] = [*records_, *other]
  features = tfds_sets.default_features((None, None, 1))
  tfds_sets.prepare(tmp_path / 'sets', splits, features)
  with pytest.raises(
    ValueError,
    match=rf'pets/1\.0\.0 {split}: .* several sizes: image 0 is 5 x 4, '
    'image 4 is 7 x 6.*npz',
  ):
    load_pets(tmp_path / 'sets')
  assert not list((tmp_path / 'cache').glob('**/writing-*'))


def test_splits_of_two_sizes(tmp_path):
  splits = {
    'train': tfds_sets.examples(tfds_sets.pixels(2)),
    'test': tfds_sets.examples(tfds_sets.pixels(2, (7, 6, 1))),
  }
  features = tfds_sets.default_features((None, None, 1))
  tfds_sets.prepare(tmp_path, splits, features)
  with pytest.raises(
    ValueError, match=r'\(7, 6, 1\), but of train_split .*\(5, 4, 1\)'
  ):
    load_pets(tmp_path)


def test_labels_that_are_hidden(tmp_path):
  records_ = tfds_sets.examples(tfds_sets.pixels(2))
  hidden = [{**record, 'label': -1} for record in records_]
  tfds_sets.prepare(tmp_path, {'train': records_, 'test': hidden})
  with pytest.raises(ValueError, match=r'test: image 0 has the label -1'):
    load_pets(tmp_path)


# -------------------------------------------------- preparing, and TensorFlow


class AdvjaxMadeUp(tensorflow_datasets.core.GeneratorBasedBuilder):
  """A set that TFDS knows by name and that takes no TensorFlow to prepare."""

  code_path = None
  VERSION = tensorflow_datasets.core.Version('2.0.0')

  def _info(self):
    return tensorflow_datasets.core.DatasetInfo(
      builder=self,
      features=tensorflow_datasets.features.FeaturesDict(
        tfds_sets.default_features()
      ),
    )

  def _split_generators(self, dl_manager):
    if 'offline' in str(self.data_dir):
      raise ConnectionError('no route to host')
    return {
      split: enumerate(tfds_sets.examples(tfds_sets.pixels(6)))
      for split in ('train', 'test')
    }

  def _generate_examples(self):
    raise NotImplementedError


def test_a_set_that_is_not_there_is_prepared(sets, monkeypatch, decoded):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  before = contents(sets)
  for _ in range(2):
    dataset = tfds.load('advjax_made_up', str(sets))
    assert len(dataset.train.labels) == 6
  assert decoded == ['train', 'test']
  folder = sets / 'advjax_made_up' / '2.0.0'
  assert len(list(folder.glob('*.array_record*'))) == 2
  assert {path: contents(sets)[path] for path in before} == before


def test_a_set_that_cannot_be_prepared(tmp_path, monkeypatch):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  offline = tmp_path / 'offline'
  offline.mkdir()
  with pytest.raises(
    ValueError,
    match=r'could not prepare it \(no route to host\)\. Two ways out: point',
  ):
    tfds.load('advjax_made_up', str(offline))
  assert not [path for path in offline.rglob('*') if path.is_file()]


def test_without_a_network_no_time_is_spent(tmp_path, monkeypatch):
  """An address of this machine that nobody listens on stands for the net."""
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)
  urls = {'http://127.0.0.1:9/images': None, 'ftp://127.0.0.1/images': None}
  monkeypatch.setattr(AdvjaxMadeUp, 'url_infos', urls)
  with pytest.raises(
    ValueError, match=r'could not prepare it \(cannot reach 127\.0\.0\.1:9\)'
  ):
    tfds.load('advjax_made_up', str(tmp_path))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('status', [200, 404])
def test_one_host_in_reach_is_enough(tmp_path, monkeypatch, status):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
      self.send_response(status)
      self.end_headers()

    def log_message(self, *args):
      pass

  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    urls = {
      'http://127.0.0.1:9/images': None,
      f'http://127.0.0.1:{server.server_port}/images': None,
    }
    monkeypatch.setattr(AdvjaxMadeUp, 'url_infos', urls)
    dataset = tfds.load('advjax_made_up', str(tmp_path))
    thread.join()
  assert len(dataset.train.labels) == 6


def test_a_name_that_tfds_does_not_know(sets, monkeypatch):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: True)
  with pytest.raises(ValueError, match='TFDS knows no set of this name'):
    tfds.load('no_such_set', str(sets))


def test_tfrecord_takes_tensorflow(sets, monkeypatch):
  no_tensorflow(monkeypatch)
  info = sets / 'pets' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  check_refused(
    sets,
    r'prepared as tfrecord, which takes TensorFlow to read\. Two ways out: '
    r"install it \(.*tensorflow-cpu.*\); or prepare .*file_format='array_rec",
  )


@needs_tensorflow
@pytest.mark.parametrize('num_shards', [1, 3])
def test_tfrecord_gives_the_same(tmp_path, num_shards):
  for name in ('tfrecord', 'array_record'):
    tfds_sets.prepare_pets(
      tmp_path / name, file_format=name, num_shards=num_shards
    )
  for split in ('train', 'train[5:20]+test[:3]'):
    one, other = (
      tfds.load('pets', str(tmp_path / name), train_split=split)
      for name in ('tfrecord', 'array_record')
    )
    np.testing.assert_array_equal(one.train.images, other.train.images)
    np.testing.assert_array_equal(one.train.labels, other.train.labels)
    assert one.class_names == other.class_names


@needs_tensorflow
def test_a_tfrecord_that_was_cut_off(tmp_path):
  folder = tfds_sets.prepare_pets(tmp_path, file_format='tfrecord')
  (file,) = folder.glob('pets-train*')
  os.truncate(file, file.stat().st_size - 50)
  with pytest.raises(
    ValueError, match=r"files of split 'train' cannot be read"
  ):
    load_pets(tmp_path)


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
