"""APGD against NumPy, row by row, alone and among other rows; targets, NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax._arguments import Problem
from advjax.attacks.apgd import make_apgd
from tests.attacks import apgd_reference, cases


def problem_of(images, labels, epsilon):
  ones = (1,) * images.ndim
  return Problem(
    images=jnp.asarray(images),
    labels=jnp.asarray(labels),
    targets=None,
    epsilon=jnp.asarray(epsilon),
    keys=jax.random.wrap_key_data(
      RNG.integers(2**32, size=(len(images), 2), dtype=np.uint32)
    ),
    lower=jnp.asarray(np.zeros(ones, images.dtype)),
    upper=jnp.asarray(np.ones(ones, images.dtype)),
  )


NUM_ROWS = 24
STEPS = {'linf': 73, 'l2': 73, 'l1': 190}
# A loss with hills and valleys that does not depend on the classes: rows halve
# their steps at different times, and the best point is not the highest one.
RNG = np.random.default_rng(1)
MATRIX = RNG.normal(size=(30, 5))
WAVES, PHASES = RNG.uniform(0.2, 1, 5), np.arange(5.0)


def linear(images):
  return images @ MATRIX


def wavy(logits, labels):
  del labels
  return jnp.sum(jnp.cos(WAVES[None] * logits + PHASES[None]), axis=1)


def follow(attack, problem):
  """Every point of every row, the step size after it, and what was found."""

  def step(state, t):
    times = jnp.full(NUM_ROWS, t, jnp.int32)
    new = attack.step(linear, problem, state, times)
    return new, (state.delta, new.step_size)

  times = jnp.arange(attack.num_steps)
  run = jax.jit(lambda: jax.lax.scan(step, attack.start(problem), times))
  state, (deltas, step_sizes) = jax.tree.map(np.asarray, run())
  found = attack.found(problem, state)
  return np.swapaxes(deltas, 0, 1), step_sizes.T, found


def walk_in_numpy(norm, x, start, epsilon):
  label = (x @ MATRIX).argmax()

  def network(delta):
    logits = (x + delta) @ MATRIX
    angles = WAVES * logits + PHASES
    gradient = MATRIX @ (-WAVES * np.sin(angles))
    return np.cos(angles).sum(), gradient, logits.argmax() != label

  return apgd_reference.walk(
    norm, network, start, epsilon, -x, 1 - x, STEPS[norm]
  )


def settled(losses):
  """Whether the loss has, at some time, been constant for four steps."""
  recent = np.lib.stride_tricks.sliding_window_view(losses, 4)
  constant = np.append(np.zeros(3, bool), np.ptp(recent, axis=1) < 1e-11)
  return np.cumsum(constant) > 0


@pytest.mark.parametrize('norm', cases.NORMS)
def test_steps_as_in_numpy_float64(norm):
  rng = np.random.default_rng(2)
  images = rng.uniform(size=(NUM_ROWS, 30))
  images[:8] = images[:8].round()  # On the border of the box.
  scale = {'linf': 0.2, 'l2': 0.7, 'l1': 3.0}[norm]
  epsilon = scale * rng.uniform(0.2, 1, NUM_ROWS)
  attack = make_apgd(norm=norm, num_steps=STEPS[norm], loss_fn=wavy)
  with jax.enable_x64(True):
    labels = (images @ MATRIX).argmax(axis=1)
    problem = problem_of(images, labels, epsilon)
    deltas, step_sizes, found = follow(attack, problem)
  agree, schedules, fooled = 0, set(), 0
  for i in range(NUM_ROWS):
    walk = walk_in_numpy(norm, images[i], deltas[i, 0], epsilon[i])
    # From the border of the first ball.
    radius = epsilon[i] * (3 if norm == 'l1' else 1)
    start = np.linalg.norm(deltas[i, 0], cases.ORDERS[norm])
    assert 0.2 * radius < start <= radius * (1 + 1e-9)
    way = ~np.isnan(walk.step_sizes)  # NaN where no step is taken.
    if norm == 'l2':  # On a round summit rounding alone decides.
      way &= ~settled(walk.losses)
    schedules.add(tuple((walk.step_sizes[way] / epsilon[i]).round(6)))
    agree += (
      np.allclose(step_sizes[i][way], walk.step_sizes[way], rtol=1e-12)
      and np.allclose(deltas[i][way], walk.deltas[way], atol=1e-7)
      and np.allclose(found.images[i], images[i] + walk.found, atol=1e-7)
      and np.isclose(found.score[i], walk.score)
      and bool(found.fooled[i]) == walk.fooled
    )
    fooled += walk.fooled
  assert agree >= NUM_ROWS - 1
  assert len(schedules) > 3 and 0 < fooled < NUM_ROWS


def test_checkpoints_follow_the_papers_table():
  # The windows of 100 steps as the paper prints them.
  marks = apgd_reference.checkpoints(100)
  assert marks == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def test_nan_leads_nowhere():
  def logits_fn(x):  # Wild above 0.6, and fooled from 0.45 to 0.6.
    z = jnp.where(x > 0.6, jnp.nan, x - 0.45)
    return jnp.concatenate([0 * z, z], axis=1)

  images, labels = np.full((8, 1), 0.4, np.float32), np.zeros(8, np.int32)
  result = np.asarray(
    advjax.apgd(logits_fn, images, labels, 0.3, num_steps=10, key=cases.KEY)
  )
  # Those that start at 0.7 know no way; those at 0.1 find the good ones.
  lost = np.isclose(result, 0.7, atol=1e-6)
  assert 0 < lost.sum() < 8
  assert np.all((result[~lost] > 0.45) & (result[~lost] <= 0.6))
