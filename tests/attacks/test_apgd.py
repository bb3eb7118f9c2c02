"""APGD against NumPy, row by row, and what it returns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import advjax
from advjax import losses
from advjax.attacks import scores, search
from advjax.attacks.apgd import make_apgd
from tests import compiles
from tests.attacks import apgd_reference, cases

quick = pytest.mark.usefixtures('quick_compiles')
KEYS = jax.random.split(jax.random.key(3), 40)


def problem_of(images, labels, epsilon, targets=None):
  batch, dtype = len(images), images.dtype
  return search.Problem(
    images=jnp.asarray(images),
    labels=jnp.asarray(labels),
    targets=None if targets is None else jnp.asarray(targets),
    epsilon=jnp.broadcast_to(jnp.asarray(epsilon, dtype), batch),
    keys=KEYS[:batch],
    lower=jnp.zeros((1,) * images.ndim, dtype),
    upper=jnp.ones((1,) * images.ndim, dtype),
  )


def make(**choices):
  default = {
    'norm': 'linf',
    'num_steps': 10,
    'loss_fn': losses.cross_entropy,
    'targeted': False,
    'eot_samples': None,
  }
  return make_apgd(**(default | choices))


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


# ------------------------------------------------------------ what it returns

KEY = jax.random.key(7)


def apgd(logits_fn, images, labels, epsilon=0.1, **kwargs):
  kwargs = {'num_steps': 10, 'key': KEY, **kwargs}
  return advjax.apgd(logits_fn, images, labels, epsilon, **kwargs)


@quick
def test_many_restarts_contain_one():
  def rank(num_restarts):
    images = two_steps(cases.logits_fn, 0.02, num_restarts=num_restarts)
    logits = cases.logits_fn(images)
    fooled = np.asarray(logits.argmax(axis=1) != cases.LABELS)
    loss = np.asarray(losses.cross_entropy(logits, cases.LABELS))
    return list(zip(fooled.tolist(), loss.tolist(), strict=True))

  one, four = rank(1), rank(4)
  assert all(f >= (o[0], o[1] - 1e-6) for f, o in zip(four, one, strict=True))
  assert four != one


@quick
@pytest.mark.parametrize('loss_fn', [losses.cross_entropy, losses.dlr])
def test_targets_are_reached(loss_fn):
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(30, 5)).astype(np.float32)
  images, labels = cases.IMAGES, np.array([0, 1, 2, 1], np.int32)
  targets = np.array([4, 0, 3, 2], np.int32)

  def logits_fn(x):
    return cases.apply(weights, x)

  result = apgd(
    logits_fn, images, labels, 0.5, targets=targets, loss_fn=loss_fn
  )
  np.testing.assert_array_equal(logits_fn(result).argmax(axis=1), targets)


@quick
def test_fooled_is_any_other_class_or_the_target():
  logits = jnp.array([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
  problem = problem_of(
    np.zeros((3, 2), np.float32),
    np.array([1, 0, 0], np.int32),
    0.1,
    np.array([2, 2, 2], np.int32),
  )
  for success, expected in (
    ('any', [False, True, True]),
    ('target', [False, False, True]),
  ):
    attack = make(targeted=True, success=success)

    @jax.jit
    def one_step(problem, attack=attack):
      t = jnp.zeros(3, jnp.int32)
      state = attack.step(lambda x: logits, problem, attack.start(problem), t)
      return attack.found(problem, state)

    assert one_step(problem).fooled.tolist() == expected


def test_nan_logits_fool_nobody():
  logits = jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [1.0, 0.0]])
  labels = jnp.array([1, 0, 1])
  fooled = scores.fooled(logits, labels, False, jnp.zeros(3))
  assert fooled.tolist() == [False, False, True]


@quick
def test_nan_leads_nowhere():
  def logits_fn(x):  # Wild above 0.6, and fooled from 0.45 to 0.6.
    z = jnp.where(x > 0.6, jnp.nan, x - 0.45)
    return jnp.concatenate([0 * z, z], axis=1)

  images = np.full((8, 1), 0.4, np.float32)
  result = np.asarray(apgd(logits_fn, images, np.zeros(8, np.int32), 0.3))
  # Those that start at 0.7 know no way; those at 0.1 find the good ones.
  lost = np.isclose(result, 0.7, atol=1e-6)
  assert 0 < lost.sum() < 8
  assert np.all((result[~lost] > 0.45) & (result[~lost] <= 0.6))


# -------------------------------------------------------------- random models


@quick
def test_eot_draws_depend_on_key_step_and_sample_alone():
  def noisy(images, key):
    return cases.logits_fn(images + jax.random.normal(key, images.shape))

  evaluate = scores.make_evaluate(
    noisy,
    lambda logits: logits[:, 0],
    lambda logits, score: score > 0,
    cases.IMAGES[:2],
    eot_samples=3,
  )
  keys, t = KEYS[:2], jnp.array([5, 2])
  _, (score, _) = jax.jit(evaluate)([cases.IMAGES[:2]], keys, t)
  for i in range(2):
    key = jax.random.fold_in(keys[i], t[i])
    draws = [
      noisy(cases.IMAGES[i : i + 1], jax.random.fold_in(key, s))[0, 0]
      for s in range(3)
    ]
    np.testing.assert_allclose(score[i], np.mean(draws), atol=1e-5)


@quick
def test_eot_results_do_not_depend_on_the_other_rows():
  def noisy(images, key):
    return cases.logits_fn(images + 0.3 * jax.random.normal(key, images.shape))

  def attack(rows):
    rows = np.array(rows)
    result = apgd(
      noisy,
      cases.IMAGES[rows],
      cases.LABELS[rows],
      num_steps=3,
      key=KEYS[rows],
      eot_samples=2,
    )
    return np.asarray(result)

  result, order = attack([0, 1, 2, 3]), [2, 0, 3, 1]
  np.testing.assert_allclose(attack(order), result[order], atol=1e-6)
  assert np.abs(result - cases.IMAGES).max() > 0.09


# ------------------------------------------------------------ transformations


def two_steps(logits_fn, epsilon=0.1, **kwargs):
  return apgd(
    logits_fn, cases.IMAGES, cases.LABELS, epsilon, num_steps=2, **kwargs
  )


@quick
def test_shard_map_over_models_with_images_that_do_not_vary():
  both = jnp.stack([cases.WEIGHTS, -cases.WEIGHTS])

  def run(weights):
    logits_fn = functools.partial(cases.apply, weights[0])
    return two_steps(logits_fn, 0.02, num_restarts=4)[None]

  mesh = Mesh(np.array(jax.devices()[:2]), ('data',))
  result = jax.shard_map(
    run, mesh=mesh, in_specs=P('data'), out_specs=P('data')
  )(both)
  expected = two_steps(cases.logits_fn, 0.02, num_restarts=4)
  np.testing.assert_allclose(result[0], expected, atol=1e-6)
  assert np.abs(result[1] - result[0]).max() > 0.02


@quick
def test_another_epsilon_compiles_nothing():
  two_steps(cases.logits_fn, 0.1)
  with compiles.counted() as count:
    for epsilon in (0.2, np.float32(0.05), jnp.float32(0.07)):
      two_steps(cases.logits_fn, epsilon)
  assert count == [0]


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'norm': 'l0'}, r"norm must be one of \['l1', 'l2', 'linf'\].*'l0'"),
    ({'norm': advjax.norms.NSL_NORMS['l2']}, 'norm must be one of .*for apgd'),
    ({'num_steps': 0}, 'num_steps must be at least 1; got 0'),
    ({'num_restarts': 0}, 'num_restarts must be at least 1; got 0'),
    ({'eot_samples': 0}, 'eot_samples must be at least 1; got 0'),
    ({'epsilon': -0.1}, 'epsilon must be at least 0; got -0.1'),
    ({'epsilon': None}, 'epsilon must be given; got None'),
    ({'key': None}, 'key must be given; got None'),
    ({'bounds': (0.2, 0.8)}, 'images must be finite and inside bounds'),
    ({'labels': cases.LABELS + 5}, 'labels must lie in .0, 3.'),
    (
      {'loss_fn': losses.dlr, 'targets': cases.LABELS},
      r'at least 4 classes with targets; got logits of shape \(4, 3\); take '
      'losses.margin',
    ),
  ],
)
def test_errors(change, message):
  arguments = {
    'logits_fn': cases.logits_fn,
    'images': cases.IMAGES,
    'labels': cases.LABELS,
    'epsilon': 0.1,
    'key': KEY,
  }
  with pytest.raises(ValueError, match=message):
    advjax.apgd(**(arguments | change))


def test_dlr_of_two_classes_is_an_error_that_names_another_loss():
  with pytest.raises(ValueError, match=r'at least 3 classes; .*losses.margin'):
    apgd(
      lambda x: cases.logits_fn(x)[:, :2],
      cases.IMAGES,
      cases.LABELS % 2,
      loss_fn=losses.dlr,
    )


def test_success_is_one_of_two():
  with pytest.raises(ValueError, match=r"success must be .*'target'.*False"):
    make(success='target')
