"""Noises and cutout: what their draws are distributed as."""

import functools

import jax
import numpy as np
import scipy.stats

from advjax import augmentation

NUM_DRAWS = 400


@functools.cache
def compiled(function):
  """One program for all strengths."""
  return jax.jit(jax.vmap(function, (0, None, None)))


def many(function, image, strength):
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
  image = np.asarray(image, np.float32)
  return np.asarray(compiled(function)(keys, image, strength))


def likely(values, distribution, *args):
  return scipy.stats.kstest(values, distribution, args)[1] > 1e-4


def test_gaussian_noise_has_a_uniform_deviation_per_image():
  noise = many(augmentation.gaussian_noise, np.full((8, 8, 3), 0.5), 0.1) - 0.5
  deviations = noise.std((1, 2, 3))
  # A deviation of 192 draws is within 5 %, mostly: the distribution of
  # deviations is that of a uniform one within what 400 can tell.
  assert likely(deviations / 0.1, 'uniform')
  assert deviations.max() < 0.12
  standardised = (noise / deviations[:, None, None, None]).ravel()
  assert likely(standardised[::7], 'norm')
  # Every value has a draw of its own.
  assert abs(np.corrcoef(noise[:, 0, 0].T) - np.eye(3)).max() < 0.3


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


def test_salt_and_pepper_hits_whole_pixels():
  image = np.random.default_rng(0).uniform(0.1, 0.9, (8, 8, 3))
  found = many(augmentation.salt_and_pepper_noise, image, 0.2)
  image = image.astype(np.float32)
  salt, pepper = ((found == value).all(-1) for value in (1, 0))
  kept = (found == image).all(-1)
  assert (salt | pepper | kept).all()
  bound = 5 * (0.1 * 0.9 / salt.size) ** 0.5
  assert abs(salt.mean() - 0.1) < bound
  assert abs(pepper.mean() - 0.1) < bound
  # Wherever it is in the image.
  assert (abs(salt.mean(0) - 0.1) < 5 * (0.09 / NUM_DRAWS) ** 0.5).all()


def test_cutout_fills_a_square_around_any_pixel():
  image = np.random.default_rng(0).uniform(0.6, 0.9, (8, 8, 3))
  for side in (3, 4):
    found = many(augmentation.cutout, image, side)
    places = set()
    for cut in found:
      inside = (cut == 0.5).all(-1)
      assert (cut[~inside] == image.astype(np.float32)[~inside]).all()
      rows, columns = (
        np.flatnonzero(inside.any(1)),
        np.flatnonzero(inside.any(0)),
      )
      places.add((rows[0], rows[-1], columns[0], columns[-1]))
      assert inside.sum() == len(rows) * len(columns)
    expected = {
      (max(y, 0), min(y + side, 8) - 1, max(x, 0), min(x + side, 8) - 1)
      for y in range(-(side // 2), 8 - side // 2)
      for x in range(-(side // 2), 8 - side // 2)
    }
    # All 64 of 400 draws: one is missed once in 10 of such tests at most.
    assert places <= expected
    assert len(places) > 0.9 * len(expected)


def test_without_strength_nothing_changes():
  image = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype('float32')
  for name, strength in (
    ('gaussian_noise', 0.0),
    ('salt_and_pepper_noise', 0.0),
    ('cutout', 0),
  ):
    found = many(getattr(augmentation, name), image, strength)[0]
    np.testing.assert_array_equal(found, image)
