"""Tests of loading folders and zips of images."""

import logging
import os
import re

import numpy as np
import pytest
from PIL import ExifTags, Image

from advjax import data
from advjax.config import default_config
from advjax.data import decode, file_tree, folder
from tests.data import image_folders


@pytest.fixture
def load(home):
  """Loads a data set into a cache of this test's own."""

  def load(path, **fields):
    fields = {'cache_dir': str(home / 'cache'), **fields}
    return data.load({'name': 'folder', 'path': str(path), **fields})

  return load


@pytest.fixture
def read(monkeypatch):
  """A list that gets the name of every image that is read."""
  names = []
  decode_rgb = decode.decode_rgb

  def counted(encoded, size):
    names.append(size)
    return decode_rgb(encoded, size)

  monkeypatch.setattr(decode, 'decode_rgb', counted)
  return names


def assert_same(one, other):
  assert one[3:] == other[3:]
  for split in ('train', 'test'):
    for array, expected in zip(
      getattr(one, split), getattr(other, split), strict=True
    ):
      assert array.dtype == expected.dtype
      np.testing.assert_array_equal(array, expected)


# ------------------------------------------------------------------ layouts


def test_tiny_imagenet(load, tmp_path):
  files, pixels = image_folders.tiny_imagenet()
  dataset = load(image_folders.write(tmp_path / 'tiny-3', files))
  assert dataset.name == 'tiny-3'
  assert dataset.num_classes == 3
  assert dataset.class_names == ('crane (n03)', 'cat', 'crane (n02)')
  assert dataset.class_ids == ('n03', 'n01', 'n02')
  for images, labels in (dataset.train, dataset.test):
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert type(images) is np.ndarray
    assert not images.flags.writeable
  names = [
    f'train/{i}/images/{i}_{k}.JPEG' for i in image_folders.IDS for k in (0, 1)
  ]
  np.testing.assert_array_equal(
    dataset.train.images, [pixels[name] for name in names]
  )
  np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1, 2, 2])
  np.testing.assert_array_equal(
    dataset.test.images, [pixels[f'val/images/val_{k}.JPEG'] for k in range(3)]
  )
  np.testing.assert_array_equal(dataset.test.labels, [1, 2, 0])


def test_classes_keep_their_ids(load, tmp_path):
  files, _ = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'tiny', files)
  kept = load(path, classes=(2, 1))
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
def test_a_zip_is_the_folder_that_it_holds(load, tmp_path, files, top):
  one = load(image_folders.write(tmp_path / 'set', files))
  other = load(image_folders.write_zip(tmp_path / 'set.zip', files, top))
  assert_same(one, other)
  assert one.name == other.name == 'set'
  # Nothing was unpacked.
  assert {path.name for path in tmp_path.iterdir()} == {
    'set',
    'set.zip',
    'cache',
  }


def test_classes_alone(load, tmp_path):
  files, pixels = image_folders.class_folders(count=5)
  path = image_folders.write(tmp_path / 'set', files)
  dataset = load(path)
  assert dataset.class_names == ('a', 'b')
  assert dataset.class_ids == ()
  assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
  assert dataset.test.labels.tolist() == [0, 1]
  images = [*dataset.train.images, *dataset.test.images]
  assert sorted(i.tobytes() for i in images) == sorted(
    i.tobytes() for i in pixels.values()
  )
  assert load(path, test_fraction=0.5).test.labels.tolist() == [0] * 3 + [1] * 3


def test_takes_the_fields_of_a_config(load, tmp_path):
  files, _ = image_folders.class_folders(count=2)
  config = default_config()
  config.dataset.name = 'folder'
  config.dataset.path = str(image_folders.write(tmp_path / 'set', files))
  config.dataset.image_size = 3
  config.dataset.test_fraction = 0.5
  config.dataset.cache_dir = str(tmp_path / 'cache')
  assert data.load(config.dataset).train.images.shape == (2, 3, 3, 3)


# ------------------------------------------------------------ odd images


def odd_images():
  """{what is odd: (an image file, the pixels that it should become)}."""
  rgb = image_folders.picture(1)
  upright = Image.fromarray(rgb)
  random = np.random.default_rng(2)
  deep = random.integers(0, 65536, (4, 5)).astype(np.uint16)
  alpha = random.integers(0, 256, (4, 5, 1), np.uint8)
  turned = Image.Exif()
  turned[ExifTags.Base.Orientation] = 6  # To be turned clockwise.
  cmyk = np.concatenate([255 - rgb, np.zeros_like(alpha)], axis=-1)
  grey = rgb[..., 0]
  return {
    'grey': (image_folders.encode(grey), np.repeat(grey[..., None], 3, -1)),
    'palette': (
      image_folders.encode(upright.quantize(256)),
      np.asarray(upright.quantize(256).convert('RGB')),
    ),
    'alpha': (image_folders.encode(np.concatenate([rgb, alpha], -1)), rgb),
    'cmyk': (
      image_folders.encode(Image.fromarray(cmyk, 'CMYK'), 'TIFF'),
      rgb,
    ),
    '16-bit': (
      image_folders.encode(deep),
      np.repeat(np.rint(deep / 257)[..., None], 3, -1),
    ),
    'turned': (
      image_folders.encode(np.rot90(rgb).copy(), exif=turned),
      rgb,
    ),
    'frames': (
      image_folders.encode(
        upright,
        'WEBP',
        lossless=True,
        save_all=True,
        append_images=[upright.rotate(180)],
      ),
      rgb,
    ),
  }


def test_odd_images_become_rgb_and_are_counted(load, tmp_path, caplog):
  odd = odd_images()
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', 40)
  files |= {f'train/a/x_{what}.png': b for what, (b, _) in odd.items()}
  path = image_folders.write(tmp_path / 'set', files)
  for _ in range(2):
    caplog.clear()
    with caplog.at_level(logging.INFO, 'advjax'):
      dataset = load(path)
    counts = ', '.join(f'1 {what}' for what in sorted(odd))
    assert f'set train: 87 images of 4 x 5, {counts}' in caplog.text
    assert 'set test: 80 images of 4 x 5\n' in caplog.text
  for got, (what, (_, expected)) in zip(
    dataset.train.images[40:47], sorted(odd.items()), strict=True
  ):
    np.testing.assert_array_equal(got, expected, what)


def test_an_image_of_another_size_is_scaled_and_counted(load, tmp_path, caplog):
  files, pixels = image_folders.class_folders(['train/', 'test/'], 'ab', 10)
  large = image_folders.picture(7, 12, 27)
  files['train/b/large.png'] = image_folders.encode(large)
  with caplog.at_level(logging.INFO, 'advjax'):
    dataset = load(image_folders.write(tmp_path / 'set', files))
  assert '21 images of 4 x 5, 1 resized' in caplog.text
  np.testing.assert_array_equal(
    dataset.train.images[0], pixels['train/a/0.png']
  )
  # A third of its size is 4 x 9, of which the middle is kept.
  small = Image.fromarray(large).resize((9, 4), Image.Resampling.BILINEAR)
  expected = np.asarray(small)[:, 2:7]
  np.testing.assert_array_equal(dataset.train.images[-1], expected)


def test_image_size(load, tmp_path, read):
  files, pixels = image_folders.class_folders(['train/', 'test/'], 'ab', 2)
  path = image_folders.write(tmp_path / 'set', files)
  dataset = load(path, image_size=4)
  assert dataset.train.images.shape == (4, 4, 4, 3)
  # Half a column is cut off at either side.
  image = Image.fromarray(pixels['test/b/1.png'])
  expected = image.resize(
    (4, 4), Image.Resampling.BILINEAR, box=(0.5, 0, 4.5, 4)
  )
  np.testing.assert_array_equal(dataset.test.images[-1], expected)
  assert load(path).train.images.shape == (4, 4, 5, 3)
  assert len(read) == 16


def test_images_of_many_sizes_need_image_size(load, tmp_path):
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', 4)
  for k in range(2):
    image = image_folders.picture(k, 6, 6)
    files[f'train/a/{k}.png'] = image_folders.encode(image)
  path = image_folders.write(tmp_path / 'set', files)
  with pytest.raises(ValueError, match=r'2 sizes.*4 x 5, 6 x 6.*image_size'):
    load(path)
  assert load(path, image_size=5).train.images.shape == (8, 5, 5, 3)


@pytest.mark.parametrize('size', [0, -3, 2.5, True, '64'])
def test_other_sizes_are_refused(tmp_path, size):
  with pytest.raises(ValueError, match=f'image_size = {size!r}; allowed: an'):
    folder.load(str(tmp_path), image_size=size)


# ------------------------------------------------------------ bad images


def with_bad(files, where, count):
  """Damages some files, each in another way."""
  damage = [lambda b: b[:-40], lambda b: b'', lambda b: b'no image']
  damaged = sorted(name for name in files if name.startswith(where))[:count]
  changes = {n: damage[k % 3](files[n]) for k, n in enumerate(damaged)}
  return {**files, **changes}


def test_bad_images_are_left_out_and_named(load, tmp_path, caplog):
  files, pixels = image_folders.class_folders(['train/', 'test/'], 'ab', 150)
  bad = with_bad(files, 'train/b', 3)
  for path in (
    image_folders.write(tmp_path / 'set', bad),
    image_folders.write_zip(tmp_path / 'set.zip', bad),
  ):
    for _ in range(2):
      caplog.clear()
      with caplog.at_level(logging.WARNING, 'advjax'):
        dataset = load(path)
      assert '3 images were left out' in caplog.text
      assert 'train/b/0.png is no image' in caplog.text
      assert 'test/' not in caplog.text
    assert dataset.train.images.shape == (297, 4, 5, 3)
    assert np.bincount(dataset.train.labels).tolist() == [150, 147]
    names = sorted(
      n for n in files if n.startswith('train') and bad[n] is files[n]
    )
    np.testing.assert_array_equal(
      dataset.train.images, [pixels[name] for name in names]
    )
    assert len(dataset.test.labels) == 300


@pytest.mark.parametrize(
  ('count', 'num_bad', 'message'),
  [
    (150, 4, '4 of 300 images .* more than 1 %: .*test/a/0'),
    (2, 2, "2 of 4 images .* all of class 'a'"),
  ],
)
def test_too_many_bad_images_are_an_error(
  load, tmp_path, count, num_bad, message
):
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', count)
  bad = with_bad(files, 'test/a', num_bad)
  with pytest.raises(ValueError, match=message):
    load(image_folders.write(tmp_path / 'set', bad), image_size=4)
  cache = tmp_path / 'cache'
  assert not list(cache.glob('set-test-*/*/entry.json'))


def test_no_image_at_all(load, tmp_path):
  files = {f'{s}/{c}/1.png': b'' for s in ('train', 'val') for c in 'ab'}
  path = image_folders.write(tmp_path / 'set', files)
  with pytest.raises(ValueError, match='none of its images can be decoded'):
    load(path)


def test_a_decompression_bomb_is_left_out(load, tmp_path, monkeypatch, caplog):
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', 60)
  files['train/a/bomb.png'] = image_folders.encode(
    np.zeros((50, 60, 3), np.uint8)
  )
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50 * 60 - 1)
  dataset = load(image_folders.write(tmp_path / 'set', files))
  assert len(dataset.train.labels) == 120
  assert re.search(r'1 images were left out.*bomb\.png.*exceeds', caplog.text)


# ------------------------------------------------------------------- cache


def test_the_second_load_decodes_nothing(load, tmp_path, read):
  files, _ = image_folders.class_folders(['train/', 'test/'])
  path = image_folders.write(tmp_path / 'set', files)
  first = load(path)
  assert read == [(4, 5)] * 12
  assert_same(first, load(path))
  assert len(read) == 12


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_a_changed_data_set_is_decoded_anew(load, tmp_path, read, kind):
  files, _ = image_folders.class_folders(['train/', 'test/'])
  changed = image_folders.picture(100)
  name = 'train/a/0.png'
  if kind == 'zip':
    path = image_folders.write_zip(tmp_path / 'set.zip', files)
    load(path)
    files[name] = image_folders.encode(changed)
    image_folders.write_zip(path, files)
  else:
    path = image_folders.write(tmp_path / 'set', files)
    load(path)
    (path / name).write_bytes(image_folders.encode(changed))
  np.testing.assert_array_equal(load(path).train.images[0], changed)
  assert len(read) == 24
  # The former entries have gone.
  assert len(list((tmp_path / 'cache').glob('*/*/entry.json'))) == 2


def test_a_new_label_is_read_anew(load, tmp_path):
  files, _ = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'set', files)
  load(path)
  name = path / 'wnids.txt'
  time = name.stat().st_mtime_ns
  name.write_bytes(b'n02\nn01\nn03')
  os.utime(name, ns=(time, time))  # Neither size nor time has changed.
  dataset = load(path)
  assert dataset.class_ids == ('n02', 'n01', 'n03')
  assert dataset.test.labels.tolist() == [1, 0, 2]


def test_files_are_only_read(load, tmp_path):
  files, _ = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'set', files)
  load(path)
  with file_tree.open_tree(path) as tree:
    assert {name: tree.read(name) for name in tree.files} == files


def test_images_of_no_split_are_mentioned(load, tmp_path, caplog):
  files, _ = image_folders.tiny_imagenet()
  with caplog.at_level(logging.INFO, 'advjax'):
    load(image_folders.write(tmp_path / 'set', files))
  assert re.search(
    r'1 images belong to neither split.*test/images/test_0\.JPEG', caplog.text
  )


def test_what_is_wrong_is_said_with_the_path(load, tmp_path):
  path = image_folders.write(tmp_path / 'set', {'a/1.png': b''})
  with pytest.raises(ValueError, match=f'{re.escape(str(path))}: '):
    load(path)


# ------------------------------------------------------------- real images


def test_the_real_tiny_imagenet(load):
  """Facts of 20 classes of Tiny ImageNet."""
  path = os.environ.get('ADVJAX_TINY_IMAGENET_DIR')
  if not path:
    pytest.skip('ADVJAX_TINY_IMAGENET_DIR names no folder of 20 of its classes')
  dataset = load(path)
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
