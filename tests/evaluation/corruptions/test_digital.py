"""Contrast, warps, pixels and JPEG against closed forms and Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from advjax.evaluation.corruptions import SEVERITIES, corrupt

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (2, 20, 33, 3), np.uint8)
IMAGES = PIXELS / np.float32(255)


@pytest.mark.parametrize(
  ('severity', 'factor'), [*enumerate([0.75, 0.5, 0.4, 0.3, 0.15], 1)]
)
def test_contrast_shrinks_towards_each_channel_s_mean(severity, factor):
  found = corrupt(IMAGES, 'contrast', severity, seed=0)
  np.testing.assert_allclose(found.mean((1, 2)), IMAGES.mean((1, 2)), atol=1e-5)
  np.testing.assert_allclose(
    np.diff(found, axis=1), factor * np.diff(IMAGES, axis=1), atol=1e-6
  )


@pytest.mark.parametrize(
  ('severity', 'share'), [*enumerate([0.95, 0.9, 0.85, 0.75, 0.65], 1)]
)
def test_pixelate_is_pillow_s_box(severity, share):
  found = corrupt(IMAGES, 'pixelate', severity, seed=0)
  small = int(33 * share), int(20 * share)
  for pixels, image in zip(PIXELS, found, strict=True):
    expected = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    expected = expected.resize((33, 20), Image.Resampling.BOX)
    # Pillow rounds twice to 8 bits.
    assert np.abs(255 * image - np.asarray(expected)).max() < 1.1
  grey = corrupt(IMAGES[..., 1:2], 'pixelate', severity, seed=0)
  np.testing.assert_array_equal(grey[..., 0], found[..., 1])


@pytest.mark.parametrize(
  ('severity', 'quality'), [*enumerate([80, 65, 58, 50, 40], 1)]
)
@pytest.mark.parametrize('channels', [1, 3])
def test_jpeg_is_pillow_s_at_its_quality(severity, quality, channels):
  found = corrupt(IMAGES[..., :channels], 'jpeg_compression', severity, seed=0)
  for pixels, image in zip(PIXELS, found, strict=True):
    file = io.BytesIO()
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    picture.save(file, 'JPEG', quality=quality)
    expected = np.asarray(Image.open(file)).reshape(image.shape)
    np.testing.assert_allclose(255 * image, expected, atol=1e-4)


def ramp(angle):
  """Height grows evenly in one direction: interpolation does not change it."""
  y, x = np.indices((32, 32)) / 64
  height = 0.5 + np.cos(angle) * (x - 0.25) + np.sin(angle) * (y - 0.25)
  return height[np.newaxis, ..., np.newaxis].astype(np.float32)


def bend(images):
  """The largest second difference away from the border."""
  inside = images[:, 8:-8, 8:-8].astype(float)
  return max(np.abs(np.diff(inside, 2, axis)).max() for axis in (1, 2))


def test_elastic_is_affine_at_first_and_bends_then():
  bends = []
  for severity in SEVERITIES:
    found = corrupt(ramp(0.3), 'elastic_transform', severity, seed=0)
    assert np.abs(found - ramp(0.3)).max() > 0.005
    bends.append(bend(found))
  assert bends[0] < 1e-6
  assert 1e-5 < bends[1] < bends[2] < bends[4]


def test_elastic_moves_points_no_further_than_it_may():
  """Coordinates as images: severity 1 moves corners of a triangle by 8 %."""
  y, x = np.indices((32, 32))
  images = np.repeat((np.stack([y, x], 0) / 64 + 0.2)[..., None], 30, -1)
  images = np.moveaxis(images, -1, 1).reshape(60, 32, 32, 1)
  found = corrupt(images, 'elastic_transform', 1, seed=0)
  moved = 64 * (found - images)[:, 12:20, 12:20]
  assert 2 < np.abs(moved).max() < 3 * 0.08 * 32
  # Either way, as often.
  assert 0.2 < (moved.mean((1, 2, 3)) > 0).mean() < 0.8
