"""Interpolation, streaks and terrain against loops and SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from advjax.evaluation.corruptions import sampling

RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 12, 17, 3))


@pytest.mark.parametrize('factor', [1, 1.07, 2.5])
def test_zoom_is_linear_interpolation_about_the_center(factor):
  centers = np.array([11, 16]) / 2
  for image, zoomed in zip(IMAGES, sampling.zoom(IMAGES, factor), strict=True):
    for channel in range(3):
      expected = ndimage.affine_transform(
        image[..., channel],
        np.eye(2) / factor,
        centers - centers / factor,
        order=1,
        mode='nearest',
      )
      np.testing.assert_allclose(zoomed[..., channel], expected, atol=1e-12)


def test_a_streak_is_a_sum_of_shifts():
  angles = np.array([0.3, -2.0])
  found = sampling.streak(IMAGES, 2.5, 1.5, angles)
  weights = np.exp(-(np.arange(7) ** 2) / 4.5)
  for image, angle, smeared in zip(IMAGES, angles, found, strict=True):
    for y, x in [(0, 0), (5, 8), (11, 16), (0, 16)]:
      expected = 0
      for t, weight in enumerate(weights / weights.sum()):
        row = min(max(y + round(t * np.sin(angle)), 0), 11)
        column = min(max(x + round(t * np.cos(angle)), 0), 16)
        expected += weight * image[row, column]
      np.testing.assert_allclose(smeared[y, x], expected, atol=1e-12)


def test_plasma_is_midpoint_displacement():
  """Point by point, on a torus of 8 x 8."""
  noise = np.random.default_rng(5).uniform(-1, 1, (8, 8))
  terrain = np.zeros((8, 8))
  for half in (4, 2, 1):
    amplitude = (half / 4) ** (2 * np.log2(1.5))  # 1 / 1.5^2 per level.
    middle = [
      (y, x, [(a, b) for a in (-half, half) for b in (-half, half)])
      for y in range(half, 8, 2 * half)
      for x in range(half, 8, 2 * half)
    ]
    edges = [
      (y, x, [(-half, 0), (half, 0), (0, -half), (0, half)])
      for y in range(0, 8, half)
      for x in range(0, 8, half)
      if (y // half + x // half) % 2
    ]
    for y, x, neighbours in middle + edges:
      around = [terrain[(y + a) % 8, (x + b) % 8] for a, b in neighbours]
      terrain[y, x] = np.mean(around) + amplitude * noise[y, x]
  terrain = (terrain - terrain.min()) / np.ptp(terrain)
  found = sampling.plasma([np.random.default_rng(5)], 8, 7, 1.5)
  np.testing.assert_allclose(found, terrain[np.newaxis, :, :7], atol=1e-12)


def test_lengths_grow_with_the_shorter_side_from_32_on():
  sides = [(8, 50), (28, 28), (32, 99), (64, 80), (300, 224)]
  found = [sampling.enlargement(np.zeros((1, *side, 1))) for side in sides]
  assert found == [1, 1, 1, 2, 7]
