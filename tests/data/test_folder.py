"""Tests of loading folders and zips of images."""

import logging
import os
import re

import numpy as np
import pytest

from advjax import data
from advjax.config import default_config
from advjax.data import file_tree
from tests.data import image_folders


def assert_same(one, other):
  assert one[3:] == other[3:]
  for split in ('train', 'test'):
    for array, expected in zip(
      getattr(one, split), getattr(other, split), strict=True
    ):
      assert array.dtype == expected.dtype
      np.testing.assert_array_equal(array, expected)


# ------------------------------------------------------------------ layouts


def test_tiny_imagenet(load_folder, tmp_path):
  files, pixels = image_folders.tiny_imagenet()
  dataset = load_folder(image_folders.write(tmp_path / 'tiny-3', files))
  assert dataset.name == 'tiny-3'
  assert dataset.num_classes == 3
  assert dataset.class_names == ('crane (n03)', 'cat', 'crane (n02)')
  assert dataset.class_ids == ('n03', 'n01', 'n02')
  for images, labels in (dataset.train, dataset.test):
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert type(images) is np.ndarray
    assert not images.flags.writeable
  names = image_folders.mixed(n for n in pixels if n.startswith('train'))
  np.testing.assert_array_equal(
    dataset.train.images, [pixels[name] for name in names]
  )
  labels = [image_folders.IDS.index(name.split('/')[1]) for name in names]
  np.testing.assert_array_equal(dataset.train.labels, labels)
  np.testing.assert_array_equal(
    dataset.test.images, [pixels[f'val/images/val_{k}.JPEG'] for k in range(3)]
  )
  np.testing.assert_array_equal(dataset.test.labels, [1, 2, 0])


def test_classes_keep_their_ids(load_folder, tmp_path):
  files, _ = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'tiny', files)
  kept = load_folder(path, classes=(2, 1))
  assert kept.class_ids == ('n02', 'n01')
  assert kept.class_names == ('crane (n02)', 'cat')
  assert kept.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize('top', ['', 'anything/'])
@pytest.mark.parametrize(
  'files',
  [
    image_folders.tiny_imagenet()[0],
    image_folders.class_folders(['train/', 'test/'])[0],
    image_folders.class_folders(count=5)[0],
  ],
  ids=['tiny', 'splits', 'classes'],
)
def test_a_zip_is_the_folder_that_it_holds(load_folder, tmp_path, files, top):
  one = load_folder(image_folders.write(tmp_path / 'set', files))
  other = load_folder(image_folders.write_zip(tmp_path / 'set.zip', files, top))
  assert_same(one, other)
  assert one.name == other.name == 'set'
  # Nothing was unpacked.
  assert {path.name for path in tmp_path.iterdir()} == {
    'set',
    'set.zip',
    'cache',
  }


def test_classes_alone(load_folder, tmp_path):
  files, pixels = image_folders.class_folders(count=5)
  path = image_folders.write(tmp_path / 'set', files)
  dataset = load_folder(path)
  assert dataset.class_names == ('a', 'b')
  assert dataset.class_ids == ()
  assert sorted(dataset.train.labels) == [0] * 4 + [1] * 4
  assert sorted(dataset.test.labels) == [0, 1]
  images = [*dataset.train.images, *dataset.test.images]
  assert sorted(i.tobytes() for i in images) == sorted(
    i.tobytes() for i in pixels.values()
  )
  half = load_folder(path, test_fraction=0.5)
  assert sorted(half.test.labels) == [0] * 3 + [1] * 3


def test_takes_the_fields_of_a_config(load_folder, tmp_path):
  files, _ = image_folders.class_folders(count=2)
  config = default_config()
  config.dataset.name = 'folder'
  config.dataset.path = str(image_folders.write(tmp_path / 'set', files))
  config.dataset.image_size = 3
  config.dataset.test_fraction = 0.5
  config.dataset.cache_dir = str(tmp_path / 'cache')
  assert data.load(config.dataset).train.images.shape == (2, 3, 3, 3)


# ------------------------------------------------------------------- cache


def test_the_second_load_decodes_nothing(load_folder, tmp_path, sizes_decoded):
  files, _ = image_folders.class_folders(['train/', 'test/'])
  path = image_folders.write(tmp_path / 'set', files)
  first = load_folder(path)
  assert sizes_decoded == [(4, 5)] * 12
  assert_same(first, load_folder(path))
  assert len(sizes_decoded) == 12


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_a_changed_data_set_is_decoded_anew(
  load_folder, tmp_path, sizes_decoded, kind
):
  files, _ = image_folders.class_folders(['train/', 'test/'])
  changed = image_folders.picture(100)
  name = 'train/a/0.png'
  if kind == 'zip':
    path = image_folders.write_zip(tmp_path / 'set.zip', files)
    load_folder(path)
    files[name] = image_folders.encode(changed)
    image_folders.write_zip(path, files)
  else:
    path = image_folders.write(tmp_path / 'set', files)
    load_folder(path)
    (path / name).write_bytes(image_folders.encode(changed))
  row = image_folders.mixed(n for n in files if 'train' in n).index(name)
  np.testing.assert_array_equal(load_folder(path).train.images[row], changed)
  assert len(sizes_decoded) == 24
  # The former entries have gone.
  assert len(list((tmp_path / 'cache').glob('*/*/entry.json'))) == 2


def test_a_new_label_is_read_anew(load_folder, tmp_path):
  files, _ = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'set', files)
  load_folder(path)
  name = path / 'wnids.txt'
  time = name.stat().st_mtime_ns
  name.write_bytes(b'n02\nn01\nn03')
  os.utime(name, ns=(time, time))  # Neither size nor time has changed.
  dataset = load_folder(path)
  assert dataset.class_ids == ('n02', 'n01', 'n03')
  assert dataset.test.labels.tolist() == [1, 0, 2]


def test_files_are_only_read(load_folder, tmp_path):
  files, _ = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'set', files)
  load_folder(path)
  with file_tree.open_tree(path) as tree:
    assert {name: tree.read(name) for name in tree.files} == files


def test_images_of_no_split_are_mentioned(load_folder, tmp_path, caplog):
  files, _ = image_folders.tiny_imagenet()
  with caplog.at_level(logging.INFO, 'advjax'):
    load_folder(image_folders.write(tmp_path / 'set', files))
  assert re.search(
    r'1 images belong to neither split.*test/images/test_0\.JPEG', caplog.text
  )


def test_what_is_wrong_is_said_with_the_path(load_folder, tmp_path):
  path = image_folders.write(tmp_path / 'set', {'a/1.png': b''})
  with pytest.raises(ValueError, match=f'{re.escape(str(path))}: '):
    load_folder(path)


# ------------------------------------------------------------- real images


def test_the_real_tiny_imagenet(load_folder):
  """Facts of 20 classes of Tiny ImageNet."""
  path = os.environ.get('ADVJAX_TINY_IMAGENET_DIR')
  if not path:
    pytest.skip('ADVJAX_TINY_IMAGENET_DIR names no folder of 20 of its classes')
  dataset = load_folder(path)
  assert dataset.num_classes == 20
  assert dataset.class_ids[:3] == ('n02233338', 'n02906734', 'n04376876')
  assert dataset.class_names[:5] == (
    'cockroach',
    'broom',
    'syringe',
    'oboe',
    'beer bottle',
  )
  assert dataset.train.images.shape == (4000, 64, 64, 3)
  assert dataset.test.images.shape == (1000, 64, 64, 3)
  assert np.bincount(dataset.train.labels).tolist() == [200] * 20
  assert np.bincount(dataset.test.labels).tolist() == [50] * 20
  # Natural photographs.
  assert 0.3 < dataset.train.images.mean() / 255 < 0.6
