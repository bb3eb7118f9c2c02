"""APGD against NumPy, row by row, alone and among other rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses
from advjax.attacks import search
from tests.attacks import apgd_reference, cases
from tests.attacks.apgd_problems import make, problem_of

quick = pytest.mark.usefixtures('quick_compiles')


# -------------------------------------------------------------- how it walks

STEPS = {'linf': 73, 'l2': 73, 'l1': 190}
# A loss with hills and valleys, which knows nothing of the classes: rows halve
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
  step = jax.jit(functools.partial(attack.step, linear))
  state = attack.start(problem)
  deltas, step_sizes = [], []
  for t in range(attack.num_steps):
    deltas.append(np.asarray(state.walk.delta))
    t = jnp.full(len(problem.images), t, jnp.int32)
    state = step(problem, state, t)
    step_sizes.append(np.asarray(state.walk.step_size))
  found = attack.found(problem, state)
  return np.stack(deltas, 1), np.stack(step_sizes, 1), found


def walk_in_numpy(norm, x, start, epsilon):
  def network(delta):
    logits = (x + delta) @ MATRIX
    angles = WAVES * logits + PHASES
    gradient = MATRIX @ (-WAVES * np.sin(angles))
    return np.cos(angles).sum(), gradient, logits.argmax() != label

  label = (x @ MATRIX).argmax()
  return apgd_reference.walk(
    norm, network, start, epsilon, -x, 1 - x, STEPS[norm]
  )


@quick
@pytest.mark.parametrize('norm', cases.NORMS)
def test_walks_as_in_numpy_float64(norm):
  rng = np.random.default_rng(2)
  images = rng.uniform(size=(40, 30))
  images[:12] = images[:12].round()  # On the border of the box.
  scale = {'linf': 0.2, 'l2': 0.7, 'l1': 3.0}[norm]
  epsilon = scale * rng.uniform(0.2, 1, 40)
  attack = make(norm=norm, num_steps=STEPS[norm], loss_fn=wavy)
  with jax.enable_x64(True):
    labels = (images @ MATRIX).argmax(axis=1)
    problem = problem_of(images, labels, epsilon)
    deltas, step_sizes, found = follow(attack, problem)
  agree, schedules, fooled = 0, set(), 0
  for i in range(40):
    walk = walk_in_numpy(norm, images[i], deltas[i, 0], epsilon[i])
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
  assert agree >= 39
  assert len(schedules) > 3 and 0 < fooled < 40


def settled(losses):
  """Whether the loss has, at some time, stood still for four steps."""
  recent = np.lib.stride_tricks.sliding_window_view(losses, 4)
  still = np.append(np.zeros(3, bool), np.ptp(recent, axis=1) < 1e-11)
  return np.cumsum(still) > 0


def test_checkpoints_follow_the_papers_table():
  # The windows of 100 steps as the paper prints them.
  marks = apgd_reference.checkpoints(100)
  assert marks == [0, 22, 41, 57, 70, 80, 87, 93, 99]


@quick
@pytest.mark.parametrize('norm', cases.NORMS)
def test_starts_on_the_border_of_the_ball(norm):
  images = np.full((4, 5, 8), 0.5, np.float32)
  epsilon = np.array([0.01, 0.1, 0.2, 0.4], np.float32)
  problem = problem_of(images, np.zeros(4, np.int32), epsilon)
  starts = []
  for low, high in ((0.0, 1.0), (-np.inf, np.inf)):
    box = problem._replace(lower=0 * problem.lower + low)
    box = box._replace(upper=0 * problem.upper + high)
    state = jax.jit(make(norm=norm).start)(box)
    starts.append(np.asarray(state.walk.delta).reshape(4, -1))
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  radius = epsilon * (3 if norm == 'l1' else 1)
  for delta in starts:
    np.testing.assert_allclose(
      np.linalg.norm(delta, order, axis=1), radius, rtol=1e-5
    )
  changed = (starts[0] != 0).mean()
  assert changed < 0.5 if norm == 'l1' else changed > 0.9
  assert not np.allclose(starts[0][0] / radius[0], starts[0][1] / radius[1])


# ------------------------------------------------------- rows among other rows


def one_by_one(images):
  """Bit by bit the same for a row of any batch."""
  return jax.lax.map(lambda x: cases.logits_fn(x[None])[0], images)


@functools.cache
def six_rows():
  rng = np.random.default_rng(4)
  return problem_of(
    rng.uniform(size=(6, *cases.SHAPE[1:])).astype(np.float32),
    np.array([0, 1, 2, 1, 0, 2], np.int32),
    np.linspace(0.05, 0.3, 6),
  )


def rows_of(problem, rows):
  per_row = problem._replace(lower=None, upper=None)
  part = jax.tree.map(lambda x: x[np.array(rows)], per_row)
  return part._replace(lower=problem.lower, upper=problem.upper)


def go_straight(attack, on, start, rows):
  problem = rows_of(six_rows(), rows)
  state, t = start(problem), jnp.zeros(len(rows), jnp.int32)
  for _ in range(4):
    state, t = on(problem, state, t, jnp.ones(len(rows), bool))
  assert np.all(t == attack.num_steps)
  return jax.tree.map(np.asarray, attack.found(problem, state))


def go_mixed(attack, on, start):
  """What is found of each row of a batch of four that is refilled.

  Row 0 gives way to row 4 before its time and row 3 to row 5 when it is done;
  row 1 rests for a while.
  """
  slots, awake, done = [0, 1, 2, 3], np.ones(4, bool), {}
  problem = rows_of(six_rows(), slots)
  state, t = start(problem), jnp.zeros(4, jnp.int32)
  for tick in range(8):
    awake[1] = tick not in (1, 2)
    state, t = on(problem, state, t, jnp.array(awake))
    found = jax.tree.map(np.asarray, attack.found(problem, state))
    for i in np.flatnonzero(t == attack.num_steps):
      done[slots[i]] = jax.tree.map(lambda x, i=i: x[i], found)
    slot, row = {1: (0, 4), 3: (3, 5)}.get(tick, (None, None))
    if slot is not None:
      slots[slot] = row
      problem = rows_of(six_rows(), slots)
      fresh = jnp.arange(4) == slot
      state = search.select(fresh, start(problem), state)
      t = jnp.where(fresh, 0, t)
  return done


@quick
@pytest.mark.parametrize('norm', ['linf', 'l1'])
def test_a_row_goes_its_way_in_any_company_and_at_any_age(norm):
  attack = make(norm=norm, loss_fn=losses.dlr)
  start = jax.jit(attack.start)

  @jax.jit
  def on(problem, state, t, active):
    return search.advance(
      attack, one_by_one, problem, state, t, active, count=3
    )

  done = go_mixed(attack, on, start)
  assert sorted(done) == [1, 2, 3, 4, 5]
  for rows in [[0, 1, 2, 3], [2, 3, 4, 5], [3]][: 3 if norm == 'linf' else 2]:
    found = go_straight(attack, on, start, rows)
    for i, row in enumerate(rows):
      if row in done:
        for one, other in zip(done[row], found, strict=True):
          np.testing.assert_array_equal(one, other[i])
