"""Sets of TensorFlow Datasets that are refused, and what is said of them."""

import io
import json
import os

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from advjax.data import records, tfds
from tests.data import tfds_sets

pytestmark = pytest.mark.usefixtures('home')


def test_a_set_that_is_not_there(sets, monkeypatch):
  tfds_sets.no_tensorflow(monkeypatch)
  with pytest.raises(
    ValueError,
    match=r"'mnist': no such set .*prepared there: pets:1\.0\.0\. Two ways "
    r'out: point config\.dataset\.data_dir at .*pip install tensorflow-cpu',
  ) as error:
    tfds.load('mnist', str(sets))
  assert str(sets) in str(error.value)


def test_the_default_folder_need_not_be_there(tmp_path, monkeypatch):
  tfds_sets.no_tensorflow(monkeypatch)
  with pytest.raises(ValueError, match='prepared there: none') as error:
    tfds.load('mnist')
  assert str(tmp_path / 'home' / 'tensorflow_datasets') in str(error.value)
  assert not (tmp_path / 'home').exists()


@pytest.mark.parametrize('installed', [True, False])
def test_a_wrong_data_dir(tmp_path, monkeypatch, installed):
  monkeypatch.setattr(records, 'has_tensorflow', lambda: installed)
  with pytest.raises(ValueError, match=r"^data_dir = '.*typo' is no folder"):
    tfds_sets.load_pets(tmp_path / 'typo')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('num_shards', [1, 3])
def test_missing_files(tmp_path, split, num_shards):
  folder = tfds_sets.prepare_pets(tmp_path / 'sets', num_shards=num_shards)
  file = sorted(folder.glob(f'pets-{split}*'))[-1]
  file.unlink()
  tfds_sets.check_refused(
    tmp_path / 'sets',
    rf"incomplete, 1 of the files of {split}_split = '{split}' are missing "
    rf'\({file.name}\)',
  )


@pytest.mark.parametrize('size', [0, 40_000])
def test_files_that_were_cut_off(tmp_path, size):
  folder = tfds_sets.prepare_pets(tmp_path / 'sets')
  (file,) = folder.glob('pets-train*')
  os.truncate(file, size)
  before = tfds_sets.contents(tmp_path / 'sets')
  with pytest.raises(
    ValueError, match=r"files of split 'train' cannot be read"
  ):
    tfds_sets.load_pets(tmp_path / 'sets')
  assert tfds_sets.contents(tmp_path / 'sets') == before
  assert not list((tmp_path / 'cache').glob('**/entry.json'))
  assert not list((tmp_path / 'cache').glob('**/writing-*'))


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
def test_a_description_that_was_cut_off(sets, name):
  file = sets / 'pets' / '1.0.0' / name
  file.write_text(file.read_text()[:-20])
  tfds_sets.check_refused(
    sets, r'dataset_info.json or features.json is damaged'
  )


def test_fewer_images_than_promised(sets):
  info = sets / 'pets' / '1.0.0' / 'dataset_info.json'
  text = info.read_text()
  content = json.loads(text)
  content['splits'][0]['shardLengths'] = ['31']
  info.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"'train'.*(cannot be read|30 images)"):
    tfds_sets.load_pets(sets)


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
  tfds_sets.check_refused(sets, f'{field} = .*{message}', **{field: split})


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
  tfds_sets.check_refused(tmp_path / 'sets', message)


def test_labels_without_a_number_of_classes(sets):
  folder = sets / 'pets' / '1.0.0'
  text = (folder / 'features.json').read_text()
  (folder / 'features.json').write_text(text.replace('"numClasses": "3"', ''))
  (folder / 'label.labels.txt').unlink()
  tfds_sets.check_refused(sets, 'label does not say how many classes')


def test_a_video(sets):
  file = sets / 'pets' / '1.0.0' / 'features.json'
  text = file.read_text()
  assert '"image"' in text
  text = text.replace('image_feature.Image', 'video_feature.Video')
  text = text.replace('"dimensions": [', '"dimensions": ["-1",')
  file.write_text(text.replace('"image": {', '"video": {', 2))
  # The second one where there is no TensorFlow, without which TFDS does not
  # even say what it is.
  tfds_sets.check_refused(
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
    tfds_sets.load_pets(tmp_path / 'sets')
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
    tfds_sets.load_pets(tmp_path)


def test_labels_that_are_hidden(tmp_path):
  records_ = tfds_sets.examples(tfds_sets.pixels(2))
  hidden = [{**record, 'label': -1} for record in records_]
  tfds_sets.prepare(tmp_path, {'train': records_, 'test': hidden})
  with pytest.raises(ValueError, match=r'test: image 0 has the label -1'):
    tfds_sets.load_pets(tmp_path)
