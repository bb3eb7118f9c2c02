"""Noise stays in the ball and the box, and is distributed as it says."""

import jax
import numpy as np
import pytest

from advjax.evaluation.noise import NOISES, Noise, noises

NUM_IMAGES, SHAPE, SIZE = 600, (4, 3, 2), 24
RNG = np.random.default_rng(0)
# Thirds: grey, anywhere, and on the border of the box.
IMAGES = np.concatenate(
  [
    np.full((200, *SHAPE), 0.5),
    RNG.random((200, *SHAPE)),
    RNG.integers(0, 2, (200, *SHAPE)),
  ]
).astype(np.float32)
LABELS = np.zeros(NUM_IMAGES, np.int32)
GREY = slice(0, 200)
# In each third: radii that keep grey images off the border, 0, small ones, and
# those of balls that hold the box.
EPSILONS = np.tile(
  np.repeat([0.25, 0.0, 1e-3, 30.0], [110, 30, 30, 30]), 3
).astype(np.float32)
KEYS = jax.random.wrap_key_data(
  RNG.integers(2**32, size=(NUM_IMAGES, 2), dtype=np.uint32)
)
PAIRS = [(name, norm) for name in NOISES for norm in ('linf', 'l2', 'l1')]
each_pair = pytest.mark.parametrize(('name', 'norm'), PAIRS)


def logits_fn(images):
  return images.reshape(len(images), -1)[:, :2]


@jax.jit
def make_all(images, epsilons, keys):
  """One program for all, as compiling takes longer than running."""
  return {
    pair: Noise(*pair)(logits_fn, images, LABELS, epsilons, keys)
    for pair in PAIRS
  }


@pytest.fixture(scope='module')
def noisy():
  return jax.tree.map(np.asarray, make_all(IMAGES, EPSILONS, KEYS))


def sizes(delta, norm):
  delta = np.abs(delta.reshape(len(delta), -1))
  if norm == 'linf':
    return delta.max(1)
  return delta.sum(1) if norm == 'l1' else np.sqrt((delta**2).sum(1))


@each_pair
def test_noise_stays_in_ball_and_box(noisy, name, norm):
  found = noisy[name, norm]
  assert found.dtype == np.float32
  assert found.min() >= 0
  assert found.max() <= 1
  delta = found.astype(np.float64) - IMAGES
  over = sizes(delta, norm) - EPSILONS.astype(np.float64)
  tolerance = 1e-5 if norm == 'l1' else 1e-6
  assert (over <= tolerance * np.maximum(1, EPSILONS)).all()
  still = EPSILONS == 0
  np.testing.assert_array_equal(
    found[still].view(np.int32), IMAGES[still].view(np.int32)
  )
  assert (sizes(delta[~still], norm) > 0).mean() > 0.99


def relative(noisy, name, norm):
  """Perturbations of grey images in the unit of a radius of 1 / 4, `[N, D]`."""
  rows = np.flatnonzero(EPSILONS[GREY] == 0.25)
  delta = noisy[name, norm][rows].astype(np.float64) - 0.5
  return 4 * delta.reshape(len(rows), -1)


@each_pair
def test_noise_has_no_direction(noisy, name, norm):
  delta = relative(noisy, name, norm)
  # Mean 0, no correlation of neighbours, up to four standard errors.
  errors = 4 * delta.std() / np.sqrt(delta.size)
  assert abs(delta.mean()) < errors
  products = (delta[:, 1:] * delta[:, :-1]).mean()
  assert abs(products) < 4 * delta.var() / np.sqrt(delta.size)
  # Keys differ, so rows do; of a single value there are 48 perturbations.
  alike = name == 'salt_and_pepper' and norm != 'linf'
  differ = len(np.unique(delta.round(6), axis=0))
  assert 30 < differ <= 48 if alike else differ == len(delta)


def test_uniform_noise_fills_the_ball(noisy):
  """|d|^D is uniform from 0 to 1."""
  for norm in ('linf', 'l2', 'l1'):
    filled = sizes(relative(noisy, 'uniform', norm), norm) ** SIZE
    quarters = np.histogram(filled, 4, (0, 1))[0] / len(filled)
    np.testing.assert_allclose(quarters, 0.25, atol=0.13)
  values = relative(noisy, 'uniform', 'linf')
  assert values.std() == pytest.approx(1 / np.sqrt(3), rel=0.03)


def test_gaussian_noise_is_normal(noisy):
  values = relative(noisy, 'gaussian', 'linf')
  assert (np.abs(values) < 0.5).mean() == pytest.approx(0.6827, abs=0.03)
  # Two standard deviations are the border of the ball.
  assert (np.abs(values) == 1).mean() == pytest.approx(0.0455, abs=0.015)
  for norm in ('l2', 'l1'):
    values = relative(noisy, 'gaussian', norm)
    np.testing.assert_allclose(sizes(values, norm), 1, atol=1e-5)
    ratio = (values**4).mean() / (values**2).mean() ** 2
    assert ratio == pytest.approx(3, abs=0.4)


def test_salt_and_pepper_spends_the_whole_budget(noisy):
  signs = relative(noisy, 'salt_and_pepper', 'linf')
  assert set(np.unique(signs)) == {-1, 1}
  rows = EPSILONS == 30
  everything = noisy['salt_and_pepper', 'l2'][rows]
  assert set(np.unique(everything)) == {0, 1}
  assert everything.mean() == pytest.approx(0.5, abs=0.05)
  # From grey, half a pixel costs 0.5 in l1 and in l2: a radius of 0.25 is for a
  # part of one alone.
  for norm in ('l2', 'l1'):
    small = relative(noisy, 'salt_and_pepper', norm)
    largest = np.sort(np.abs(small))[:, -2:]
    np.testing.assert_allclose(largest, [[0, 1]] * 110, rtol=1e-5)


@pytest.mark.parametrize(('norm', 'full'), [('l1', 4), ('l2', 16)])
def test_salt_and_pepper_sets_as_many_values_as_it_can(norm, full):
  """Each value costs 0.5 in l1, and 0.25 of the square in l2."""
  every = make_all(IMAGES, np.full(NUM_IMAGES, 2.05, np.float32), KEYS)
  found = np.asarray(every['salt_and_pepper', norm])[GREY]
  moved = np.sort(np.abs(found - 0.5).reshape(200, -1))[:, ::-1]
  # Shortened, if need be, by what a sum may have lost to rounding.
  np.testing.assert_allclose(moved[:, :full], 0.5, rtol=1e-5)
  rest = {'l1': 0.05, 'l2': np.sqrt(2.05**2 - 4)}[norm]
  np.testing.assert_allclose(moved[:, full], rest, rtol=1e-3)
  np.testing.assert_array_equal(moved[:, full + 1 :], 0)
  # Every place as often.
  places = np.abs(found - 0.5) > 0.499
  share = places.reshape(200, -1).mean(0)
  np.testing.assert_allclose(share, full / SIZE, atol=0.15)


def test_no_bounds_no_clip():
  noise = Noise('gaussian', 'linf', None)
  run = jax.jit(noise, static_argnums=0)
  found = run(logits_fn, IMAGES - 7, LABELS, 4.0, KEYS)
  delta = np.asarray(found, np.float64) - (IMAGES - 7)
  np.testing.assert_allclose(np.abs(delta).max(), 4, atol=1e-5)
  assert list(noises('linf', None)) == list(NOISES)
  assert list(noises('l1', None)) == ['uniform', 'gaussian']
  assert noises('l2', (0, 1)) == {n: Noise(n, 'l2', (0, 1)) for n in NOISES}
