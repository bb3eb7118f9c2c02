"""Square: schedule, windows and bumps, and whole runs against NumPy float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, square
from advjax.attacks._core import loop
from advjax.attacks._core.arguments import Problem
from advjax.attacks.square import bump, make_plan, make_square, window_sides
from tests.attacks import cases
from tests.attacks import square_reference as reference

pytestmark = pytest.mark.usefixtures('quick_compiles')

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
    epsilon=jnp.full(BATCH, EPSILON[norm]),
    keys=jax.random.split(KEY, BATCH),
    lower=jnp.zeros((1, 1, 1, 1)),
    upper=jnp.ones((1, 1, 1, 1)),
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
  return jax.jit(find(norm).start)(problem(norm)), jnp.zeros(BATCH, jnp.int32)


@functools.cache
def trace(norm):
  """The states after every step of a whole run."""
  state, t = begin(norm)
  states = []
  for _ in range(QUERIES):
    state, t = compiled(norm)(state, t, jnp.ones(BATCH, bool))
    states.append(jax.tree.map(np.asarray, state))
  return states


def test_the_first_windows_cover_what_the_paper_says():
  # Table of the paper for 10,000 queries and p = 0.8.
  table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16}
  table |= {1000: 16, 1001: 32, 2000: 32, 2001: 64, 4000: 64, 4001: 128}
  table |= {6000: 128, 6001: 256, 8000: 256, 8001: 512, 9999: 512}
  # The start takes the first query and has no window.
  stage = make_plan(28, 28, 10_000, 0.8, None).stage[1:]
  for query, divisor in table.items():
    if query < 9999:
      assert 2 ** stage[query] == divisor
  for count in (1, 7, 100, 5000):
    expected = [reference.share(q, count, 0.3) for q in range(count - 1)]
    stage = make_plan(28, 28, count, 0.3, None).stage[1:]
    np.testing.assert_array_equal(0.3 / 2.0**stage, expected)
  plan = make_plan(28, 28, 5000, 0.8, None)
  squares = [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
  np.testing.assert_array_equal(plan.sides, [[s, s] for s in squares])
  assert plan.stage[6] == 0 and plan.stage[7] == 1


def test_windows_fit_into_any_image():
  assert window_sides(28, 28, 0.8 / 2, odd=True) == (19, 19)
  assert window_sides(28, 28, 0.8 / 512, odd=True) == (3, 3)
  assert window_sides(1, 1, 0.8, odd=True) == (1, 1)
  assert window_sides(4, 30, 0.5, odd=False) == (4, 15)
  assert window_sides(30, 4, 0.5, odd=False) == (15, 4)
  assert window_sides(30, 4, 0.001, odd=False) == (1, 1)
  assert window_sides(1, 784, 0.25, odd=False) == (1, 196)
  assert window_sides(2, 9, 0.01, odd=True) == (2, 3)


@pytest.mark.parametrize('order', [1, 2])
def test_bumps_are_two_hills_of_opposite_sign(order):
  for size in (1, 2, 3, 4, 5, 9, 10, 25):
    rows, columns = bump(size, size, order)
    values = np.minimum(rows[1][:, None], columns[1][None])
    values = values * rows[0][:, None] * columns[0][None]
    np.testing.assert_allclose(values, reference.bump(size, order), atol=1e-14)
  rows, columns = bump(3, 8, order)
  values = rows[0][:, None] * np.minimum(rows[1][:, None], columns[1][None])
  assert np.linalg.norm(values.ravel(), order) == pytest.approx(1)


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
      np.testing.assert_allclose(state.images[row], best, atol=2e-5)
      np.testing.assert_allclose(state.score[row], loss, atol=1e-3)
      assert state.fooled[row] == (loss > 0)
  assert accepted > 20


@each_norm
def test_the_loss_never_falls_and_fooled_rows_rest(norm):
  states = trace(norm)
  for old, new in itertools.pairwise(states):
    assert np.all(new.score >= old.score)
    for a, b in zip(old, new, strict=True):
      if not isinstance(a, tuple):
        np.testing.assert_array_equal(a[old.fooled], b[old.fooled])
  assert states[0].fooled[-1] and not states[-1].fooled.all()
  found = find(norm).found(problem(norm), states[-1])
  np.testing.assert_array_equal(found.images, states[-1].images)


@each_norm
def test_rows_of_different_age_share_a_batch(norm):
  state, t = begin(norm)
  for step in range(2 * QUERIES):
    active = (np.arange(BATCH) % 2 == 0) == (step < QUERIES)
    state, t = compiled(norm)(state, t, jnp.asarray(active))
  jax.tree.map(np.testing.assert_array_equal, state, trace(norm)[-1])
  np.testing.assert_array_equal(t, QUERIES)


def patch(images, originals):
  """What a patch of 3 x 3 pixels has gained, in one channel."""
  return jnp.sum((images - originals)[:, 2:5, 5:8, 0], axis=(1, 2))


def test_a_weak_patch_is_found():
  norm, most, share = 'l2', 3, 0.4
  originals = jnp.full((4, 12, 12, 2), 0.5)
  needed = share * most * 0.2  # In all, `most` times epsilon can be gained.

  def weak(images):
    gain = patch(images, originals)
    return jnp.stack([gain, jnp.full_like(gain, needed)], axis=1)

  epsilon = jnp.array([0.2, 0.2, 0.2, 0.19 * share])
  result = square(
    weak,
    originals,
    jnp.ones(4, jnp.int32),
    epsilon,
    num_queries=300,
    key=KEY,
    norm=norm,
  )
  gain = np.asarray(patch(result, originals))
  np.testing.assert_array_equal(gain > needed, [1, 1, 1, 0])


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
  moved = np.any(result != images, axis=(1, 2, 3))
  assert np.all(np.asarray(result)[:-1, 0, 0, 0] < 0.55)
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
