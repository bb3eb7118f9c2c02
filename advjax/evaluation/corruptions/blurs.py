"""Corruptions that mix pixels with their neighbours."""

import numpy as np
import scipy  # Imports ndimage, which is slow, on its first use.

from advjax.evaluation.corruptions.noises import Generators
from advjax.evaluation.corruptions.sampling import (
  enlargement,
  linear_weights,
  streak,
  zoom,
)


def defocus_blur(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Spreads every pixel over a disc with soft edges: out of focus."""
  del random
  radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[
    severity - 1
  ]
  kernel = _disc(radius, softness, enlargement(images))
  return scipy.ndimage.correlate(
    images, kernel[np.newaxis, :, :, np.newaxis], mode='mirror'
  )


def _disc(radius: float, softness: float, factor: float) -> np.ndarray:
  """A disc of whole pixels, blurred; enlarged by linear interpolation."""
  offsets = np.arange(-2, 3)
  squares = offsets**2 + offsets[:, np.newaxis] ** 2
  disc = (squares <= radius**2).astype(float)
  soft = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * softness**2))
  for axis in (0, 1):
    disc = scipy.ndimage.correlate1d(disc, soft, axis, mode='constant')
  reach = int(np.ceil(3 * factor)) - 1
  weights = linear_weights(np.arange(-reach, reach + 1) / factor + 2, 5)
  disc = weights @ disc @ weights.T
  return disc / disc.sum()


def glass_blur(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Blurs, copies near pixels over one another, and blurs: frosted glass.

  Pixel by pixel, from the last to the first: (y, x) becomes what (y + a, x + b)
  is by then, a and b drawn from -d to d - 1. The paper speaks of a shuffle, but
  its code, which made CIFAR-10-C, copies: an exchange would be much stronger,
  for it carries pixels on and on.
  """
  sigma, reach, rounds = (
    (0.05, 1, 1),
    (0.25, 1, 1),
    (0.4, 1, 1),
    (0.25, 1, 2),
    (0.4, 1, 2),
  )[severity - 1]
  factor = enlargement(images)
  reach = round(reach * factor)
  sigmas = (0, sigma * factor, sigma * factor, 0)
  images = scipy.ndimage.gaussian_filter(images, sigmas, mode='nearest')
  rows, height, width, _ = images.shape
  places = [
    (y, x)
    for y in range(height - reach, reach, -1)
    for x in range(width - reach, reach, -1)
  ]
  size = (rounds * len(places), 2)
  moves = np.stack([own.integers(-reach, reach, size) for own in random])
  every = np.arange(rows)
  for (y, x), move in zip(rounds * places, moves.swapaxes(0, 1), strict=True):
    images[:, y, x] = images[every, y + move[:, 0], x + move[:, 1]]
  return scipy.ndimage.gaussian_filter(images, sigmas, mode='nearest')


def motion_blur(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Smears each image along a line of its own angle, -45 to 45 degrees."""
  length, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
  factor = enlargement(images)
  angles = np.array([own.uniform(-np.pi / 4, np.pi / 4) for own in random])
  return streak(images, length * factor, sigma * factor, angles)


def zoom_blur(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """The mean of the image and of itself, ever larger: moving towards it."""
  del random
  largest = (6, 11, 15, 20, 25)[severity - 1]  # percent
  zoomed = np.copy(images)
  for percent in range(largest + 1):
    zoomed += zoom(images, 1 + percent / 100)
  return zoomed / (largest + 2)
