"""Mixup and CutMix: their shares, their closed forms, their labels."""

import jax
import numpy as np
import pytest

from advjax.augmentation import mixing
from tests.augmentation.draws import likely

NUM_DRAWS = 2000
SIZE = 8
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(2, SIZE, SIZE, 3)).astype(np.float32)
LABELS = np.eye(4, dtype=np.float32)[[1, 3]]


@pytest.fixture(scope='module')
def mixed():
  """Images and labels of one or the other by many keys; which one it was."""
  examples = [(IMAGES[i], LABELS[i]) for i in (0, 1)]
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)

  def run(key):
    return mixing.mix(key, *examples, mixup_strength=0.4, cutmix_strength=1.0)

  images, labels = map(np.asarray, jax.jit(jax.vmap(run))(keys))
  own, partners = (images == IMAGES[i] for i in (0, 1))
  return images, labels, (own | partners).all((1, 2, 3))


def test_one_of_both_with_probability_a_half_and_labels_are_shares(mixed):
  images, labels, is_pasted = mixed
  assert images.min() >= 0 and images.max() <= 1
  assert labels.shape == (NUM_DRAWS, 4)
  np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
  assert labels.min() >= 0
  assert (labels[:, [0, 2]] == 0).all()
  # Five standard deviations.
  assert abs(is_pasted.mean() - 0.5) < 5 * (0.25 / NUM_DRAWS) ** 0.5


def test_mixup_is_the_closed_form(mixed):
  images, labels, is_pasted = mixed
  images, share = images[~is_pasted], labels[~is_pasted, 1]
  assert likely(share, 'beta', 0.4, 0.4)
  share = share[:, None, None, None].astype(np.float64)
  expected = share * IMAGES[0] + (1 - share) * IMAGES[1]
  np.testing.assert_allclose(images, expected, atol=1e-6)


def test_cutmix_pastes_a_rectangle_as_in_the_paper(mixed):
  images, labels, is_pasted = mixed
  inside = (images[is_pasted] == IMAGES[1]).all(-1)
  shares = labels[is_pasted, 3]
  np.testing.assert_allclose(inside.mean((1, 2)), shares, atol=1e-6)
  rows, columns = inside.any(2), inside.any(1)
  np.testing.assert_array_equal(inside, rows[:, :, None] & columns[:, None])
  for line in (rows, columns):
    # Without gaps: it begins once at most.
    padded = np.pad(line.astype(int), ((0, 0), (1, 0)))
    assert ((np.diff(padded) == 1).sum(1) <= 1).all()
  rng = np.random.default_rng(1)
  side = (SIZE * np.sqrt(1 - rng.beta(1, 1, 20000))).astype(int)
  lengths = []
  for _ in range(2):
    start = rng.integers(SIZE, size=20000) - side // 2
    lengths.append(np.minimum(start + side, SIZE) - np.maximum(start, 0))
  expected = lengths[0] * lengths[1] / SIZE**2
  bound = 5 * expected.std() / is_pasted.sum() ** 0.5
  assert abs(shares.mean() - expected.mean()) < bound
  assert abs((shares == 0).mean() - (expected == 0).mean()) < 0.02
  np.testing.assert_allclose(shares.std(), expected.std(), rtol=0.1)
