"""Mixup and CutMix: their shares, their closed forms, their labels."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats

from advjax.augmentation import mixing

NUM_DRAWS = 1000
SIZE = 8
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(2, SIZE, SIZE, 3)).astype(np.float32)
LABELS = np.eye(4, dtype=np.float32)[[1, 3]]
BOTH = {'mixup_strength': 0.4, 'cutmix_strength': 1.0}


@pytest.fixture(scope='module')
def mixed():
  """Images and labels by each of the three functions, with many keys."""
  one, other = ((IMAGES[i], LABELS[i]) for i in (0, 1))
  functions = {
    'mixup': functools.partial(mixing.mixup, strength=0.4),
    'cutmix': functools.partial(mixing.cutmix, strength=1.0),
    'either': functools.partial(mixing.mixup_or_cutmix, **BOTH),
  }
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)

  def run(key):
    return {name: f(key, one, other) for name, f in functions.items()}

  return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(keys))


def likely(values, distribution, *args):
  return scipy.stats.kstest(values, distribution, args)[1] > 1e-4


def blend(share):
  share = share[:, None, None, None].astype(np.float64)
  return share * IMAGES[0] + (1 - share) * IMAGES[1]


@pytest.mark.parametrize('name', ['mixup', 'cutmix', 'either'])
def test_labels_are_shares_of_the_two_classes(mixed, name):
  images, labels = mixed[name]
  assert images.min() >= 0 and images.max() <= 1
  assert labels.shape == (NUM_DRAWS, 4)
  np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
  assert labels.min() >= 0
  assert (labels[:, [0, 2]] == 0).all()


def test_mixup_is_the_closed_form(mixed):
  images, labels = mixed['mixup']
  np.testing.assert_allclose(images, blend(labels[:, 1]), atol=1e-6)
  assert likely(labels[:, 1], 'beta', 0.4, 0.4)


def pasted(images):
  """Where the pixels are the partner's; the others are the image's own."""
  inside = (images == IMAGES[1]).all(-1)
  assert (inside | (images == IMAGES[0]).all(-1)).all()
  return inside


def test_cutmix_pastes_a_rectangle_of_the_share_of_the_label(mixed):
  images, labels = mixed['cutmix']
  inside = pasted(images)
  np.testing.assert_allclose(inside.mean((1, 2)), labels[:, 3], atol=1e-6)
  rows, columns = inside.any(2), inside.any(1)
  np.testing.assert_array_equal(inside, rows[:, :, None] & columns[:, None])
  for line in (rows, columns):
    # Without gaps: it begins once at most.
    padded = np.pad(line.astype(int), ((0, 0), (1, 0)))
    assert ((np.diff(padded) == 1).sum(1) <= 1).all()


def test_cutmix_draws_as_in_the_paper(mixed):
  rng = np.random.default_rng(1)
  side = (SIZE * np.sqrt(1 - rng.beta(1, 1, 20000))).astype(int)
  lengths = []
  for _ in range(2):
    start = rng.integers(SIZE, size=20000) - side // 2
    lengths.append(np.minimum(start + side, SIZE) - np.maximum(start, 0))
  expected = lengths[0] * lengths[1] / SIZE**2
  shares = mixed['cutmix'][1][:, 3]
  bound = 5 * expected.std() / NUM_DRAWS**0.5
  assert abs(shares.mean() - expected.mean()) < bound
  assert abs((shares == 0).mean() - (expected == 0).mean()) < 0.02
  np.testing.assert_allclose(shares.std(), expected.std(), rtol=0.1)


def test_one_of_both_with_probability_a_half(mixed):
  images, labels = mixed['either']
  averaged = abs(images - blend(labels[:, 1])).max((1, 2, 3)) < 1e-5
  # With a share of 0 or 1 it may be either.
  certain = labels.max(1) < 1 - 1e-4
  assert pasted(images[certain & ~averaged]).any((1, 2)).all()
  # 5 deviations, and what CutMix loses to rectangles without a pixel.
  ratio = averaged[certain].mean()
  assert 0.42 < ratio < 0.6
