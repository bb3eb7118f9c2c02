"""Square: schedule, windows and bumps, and whole runs against NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, square
from advjax._arguments import Problem
from advjax.attacks._core import loop
from advjax.attacks.square import make_square
from tests.attacks import cases
from tests.attacks import square_reference as reference

each_norm = pytest.mark.parametrize('norm', cases.NORMS)

KEY = jax.random.key(3)
SIDE, CHANNELS, BATCH, QUERIES = 11, 2, 5, 40
SHAPE = (BATCH, SIDE, SIDE, CHANNELS)
EPSILON = {'linf': 0.1, 'l2': 0.8, 'l1': 4.0}
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 1, SHAPE).astype(np.float32)
IMAGES[0] = 0.3 + 0.4 * IMAGES[0]
# On the border of the box; and the last one is fooled from the beginning.
IMAGES[1] = 0
IMAGES[2, :4] = 1
WEIGHTS = RNG.normal(size=(SIDE * SIDE * CHANNELS, 4)).astype(np.float32)


def logits_fn(images):
  return jnp.tanh(images.reshape(len(images), -1) - 0.5) @ WEIGHTS


def logits_of(image):
  return np.tanh(image.ravel() - 0.5) @ WEIGHTS.astype(np.float64)


LABELS = np.array([logits_of(x).argmax() for x in IMAGES], np.int32)
LABELS[-1] = (LABELS[-1] + 1) % 4


def margin(image, label):
  z = logits_of(image)
  return np.delete(z, label).max() - z[label]


@functools.cache
def problem(norm):
  return Problem(
    images=jnp.asarray(IMAGES),
    labels=jnp.asarray(LABELS),
    targets=None,
    epsilon=jnp.asarray(np.full(BATCH, EPSILON[norm], np.float32)),
    keys=jax.random.split(KEY, BATCH),
    lower=jnp.asarray(np.zeros((1, 1, 1, 1), np.float32)),
    upper=jnp.asarray(np.ones((1, 1, 1, 1), np.float32)),
  )


def find(norm):
  return make_square(norm=norm, num_queries=QUERIES)


@functools.cache
def compiled(norm):
  """`advance` by one step: one program for the tests of a norm."""
  search = find(norm)
  return jax.jit(
    lambda state, t, active: loop.advance(
      search, logits_fn, problem(norm), state, t, active, 1
    )
  )


@functools.cache
def begin(norm):
  return jax.jit(find(norm).start)(problem(norm)), np.zeros(BATCH, np.int32)


@functools.cache
def trace(norm):
  """The states after every step of a whole run."""
  state, t = begin(norm)
  states = []
  for _ in range(QUERIES):
    state, t = compiled(norm)(state, t, np.ones(BATCH, bool))
    states.append(jax.tree.map(np.asarray, state))
  return states


@each_norm
def test_a_run_is_that_of_numpy(norm):
  keys, states = problem(norm).keys, trace(norm)
  accepted = 0
  for row, (x, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
    x = x.astype(np.float64)
    epsilon = float(np.float32(EPSILON[norm]))
    best = reference.start(x, epsilon, norm, keys[row])
    loss = margin(best, label)
    for t, state in enumerate(states):
      if t and loss <= 0:
        candidate, _ = reference.propose(
          x, best, epsilon, norm, keys[row], t, QUERIES, 0.8
        )
        new = margin(candidate, label)
        if new > loss:
          best, loss, accepted = candidate, new, accepted + 1
      np.testing.assert_allclose(state.best.images[row], best, atol=2e-5)
      np.testing.assert_allclose(state.best.score[row], loss, atol=1e-3)
      assert state.best.fooled[row] == (loss > 0)
  assert accepted > 20


@each_norm
def test_rows_of_different_age_share_a_batch(norm):
  state, t = begin(norm)
  for step in range(2 * QUERIES):
    active = (np.arange(BATCH) % 2 == 0) == (step < QUERIES)
    state, t = compiled(norm)(state, t, jnp.asarray(active))
  jax.tree.map(np.testing.assert_array_equal, state, trace(norm)[-1])
  np.testing.assert_array_equal(t, QUERIES)


def test_nan_is_never_taken():
  def sometimes(images):
    logits = logits_fn(images)
    bright = images[:, 0, 0, 0] > 0.55
    return logits.at[:, 3].set(jnp.where(bright, jnp.nan, -100))

  images = np.full(SHAPE, 0.5, np.float32)
  images[-1] = 0.7
  result = square(
    sometimes,
    images,
    np.zeros(BATCH, np.int32),
    0.1,
    num_queries=QUERIES,
    key=KEY,
    loss_fn=lambda logits, labels: -logits[:, 0],  # Does not see the NaN.
  )
  result = np.asarray(result)
  moved = np.any(result != images, axis=(1, 2, 3))
  assert np.all(result[:-1, 0, 0, 0] < 0.55)
  assert moved[:-1].sum() > 1 and not moved[-1]


def test_targets_and_losses():
  targets = (LABELS + 2) % 4
  attack = functools.partial(
    square,
    logits_fn,
    IMAGES,
    LABELS,
    targets=targets,
    num_queries=QUERIES,
    key=KEY,
    loss_fn=losses.cross_entropy,
  )

  def loss(images):
    z = np.array([logits_of(x) for x in images])
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(BATCH), targets]

  assert np.all(loss(np.asarray(attack(0.1))) < loss(IMAGES))
  reached = [logits_of(x).argmax() for x in np.asarray(attack(0.6))]
  np.testing.assert_array_equal(reached, targets)
