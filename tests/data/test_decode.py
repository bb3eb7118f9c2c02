"""Decoding of single images, against the pixels that they were made of."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from advjax.data.decode import (
  NoImage,
  decode_image,
  decode_rgb,
  image_size,
  quiet_pillow,
)
from tests.data.image_folders import encode, picture

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
# ITU-R 601, as TensorFlow's.
LUMA = np.array([0.299, 0.587, 0.114])


def with_channels(channels):
  image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
  return image, encode(image[..., 0] if channels == 1 else image)


# -------------------------------------------------- of so many channels (TFDS)


def test_lossless_files_give_their_pixels():
  for channels in (1, 2, 3, 4):
    image, encoded = with_channels(channels)
    decoded = decode_image(encoded, channels)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, image)


def test_palettes_are_looked_up_grey_is_repeated_and_alpha_dropped():
  indices = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)
  palette = Image.fromarray(indices, 'P')
  palette.putpalette(COLOURS.ravel().tolist())
  encoded = encode(palette)
  np.testing.assert_array_equal(decode_image(encoded, 3), COLOURS[indices])
  luma = COLOURS[indices] @ LUMA
  np.testing.assert_allclose(decode_image(encoded, 1)[..., 0], luma, atol=1)
  grey, encoded = with_channels(1)
  np.testing.assert_array_equal(decode_image(encoded, 3), grey.repeat(3, -1))
  rgba, encoded = with_channels(4)
  np.testing.assert_array_equal(decode_image(encoded, 3), rgba[..., :3])
  bits = encode(Image.fromarray(np.array([[0, 255]], np.uint8)).convert('1'))
  np.testing.assert_array_equal(decode_image(bits, 1)[..., 0], [[0, 255]])


FRAMES = {'save_all': True, 'append_images': [Image.new('L', (2, 2), 9)]}


@pytest.mark.parametrize(
  ('encoded', 'message'),
  [
    (b'', 'cannot be decoded by Pillow'),
    (b'not an image', 'unknown format'),
    (encode(picture(0))[:-30], 'cannot be decoded by Pillow'),
    (encode(np.zeros((2, 2), np.uint16)), 'more than 8 bits'),
    (encode(np.zeros((2, 2), np.float32), 'TIFF'), 'more than 8 bits'),
    (encode(Image.new('L', (2, 2)), 'GIF', **FRAMES), 'GIF of several frames'),
  ],
)
def test_refuses(encoded, message):
  with pytest.raises(NoImage, match=message):
    decode_image(encoded, 1)


# ------------------------------------------------- RGB of one size (folders)

# How each EXIF orientation changes rows and columns, by its definition: where
# the first row and the first column of the stored image are.
TURNS = {
  1: lambda stored: stored,
  2: lambda stored: stored[:, ::-1],
  3: lambda stored: stored[::-1, ::-1],
  4: lambda stored: stored[::-1],
  5: lambda stored: stored.swapaxes(0, 1),
  6: lambda stored: stored[::-1].swapaxes(0, 1),
  7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
  8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
  # These are none.
  0: lambda stored: stored,
  9: lambda stored: stored,
}


@pytest.mark.parametrize('orientation', TURNS)
def test_images_are_turned_as_exif_says(orientation):
  stored = picture(0)
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  expected = TURNS[orientation](stored)
  for kind, options in (
    ('PNG', {}),
    ('TIFF', {}),
    ('WEBP', {'lossless': True}),
  ):
    encoded = encode(stored, kind, exif=exif, **options)
    assert image_size(encoded) == expected.shape[:2]
    image, done = decode_rgb(encoded, expected.shape[:2])
    np.testing.assert_array_equal(image, expected)
    assert done == (['turned'] if orientation in range(2, 9) else [])


@pytest.mark.parametrize(
  ('mode', 'kind', 'done'),
  [
    ('1', 'PNG', ['grey']),
    ('L', 'JPEG', ['grey']),
    ('LA', 'PNG', ['grey', 'alpha']),
    ('P', 'GIF', ['palette']),
    ('RGB', 'BMP', []),
    ('RGB', 'PPM', []),
    ('RGBA', 'PNG', ['alpha']),
    ('CMYK', 'TIFF', ['cmyk']),
    ('YCbCr', 'TIFF', ['other colours']),
  ],
)
def test_what_was_done_is_said(mode, kind, done):
  colour = np.tile(np.uint8([200, 30, 60]), (6, 6, 1))
  image = Image.fromarray(colour).convert(mode)
  decoded, said = decode_rgb(encode(image, kind), (6, 6))
  assert (decoded.shape, decoded.dtype) == ((6, 6, 3), np.uint8)
  assert said == done
  if mode in ('RGB', 'YCbCr', 'CMYK'):
    np.testing.assert_allclose(decoded, colour, atol=2)
  if mode in ('L', 'LA'):
    np.testing.assert_allclose(decoded[..., 1], colour @ LUMA, atol=2)


def test_16_bits_are_rounded_to_8():
  deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  image, done = decode_rgb(encode(deep), (256, 256))
  expected = np.rint(deep / 257)[..., np.newaxis]
  np.testing.assert_array_equal(image, np.broadcast_to(expected, image.shape))
  assert done == ['16-bit']


@pytest.mark.parametrize(
  ('encoded', 'message'),
  [
    (encode(np.zeros((2, 2), np.float32), 'TIFF'), 'floating-point pixels'),
    (encode(np.full((2, 2), 65536, np.int32), 'TIFF'), 'more than 16 bits'),
    (encode(np.full((2, 2), -1, np.int32), 'TIFF'), 'more than 16 bits'),
    # Pillow would start another program for this one.
    (encode(Image.new('L', (4, 4)), 'EPS'), 'unknown format'),
  ],
)
def test_other_images_are_refused(encoded, message):
  with pytest.raises(NoImage, match=message):
    decode_rgb(encoded, (2, 2))


def test_a_bomb_is_refused_where_pillow_would_warn(monkeypatch):
  encoded = encode(Image.new('L', (10, 10)))
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 99)
  with quiet_pillow(), pytest.raises(NoImage, match='exceeds limit of 99'):
    decode_rgb(encoded, (4, 4))
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 49)
  with pytest.raises(NoImage, match='exceeds limit of 98'):
    image_size(encoded)


FILES = [
  encode(picture(1, 9, 8), kind)
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


def chunk(name, content):
  """A chunk of a PNG file."""
  checked = name + content
  size = struct.pack('>I', len(content))
  return size + checked + struct.pack('>I', zlib.crc32(checked))


@pytest.mark.parametrize(
  ('kind', 'junk'),
  [
    ('WEBP', {'exif': b'Exif\0\0garbage'}),
    ('PNG', chunk(b'eXIf', b'garbage')),
    ('PNG', chunk(b'tEXt', b'Raw profile type exif\0\nexif\n  8\nzzzz')),
    ('PNG', chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0<a b="\xa8\xff"/>')),
  ],
)
def test_broken_metadata_beside_whole_pixels_is_passed_over(kind, junk):
  pixels = picture(0)
  if kind == 'PNG':
    encoded = encode(pixels)
    encoded = encoded[:33] + junk + encoded[33:]
  else:
    encoded = encode(pixels, kind, lossless=True, **junk)
  with quiet_pillow():
    assert image_size(encoded) == (4, 5)
    image, done = decode_rgb(encoded, (4, 5))
  np.testing.assert_array_equal(image, pixels)
  assert done == []
  with quiet_pillow(), pytest.raises(NoImage):
    decode_rgb(encoded[:-30], (4, 5))


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 4000), (4000, 1)])
def test_images_of_any_shape_become_the_size_that_is_asked_for(height, width):
  encoded = encode(np.full((height, width, 3), 7, np.uint8))
  assert image_size(encoded) == (height, width)
  image, done = decode_rgb(encoded, (6, 5))
  np.testing.assert_array_equal(image, np.full((6, 5, 3), 7))
  assert done == ['resized']
