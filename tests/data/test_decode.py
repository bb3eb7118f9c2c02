"""Tests of decoding single images, against the pixels they were made of."""

import io

import numpy as np
import pytest
from PIL import Image

from advjax.data.decode import decode_blocks, decode_image
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
