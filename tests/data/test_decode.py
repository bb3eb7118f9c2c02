"""Tests of decoding single images, against the pixels they were made of."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from advjax.data.decode import (
  NoImage,
  decode_blocks,
  decode_image,
  decode_rgb,
  image_size,
  quiet_pillow,
)
from tests.data.tfds_sets import encode, pixels

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)


def save(image, kind, **options):
  stream = io.BytesIO()
  image.save(stream, kind, **options)
  return stream.getvalue()


def palette_png():
  """An indexed PNG, and its indices."""
  indices = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)
  image = Image.new('P', (3, 2))
  image.putdata(indices.ravel().tolist())
  image.putpalette(COLOURS.ravel().tolist())
  return save(image, 'PNG'), indices


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_lossless_files_give_their_pixels(channels, kind):
  (image,) = pixels(1, (5, 4, channels))
  decoded = decode_image(encode(image, kind), channels)
  assert decoded.dtype == np.uint8
  np.testing.assert_array_equal(decoded, image)


def test_a_palette_is_looked_up():
  encoded, indices = palette_png()
  np.testing.assert_array_equal(decode_image(encoded, 3), COLOURS[indices])
  # ITU-R 601 luma, as TensorFlow's.
  luma = COLOURS[indices] @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(decode_image(encoded, 1)[..., 0], luma, atol=1)


def test_grey_is_repeated_and_alpha_dropped():
  (grey,) = pixels(1, (5, 4, 1))
  np.testing.assert_array_equal(
    decode_image(encode(grey), 3), np.repeat(grey, 3, axis=-1)
  )
  (rgba,) = pixels(1, (5, 4, 4))
  np.testing.assert_array_equal(decode_image(encode(rgba), 3), rgba[..., :3])


def test_black_and_white_spans_all_bits():
  image = Image.new('1', (2, 1))
  image.putdata([0, 1])
  decoded = decode_image(save(image, 'PNG'), 1)
  np.testing.assert_array_equal(decoded[..., 0], [[0, 255]])


@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_jpegs_are_close(mode):
  # Smooth, so that compression loses little.
  ramp = np.linspace(0, 255, 16 * 16).reshape(16, 16).astype(np.uint8)
  image = Image.fromarray(np.stack([ramp] * 3, axis=-1)).convert(mode)
  decoded = decode_image(save(image, 'JPEG', quality=95), 3)
  assert decoded.shape == (16, 16, 3)
  error = decoded.astype(int) - ramp[..., np.newaxis]
  assert np.abs(error).mean() < 4


@pytest.mark.parametrize(
  ('encoded', 'message'),
  [
    (b'', 'no image that Pillow can read'),
    (b'not an image', 'no image that Pillow can read'),
    (encode(pixels(1)[0])[:-30], 'no image that Pillow can read'),
    (
      save(Image.fromarray(np.zeros((2, 2), np.uint16)), 'PNG'),
      'more than 8 bits',
    ),
    (
      save(Image.fromarray(np.zeros((2, 2), np.float32)), 'TIFF'),
      'more than 8 bits',
    ),
    (
      save(
        Image.new('L', (2, 2)),
        'GIF',
        save_all=True,
        append_images=[Image.new('L', (2, 2), 9)],
      ),
      'GIF of several frames',
    ),
  ],
  ids=['empty', 'text', 'cut', '16 bits', 'floats', 'frames'],
)
def test_refuses(encoded, message):
  with pytest.raises(ValueError, match=message):
    decode_image(encoded, 1)


def test_blocks_are_stacked_in_order():
  images = pixels(5)
  files, labels = [encode(image) for image in images], [0, 1, 2, 1, 0]
  blocks = [(files[:2], labels[:2]), (files[2:], labels[2:])]
  decoded = list(decode_blocks(blocks, 1, 3, 'pets'))
  assert [len(part) for part, _ in decoded] == [2, 3]
  np.testing.assert_array_equal(
    np.concatenate([part for part, _ in decoded]), images
  )
  found = np.concatenate([part for _, part in decoded])
  np.testing.assert_array_equal(found, labels)
  assert found.dtype == np.int32


def test_blocks_refuse_several_sizes():
  files = [encode(pixels(1, (5, 4, 1))[0]) for _ in range(3)]
  files.append(encode(pixels(1, (4, 5, 1))[0]))
  blocks = [(files[:2], [0, 0]), (files[2:], [0, 0])]
  with pytest.raises(
    ValueError,
    match=r'pets: .* several sizes: image 0 is 5 x 4, image 3 is 4 x 5.*npz',
  ):
    list(decode_blocks(blocks, 1, 3, 'pets'))


@pytest.mark.parametrize('label', [-1, 3])
def test_blocks_refuse_other_labels(label):
  files = [encode(image) for image in pixels(2)]
  with pytest.raises(
    ValueError, match=f'pets: image 1 has the label {label}; allowed: 0 to 2'
  ):
    list(decode_blocks([(files, [0, label])], 1, 3, 'pets'))


def test_blocks_name_the_broken_image():
  files = [encode(pixels(1)[0]), b'']
  with pytest.raises(ValueError, match='pets: image 1 is no image'):
    list(decode_blocks([(files, [0, 0])], 1, 3, 'pets'))


# ---------------------------------------------------------- RGB of one size


# How each EXIF orientation changes rows and columns, by its definition: where
# the first row and the first column of the stored image are to be seen.
TURNS = {
  1: lambda stored: stored,
  2: lambda stored: stored[:, ::-1],
  3: lambda stored: stored[::-1, ::-1],
  4: lambda stored: stored[::-1],
  5: lambda stored: stored.swapaxes(0, 1),
  6: lambda stored: stored[::-1].swapaxes(0, 1),
  7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
  8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', TURNS)
def test_images_are_turned_as_exif_says(orientation, kind):
  (stored,) = pixels(1, (5, 4, 3))
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  options = {'lossless': True} if kind == 'WEBP' else {}
  encoded = save(Image.fromarray(stored), kind, exif=exif, **options)
  expected = TURNS[orientation](stored)
  assert image_size(encoded) == expected.shape[:2]
  image, done = decode_rgb(encoded, expected.shape[:2])
  np.testing.assert_array_equal(image, expected)
  assert done == (('turned',) if orientation > 1 else ())


@pytest.mark.parametrize('orientation', [0, 9])
def test_an_orientation_that_is_none_is_passed_over(orientation):
  (stored,) = pixels(1, (5, 4, 3))
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  encoded = save(Image.fromarray(stored), 'PNG', exif=exif)
  assert image_size(encoded) == (5, 4)
  np.testing.assert_array_equal(decode_rgb(encoded, (5, 4))[0], stored)


@pytest.mark.parametrize(
  ('mode', 'kind', 'done'),
  [
    ('1', 'PNG', ('grey',)),
    ('L', 'JPEG', ('grey',)),
    ('LA', 'PNG', ('grey', 'alpha')),
    ('P', 'GIF', ('palette',)),
    ('RGB', 'BMP', ()),
    ('RGB', 'PPM', ()),
    ('RGBA', 'WEBP', ('alpha',)),
    ('YCbCr', 'TIFF', ('other colours',)),
    ('LAB', 'TIFF', ('other colours',)),
  ],
)
def test_what_was_done_is_said(mode, kind, done):
  colour = np.zeros((6, 6, 3), np.uint8) + np.array([200, 30, 60], np.uint8)
  source = 'RGB' if mode == 'LAB' else mode
  image = Image.fromarray(colour).convert(source)
  if mode == 'RGBA':
    image.putalpha(100)
  if mode == 'LAB':
    image = Image.merge('LAB', Image.fromarray(colour).split())
  decoded, said = decode_rgb(save(image, kind), (6, 6))
  assert (decoded.shape, decoded.dtype) == ((6, 6, 3), np.uint8)
  assert said == done
  if mode in ('RGB', 'YCbCr'):
    np.testing.assert_allclose(decoded, colour, atol=2)
  if mode in ('L', 'LA'):
    luma = colour @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decoded[..., 1], luma, atol=2)


def test_16_bits_are_rounded_to_8():
  deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  image, done = decode_rgb(save(Image.fromarray(deep), 'PNG'), (256, 256))
  expected = np.rint(deep / 257)[..., np.newaxis]
  np.testing.assert_array_equal(image, np.broadcast_to(expected, image.shape))
  assert done == ('16-bit',)


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (np.zeros((2, 2), np.float32), 'floating-point pixels'),
    (np.full((2, 2), 65536, np.int32), 'more than 16 bits per channel'),
    (np.full((2, 2), -1, np.int32), 'more than 16 bits per channel'),
  ],
)
def test_deeper_images_are_refused(array, message):
  encoded = save(Image.fromarray(array), 'TIFF')
  with pytest.raises(NoImage, match=message):
    decode_rgb(encoded, (2, 2))


def test_formats_that_start_other_programs_are_refused():
  encoded = save(Image.new('L', (4, 4)), 'EPS')
  assert Image.open(io.BytesIO(encoded)).format == 'EPS'
  with pytest.raises(NoImage, match='of no known format'):
    decode_rgb(encoded, (4, 4))


def test_a_bomb_is_refused_where_pillow_would_warn(monkeypatch):
  encoded = save(Image.new('L', (10, 10)), 'PNG')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 99)
  with quiet_pillow(), pytest.raises(NoImage, match='exceeds limit of 99'):
    decode_rgb(encoded, (4, 4))
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 49)
  with pytest.raises(NoImage, match='exceeds limit of 98'):
    image_size(encoded)


FILES = [
  save(Image.fromarray(pixels(1, (9, 8, 3))[0]), kind)
  for kind in ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'PPM')
]


@given(file=st.sampled_from(FILES), data=st.data())
def test_damage_never_escapes(file, data):
  damaged = bytearray(file[: data.draw(st.integers(0, len(file)))])
  for _ in range(data.draw(st.integers(0, 5)) if damaged else 0):
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] = data.draw(st.integers(0, 255))
  with quiet_pillow():
    try:
      image, _ = decode_rgb(bytes(damaged), (6, 6))
    except NoImage:
      return
  assert image.shape == (6, 6, 3)
