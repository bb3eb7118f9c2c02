"""Tests of what becomes of odd and of bad images in folders."""

import logging
import re

import numpy as np
import pytest
from PIL import ExifTags, Image

from advjax.data import folder
from tests.data import image_folders

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


def test_odd_images_become_rgb_and_are_counted(load_folder, tmp_path, caplog):
  odd = odd_images()
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', 40)
  files |= {f'train/a/x_{what}.png': b for what, (b, _) in odd.items()}
  path = image_folders.write(tmp_path / 'set', files)
  for _ in range(2):
    caplog.clear()
    with caplog.at_level(logging.INFO, 'advjax'):
      dataset = load_folder(path)
    counts = ', '.join(f'1 {what}' for what in sorted(odd))
    assert f'set train: 87 images of 4 x 5, {counts}' in caplog.text
    assert 'set test: 80 images of 4 x 5\n' in caplog.text
  rows = image_folders.mixed(n for n in files if n.startswith('train'))
  for what, (_, expected) in odd.items():
    row = rows.index(f'train/a/x_{what}.png')
    np.testing.assert_array_equal(dataset.train.images[row], expected, what)


def test_an_image_of_another_size_is_scaled_and_counted(
  load_folder, tmp_path, caplog
):
  files, pixels = image_folders.class_folders(['train/', 'test/'], 'ab', 10)
  large = image_folders.picture(7, 12, 27)
  files['train/b/large.png'] = image_folders.encode(large)
  with caplog.at_level(logging.INFO, 'advjax'):
    dataset = load_folder(image_folders.write(tmp_path / 'set', files))
  assert '21 images of 4 x 5, 1 resized' in caplog.text
  rows = image_folders.mixed(n for n in files if n.startswith('train'))
  np.testing.assert_array_equal(
    dataset.train.images[rows.index('train/a/0.png')], pixels['train/a/0.png']
  )
  # A third of its size is 4 x 9, of which the middle is kept.
  small = Image.fromarray(large).resize((9, 4), Image.Resampling.BILINEAR)
  expected = np.asarray(small)[:, 2:7]
  row = rows.index('train/b/large.png')
  np.testing.assert_array_equal(dataset.train.images[row], expected)


def test_image_size(load_folder, tmp_path, sizes_decoded):
  files, pixels = image_folders.class_folders(['train/', 'test/'], 'ab', 2)
  path = image_folders.write(tmp_path / 'set', files)
  dataset = load_folder(path, image_size=4)
  assert dataset.train.images.shape == (4, 4, 4, 3)
  # Half a column is cut off at either side.
  image = Image.fromarray(pixels['test/b/1.png'])
  expected = image.resize(
    (4, 4), Image.Resampling.BILINEAR, box=(0.5, 0, 4.5, 4)
  )
  row = image_folders.mixed(n for n in files if 'test' in n).index(
    'test/b/1.png'
  )
  np.testing.assert_array_equal(dataset.test.images[row], expected)
  assert load_folder(path).train.images.shape == (4, 4, 5, 3)
  assert len(sizes_decoded) == 16


def test_images_of_many_sizes_need_image_size(load_folder, tmp_path):
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', 4)
  for k in range(2):
    image = image_folders.picture(k, 6, 6)
    files[f'train/a/{k}.png'] = image_folders.encode(image)
  path = image_folders.write(tmp_path / 'set', files)
  with pytest.raises(ValueError, match=r'2 sizes.*4 x 5, 6 x 6.*image_size'):
    load_folder(path)
  assert load_folder(path, image_size=5).train.images.shape == (8, 5, 5, 3)


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


def test_bad_images_are_left_out_and_named(load_folder, tmp_path, caplog):
  files, pixels = image_folders.class_folders(['train/', 'test/'], 'ab', 150)
  bad = with_bad(files, 'train/b', 3)
  for path in (
    image_folders.write(tmp_path / 'set', bad),
    image_folders.write_zip(tmp_path / 'set.zip', bad),
  ):
    for _ in range(2):
      caplog.clear()
      with caplog.at_level(logging.WARNING, 'advjax'):
        dataset = load_folder(path)
      assert '3 images were left out' in caplog.text
      assert 'train/b/0.png is no image' in caplog.text
      assert 'test/' not in caplog.text
    assert dataset.train.images.shape == (297, 4, 5, 3)
    assert np.bincount(dataset.train.labels).tolist() == [150, 147]
    names = image_folders.mixed(
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
  load_folder, tmp_path, count, num_bad, message
):
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', count)
  bad = with_bad(files, 'test/a', num_bad)
  with pytest.raises(ValueError, match=message):
    load_folder(image_folders.write(tmp_path / 'set', bad), image_size=4)
  cache = tmp_path / 'cache'
  assert not list(cache.glob('set-test-*/*/entry.json'))


def test_no_image_at_all(load_folder, tmp_path):
  files = {f'{s}/{c}/1.png': b'' for s in ('train', 'val') for c in 'ab'}
  path = image_folders.write(tmp_path / 'set', files)
  with pytest.raises(ValueError, match='none of its images can be decoded'):
    load_folder(path)


def test_a_decompression_bomb_is_left_out(
  load_folder, tmp_path, monkeypatch, caplog
):
  files, _ = image_folders.class_folders(['train/', 'test/'], 'ab', 60)
  files['train/a/bomb.png'] = image_folders.encode(
    np.zeros((50, 60, 3), np.uint8)
  )
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50 * 60 - 1)
  dataset = load_folder(image_folders.write(tmp_path / 'set', files))
  assert len(dataset.train.labels) == 120
  assert re.search(r'1 images were left out.*bomb\.png.*exceeds', caplog.text)
