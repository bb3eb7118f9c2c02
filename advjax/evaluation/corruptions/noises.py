"""Corruptions that draw every value of a pixel anew."""

import numpy as np

Generators = list[np.random.Generator]


def gaussian_noise(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """`x + s n` with n from the normal distribution: little light."""
  scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
  return images + scale * np.stack(
    [own.standard_normal(images.shape[1:]) for own in random]
  )


def shot_noise(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """`Poisson(c x) / c`: light comes in c photons."""
  photons = (500, 250, 100, 75, 50)[severity - 1]
  counts = [
    own.poisson(photons * image)
    for own, image in zip(random, images, strict=True)
  ]
  return np.stack(counts) / photons


def impulse_noise(
  images: np.ndarray, severity: int, random: Generators
) -> np.ndarray:
  """Salt and pepper: a share of the values is 0 or 1, as often this as that."""
  share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
  draws = np.stack([own.random(images.shape[1:]) for own in random])
  salt_or_pepper = (draws < share / 2).astype(images.dtype)
  return np.where(draws < share, salt_or_pepper, images)
