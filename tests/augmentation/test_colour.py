"""Colour jitter against Pillow, colorsys and formulas in NumPy float64."""

import colorsys

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest

from advjax.augmentation import colour
from tests.augmentation.draws import likely, many

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])
# Pillow's, and what torchvision blends with.
ADJUSTMENTS = {
  'brightness': (PIL.ImageEnhance.Brightness, lambda image: np.zeros(())),
  'contrast': (PIL.ImageEnhance.Contrast, lambda image: (image @ LUMA).mean()),
  'saturation': (
    PIL.ImageEnhance.Color,
    lambda image: (image @ LUMA)[..., None],
  ),
}


@pytest.mark.parametrize('name', ADJUSTMENTS)
def test_adjustments_are_pillows_and_factors_are_uniform(name):
  enhancer, other = ADJUSTMENTS[name]
  jitter = getattr(colour, f'random_{name}')
  # Without the ends of the range: nothing is clipped.
  pixels = (100 + PIXELS * 0.2).astype(np.uint8)
  exact = pixels / 255
  found = many(jitter, exact, 0.3)
  # The factor by least squares, as each of these is a blend.
  from_other = exact - other(exact)
  factors = ((found - other(exact)) * from_other).sum((1, 2, 3))
  factors /= (from_other**2).sum()
  assert likely(factors, 'uniform', 0.7, 0.6)
  blends = factors[:, None, None, None] * from_other + other(exact)
  # dm-pix rounds the first of the grey weights to four digits.
  np.testing.assert_allclose(found, blends, atol=2e-4)
  enhance = enhancer(PIL.Image.fromarray(pixels)).enhance
  for image, factor in zip(found[:20], factors, strict=False):
    # Pillow rounds the result, and the grey that it blends with.
    assert abs(image - np.asarray(enhance(factor)) / 255).max() <= 2.01 / 255
  unchanged = many(jitter, exact, 0.0)[0]
  np.testing.assert_array_equal(unchanged, exact.astype(np.float32))
  clipped = many(jitter, PIXELS / 255, 1.0)
  assert (clipped.min(), clipped.max()) == (0, 1)


def test_contrast_of_grey_images():
  grey = PIXELS[:4, :4, :1] / 255
  found = many(colour.random_contrast, grey, 0.5)
  centred = found.clip(0, 1) - grey.mean()
  inside = (found > 0).all((1, 2, 3)) & (found < 1).all((1, 2, 3))
  factors = centred[:, 0, 0] / (grey[0, 0] - grey.mean())
  expected = factors[:, :, None, None] * (grey - grey.mean())
  np.testing.assert_allclose(centred[inside], expected[inside], atol=1e-4)
  assert inside.sum() > 50


def turned(image, angle):
  """Hues turned in colorsys."""
  flat = [
    colorsys.hsv_to_rgb((h + angle) % 1, s, v)
    for h, s, v in (colorsys.rgb_to_hsv(*p) for p in image.reshape(-1, 3))
  ]
  return np.array(flat).reshape(image.shape)


def test_hues_turn_by_a_uniform_angle():
  # Greys, and ties of the largest channel, have hues of their own.
  image = (PIXELS / 255).astype(np.float32)
  image[0, :4] = [[0.5] * 3, [0.0] * 3, [0.7, 0.7, 0.1], [0.2, 0.9, 0.9]]
  image[0, 4] = [1, 0, 0]
  found = many(colour.random_hue, image, 0.2)
  hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in found[:, 0, 4]])
  angles = np.where(hues > 0.5, hues - 1, hues)
  assert likely(angles, 'uniform', -0.2, 0.4)
  for moved, angle in zip(found[:10], angles, strict=False):
    np.testing.assert_allclose(moved, turned(image, angle), atol=1e-5)
  assert found.min() >= 0 and found.max() <= 1
