"""Noises: what their draws are distributed as."""

import numpy as np
import scipy.stats

from advjax import augmentation
from tests.augmentation.draws import NUM_DRAWS, likely, many


def test_gaussian_noise_has_a_uniform_deviation_per_image():
  image = np.full((8, 8, 3), 0.5)
  noise = many(augmentation.gaussian_noise, image, 0.1) - 0.5
  deviations = noise.std((1, 2, 3))
  # A deviation of 192 draws is within 5 %, mostly: the distribution of
  # deviations is that of a uniform one within what 500 can tell.
  assert likely(deviations / 0.1, 'uniform')
  assert deviations.max() < 0.12
  standardised = (noise / deviations[:, None, None, None]).ravel()
  assert likely(standardised[::7], 'norm')
  # Every value has a draw of its own.
  assert abs(np.corrcoef(noise[:, 0, 0].T) - np.eye(3)).max() < 0.3
  assert (many(augmentation.gaussian_noise, image, 0.0) == 0.5).all()
  clipped = many(augmentation.gaussian_noise, image, 1.0)
  assert (clipped.min(), clipped.max()) == (0, 1)


def test_poisson_noise_counts_photons():
  levels = np.array([0.0, 0.04, 0.3, 0.6])
  image = np.tile(levels[:, None, None], (1, 4, 3))
  found = many(augmentation.poisson_noise, image, 50.0)
  counts = np.moveaxis(found, 1, 0).reshape(4, -1) * 50
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
  assert (counts[0] == 0).all()
  for level, values in zip(levels[1:], np.round(counts[1:]), strict=True):
    mean = 50 * level
    num = values.size
    assert abs(values.mean() - mean) < 5 * (mean / num) ** 0.5
    # The variance of x is x / rate, that of counts their mean. At the
    # highest level, white (50 counts) is four deviations away.
    spread = 5 * mean * (2 / num + 1 / (mean * num)) ** 0.5
    assert abs(values.var() - mean) < spread
    often = np.bincount(values.astype(int), minlength=51)[:51]
    expected = num * scipy.stats.poisson.pmf(np.arange(51), mean)
    clear = expected > 10
    chi2 = ((often - expected) ** 2 / expected)[clear].sum()
    assert scipy.stats.chi2.sf(chi2, clear.sum()) > 1e-4
  assert many(augmentation.poisson_noise, image, 2.0).max() == 1


def test_salt_and_pepper_hits_whole_pixels():
  image = np.random.default_rng(0).uniform(0.1, 0.9, (8, 8, 3))
  image = image.astype(np.float32)
  found = many(augmentation.salt_and_pepper_noise, image, 0.2)
  salt, pepper = ((found == value).all(-1) for value in (1, 0))
  kept = (found == image).all(-1)
  assert (salt | pepper | kept).all()
  bound = 5 * (0.1 * 0.9 / salt.size) ** 0.5
  assert abs(salt.mean() - 0.1) < bound
  assert abs(pepper.mean() - 0.1) < bound
  # Wherever it is in the image.
  assert (abs(salt.mean(0) - 0.1) < 5 * (0.09 / NUM_DRAWS) ** 0.5).all()
  assert (many(augmentation.salt_and_pepper_noise, image, 0.0) == image).all()
