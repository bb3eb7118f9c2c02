"""Corruptions by the weather."""

import numpy as np

from advjax.evaluation.corruptions.noises import Generators
from advjax.evaluation.corruptions.sampling import (
  enlargement,
  plasma,
  streak,
  zoom,
)

# The eye's shares of red, green and blue in grey (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_ICE = np.array([0.85, 0.95, 1.0])


def snow(images: np.ndarray, severity: int, random: Generators) -> np.ndarray:
  """`m x + (1 - m) max(x, 1.5 grey(x) + 0.5) + flakes + turned flakes`.

  Flakes are what of enlarged Gaussian noise is above a threshold, smeared along
  the way that they fall.
  """
  mean, scale, size, threshold, length, sigma, mix = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
  )[severity - 1]
  factor = enlargement(images)
  shape = (*images.shape[1:3], 1)
  flakes = np.stack([own.normal(mean, scale, shape) for own in random])
  flakes = zoom(flakes, size * factor)
  flakes = np.where(flakes < threshold, 0, np.minimum(flakes, 1))
  angles = np.array([-own.uniform(np.pi / 4, 3 * np.pi / 4) for own in random])
  flakes = streak(flakes, length * factor, sigma * factor, angles)
  grey = images
  if images.shape[-1] == 3:
    grey = (images @ _LUMINANCE)[..., np.newaxis]
  whitened = mix * images + (1 - mix) * np.maximum(images, 1.5 * grey + 0.5)
  return whitened + flakes + flakes[:, ::-1, ::-1]


def frost(images: np.ndarray, severity: int, random: Generators) -> np.ndarray:
  """`a x + b ice`, where ice is a texture of ridges, not a photograph.

  The ridges are where a random terrain crosses its middle height.
  """
  light, amount = (
    (1, 0.2),
    (1, 0.3),
    (0.9, 0.4),
    (0.85, 0.4),
    (0.75, 0.45),
  )[severity - 1]
  height, width, channels = images.shape[1:]
  terrain = plasma(random, height, width, decay=1.5)
  ice = (1 - np.abs(2 * terrain - 1))[..., np.newaxis]
  return light * images + amount * ice * (_ICE if channels == 3 else 1)


def fog(images: np.ndarray, severity: int, random: Generators) -> np.ndarray:
  """`(x + a terrain) max(x) / (max(x) + a)`, a random terrain in [0, 1]."""
  amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[
    severity - 1
  ]
  height, width = images.shape[1:3]
  terrain = plasma(random, height, width, decay)[..., np.newaxis]
  largest = images.max(axis=(1, 2, 3), keepdims=True)
  return (images + amount * terrain) * largest / (largest + amount)


def brightness(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Adds to the value of hue, saturation and value: bright daylight."""
  del random
  more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
  if images.shape[-1] == 1:
    return images + more
  from matplotlib import colors  # Slow to import: not at the top.

  hsv = colors.rgb_to_hsv(images)
  hsv[..., 2] = np.minimum(hsv[..., 2] + more, 1)
  return colors.hsv_to_rgb(hsv)
