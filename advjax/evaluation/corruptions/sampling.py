"""What several corruptions share: sizes, interpolation and random terrain."""

from collections.abc import Sequence

import numpy as np


def enlargement(images: np.ndarray) -> float:
  """By how much lengths in pixels grow, given for sides of 32; at least 1."""
  return max(1.0, min(images.shape[1:3]) / 32)


def linear_weights(positions: np.ndarray, count: int) -> np.ndarray:
  """Interpolates linearly between `count` samples at 0, 1, ...: `[P, count]`.

  Example:
    >>> linear_weights(np.array([0.0, 1.25]), 3)
    array([[1.  , 0.  , 0.  ],
           [0.  , 0.75, 0.25]])
  """
  distances = np.abs(positions[:, np.newaxis] - np.arange(count))
  return np.maximum(0, 1 - distances)


def zoom(images: np.ndarray, factor: float) -> np.ndarray:
  """Enlarges `[n, H, W, C]` about the centre, by a factor of at least 1."""

  def weights(size: int) -> np.ndarray:
    center = (size - 1) / 2
    return linear_weights(center + (np.arange(size) - center) / factor, size)

  rows, height, width, channels = images.shape
  flat = weights(height) @ images.reshape(rows, height, width * channels)
  return weights(width) @ flat.reshape(images.shape)


def streak(
  images: np.ndarray, length: float, sigma: float, angles: np.ndarray
) -> np.ndarray:
  """Smears `[n, H, W, C]` along a line, one angle (in radians) per image.

  `sum_t w_t x(p + round(t u))`, with u in the direction of the angle, t = 0 to
  2 ceil(length) and w_t proportional to exp(-t^2 / (2 sigma^2)); beyond the
  border the pixel at the border goes on. As ImageMagick's motion blur.
  """
  steps = np.arange(2 * int(np.ceil(length)) + 1)
  weights = np.exp(-(steps**2) / (2 * sigma**2))
  weights /= weights.sum()
  rows, height, width, _ = images.shape
  every = np.arange(rows)[:, np.newaxis, np.newaxis]
  result = np.zeros_like(images)
  for step, weight in zip(steps, weights, strict=True):
    # Halves go down, as in ImageMagick.
    down = np.ceil(step * np.sin(angles) - 0.5).astype(int)[:, np.newaxis]
    right = np.ceil(step * np.cos(angles) - 0.5).astype(int)[:, np.newaxis]
    y = np.clip(np.arange(height) + down, 0, height - 1)
    x = np.clip(np.arange(width) + right, 0, width - 1)
    result += weight * images[every, y[:, :, np.newaxis], x[:, np.newaxis]]
  return result


def plasma(
  random: Sequence[np.random.Generator],
  height: int,
  width: int,
  decay: float,
) -> np.ndarray:
  """Random terrains from 0 to 1 by midpoint displacement: `[n, H, W]`.

  Fournier, Fussell and Carpenter 1982. On a torus whose side is a power of 2:
  the middle of every square is the mean of its corners and noise, the middle of
  every edge the mean of its four neighbours and noise; from one level to the
  next the noise gets smaller by decay^2.
  """
  side = 1 << (max(height, width) - 1).bit_length()
  noise = np.stack([own.uniform(-1, 1, (side, side)) for own in random])
  terrain = np.zeros_like(noise)
  step, size = side, 1.0
  while step > 1:
    half = step // 2
    on, off = slice(None, None, step), slice(half, None, step)
    corners = terrain[:, on, on]
    below = np.roll(corners, -1, 1)
    squares = corners + below + np.roll(corners + below, -1, 2)
    terrain[:, off, off] = squares / 4 + size * noise[:, off, off]
    centers = terrain[:, off, off]
    edges = corners + np.roll(corners, -1, 2) + centers + np.roll(centers, 1, 1)
    terrain[:, on, off] = edges / 4 + size * noise[:, on, off]
    edges = corners + below + centers + np.roll(centers, 1, 2)
    terrain[:, off, on] = edges / 4 + size * noise[:, off, on]
    step, size = half, size / decay**2
  terrain -= terrain.min(axis=(1, 2), keepdims=True)
  terrain /= terrain.max(axis=(1, 2), keepdims=True)
  return terrain[:, :height, :width]
