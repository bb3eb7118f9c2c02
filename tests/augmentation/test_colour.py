"""Colour jitter against Pillow, colorsys and formulas in NumPy float64."""

import colorsys
import functools

import jax
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest
import scipy.stats

from advjax.augmentation import colour

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
IMAGE = PIXELS.astype(np.float32) / 255
FACTORS = np.array([0.0, 0.4, 1.0, 1.6, 2.0], np.float32)
NUM_DRAWS = 500
LUMA = np.array([0.299, 0.587, 0.114])

# Ours, Pillow's, and what torchvision blends with.
ADJUSTMENTS = {
  'brightness': (
    colour.adjust_brightness,
    PIL.ImageEnhance.Brightness,
    lambda image: np.zeros(()),
  ),
  'contrast': (
    colour.adjust_contrast,
    PIL.ImageEnhance.Contrast,
    lambda image: (image @ LUMA).mean(),
  ),
  'saturation': (
    colour.adjust_saturation,
    PIL.ImageEnhance.Color,
    lambda image: (image @ LUMA)[..., None],
  ),
}


@pytest.mark.parametrize('name', ADJUSTMENTS)
def test_adjustments_are_pillows_and_the_formulas(name):
  adjust, enhancer, other = ADJUSTMENTS[name]
  found = np.asarray(jax.jit(jax.vmap(adjust, (None, 0)))(IMAGE, FACTORS))
  np.testing.assert_array_equal(found[2], IMAGE)
  enhance = enhancer(PIL.Image.fromarray(PIXELS)).enhance
  exact = PIXELS / 255
  for image, factor in zip(found, FACTORS.astype(np.float64), strict=True):
    blend = factor * exact + (1 - factor) * other(exact)
    # dm-pix rounds the first of the grey weights to four digits.
    np.testing.assert_allclose(image, blend.clip(0, 1), atol=2e-4)
    # Pillow rounds the result, and the grey that it blends with.
    rounded = np.asarray(enhance(factor)) / 255
    assert abs(image - rounded).max() <= 2.01 / 255


def test_contrast_of_grey_images():
  grey = IMAGE[..., :1]
  found = colour.adjust_contrast(grey, 0.5)
  np.testing.assert_allclose(found, 0.5 * (grey + grey.mean()), atol=1e-6)


def turned(image, angle):
  """Hues turned in colorsys."""
  flat = [
    colorsys.hsv_to_rgb((h + angle) % 1, s, v)
    for h, s, v in (colorsys.rgb_to_hsv(*p) for p in image.reshape(-1, 3))
  ]
  return np.array(flat).reshape(image.shape)


@functools.cache
def compiled(function):
  """One program for all strengths."""
  return jax.jit(jax.vmap(function, (0, None, None)))


def many(function, image, strength):
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
  return np.asarray(compiled(function)(keys, image, strength))


def test_hues_turn_by_a_uniform_angle():
  # Greys, and ties of the largest channel, have hues of their own.
  image = IMAGE.copy()
  image[0, :4] = [[0.5] * 3, [0.0] * 3, [0.7, 0.7, 0.1], [0.2, 0.9, 0.9]]
  image[0, 4] = [1, 0, 0]
  found = many(colour.random_hue, image, 0.2)
  hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in found[:, 0, 4]])
  angles = np.where(hues > 0.5, hues - 1, hues)
  assert uniform(angles, -0.2, 0.2)
  for moved, angle in zip(found[:10], angles, strict=False):
    np.testing.assert_allclose(moved, turned(image, angle), atol=1e-5)


def uniform(values, low, high):
  """Whether values may be uniform draws from an interval."""
  assert low - 1e-5 <= values.min() and values.max() <= high + 1e-5
  return scipy.stats.kstest((values - low) / (high - low), 'uniform')[1] > 1e-4


@pytest.mark.parametrize('name', ADJUSTMENTS)
def test_factors_are_uniform(name):
  # Far from the ends of the range: nothing is clipped.
  image = 0.4 + 0.2 * IMAGE
  found = many(getattr(colour, f'random_{name}'), image, 0.3)
  other = ADJUSTMENTS[name][2](image)
  # The factor by least squares, as each of these is a blend.
  from_other = image - other
  factors = ((found - other) * from_other).sum((1, 2, 3))
  factors /= (from_other**2).sum()
  assert uniform(factors, 0.7, 1.3)
  still = many(getattr(colour, f'random_{name}'), image, 0.0)
  np.testing.assert_array_equal(still, np.broadcast_to(image, still.shape))
