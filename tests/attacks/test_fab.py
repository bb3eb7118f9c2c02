"""FAB: NumPy, closed forms, and hyperplanes within a box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from advjax.attacks import fab
from advjax.attacks._core import boundary
from advjax.norms import NORMS
from tests import reference
from tests.attacks import cases

each_norm = pytest.mark.parametrize('norm', cases.NORMS)


# -------------------------------------------------- steps onto a hyperplane


def within_reach(weights, gap, lower, upper):
  """The gap, or as much of it as the box allows."""
  free = weights != 0  # 0 * inf is not a number.
  ends = weights[free] * lower[free], weights[free] * upper[free]
  return np.clip(gap, np.minimum(*ends).sum(), np.maximum(*ends).sum())


def shortest_step(norm, weights, gap, lower, upper):
  """argmin |d| such that <weights, d> = gap, lower <= d <= upper, one row.

  By other ways than the library: bisection, and a linear program in l1.
  """
  if not weights.any():
    return np.zeros_like(weights)
  gap = within_reach(weights, gap, lower, upper)
  if norm == 'l1':  # d = up - down of least sum, both at least 0.
    result = optimize.linprog(
      np.ones(2 * len(weights)),
      A_eq=np.r_[weights, -weights][None],
      b_eq=[gap],
      bounds=np.c_[np.zeros(2 * len(weights)), np.r_[upper, -lower]],
    )
    assert result.status == 0, result.message
    up, down = np.split(result.x, 2)
    return up - down
  towards = np.sign(gap) * (weights if norm == 'l2' else np.sign(weights))

  def step(scale):
    return np.clip(scale * towards, lower, upper)

  # <weights, step> grows with scale.
  low, high = 0.0, 1.0
  while abs(weights @ step(high)) < abs(gap) * (1 - 1e-15) and high < 1e30:
    low, high = high, 2 * high
  for _ in range(120):
    middle = (low + high) / 2
    if abs(weights @ step(middle)) < abs(gap):
      low = middle
    else:
      high = middle
  return step(high)


ROWS, SIZE = 64, 30  # One shape for all: one program.


@jax.jit
def steps(weights, gap, lower, upper):
  """All norms at once, in one program, and the distances without a box."""
  args = weights, gap, lower, upper
  return (
    {name: boundary.shortest_step(norm, *args) for name, norm in NORMS.items()},
    {
      name: boundary.distance(norm, weights, gap)
      for name, norm in NORMS.items()
    },
  )


def hyperplanes():
  """Ties, zeros, borders, out of reach, no box; a size of its own per row."""
  rng = np.random.default_rng(0)
  rows = []
  for _ in range(ROWS):
    size = rng.integers(1, SIZE + 1)
    weights = rng.normal(size=size) * 10.0 ** rng.choice([0, 0, -3, 2])
    if rng.random() < 0.5:  # Ties, and zeros among them.
      weights = np.round(weights)
    point = rng.uniform(size=size)
    at_border = rng.uniform(size=size) < rng.choice([0, 0.3, 1])
    point[at_border] = np.round(point[at_border])
    lower, upper = -point, 1 - point
    if rng.random() < 0.2:
      lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
    # Of what the box allows; from 1 on, the plane is out of its reach.
    share = rng.choice([0, 1e-3, 0.1, 0.5, 0.99, 1, 1.5]) * rng.choice([-1, 1])
    fill = np.zeros(SIZE - size)  # What is beyond size has no weight.
    weights, lower, upper = (
      np.r_[weights, fill],
      np.r_[lower, fill - 1],
      np.r_[upper, fill + 1],
    )
    rows.append((weights, share * np.abs(weights).sum() / 2, lower, upper))
  return tuple(np.stack(x) for x in zip(*rows, strict=True))


def test_steps_are_the_shortest_in_float64_and_inside_in_float32():
  problem = hyperplanes()
  weights, gap, lower, upper = problem
  with jax.enable_x64(True):
    result, _ = jax.tree.map(np.asarray, steps(*problem))
  single, _ = steps(*(x.astype(np.float32) for x in problem))
  rows = list(zip(*problem, strict=True))
  reachable = [within_reach(*row) for row in rows]
  for norm, step in result.items():
    assert np.all((step >= lower) & (step <= upper))
    assert not step[weights == 0].any()
    residual = np.abs(np.sum(weights * step, axis=1) - reachable)
    assert np.all(residual <= 1e-12 * SIZE * (1 + np.abs(gap)))
    expected = np.stack([shortest_step(norm, *row) for row in rows])
    np.testing.assert_allclose(
      cases.sizes(step, norm), cases.sizes(expected, norm), rtol=1e-6, atol=1e-7
    )
    if norm == 'l2':  # The only norm in which it is unique.
      np.testing.assert_allclose(step, expected, rtol=1e-6, atol=1e-7)
    step = np.asarray(single[norm])
    low, high = lower.astype(np.float32), upper.astype(np.float32)
    assert np.all((step >= low) & (step <= high))
    residual = np.abs(np.sum(weights * step, axis=1) - reachable)
    assert np.all(residual <= 1e-5 * np.maximum(np.abs(gap), 1e-6))


def test_numbers_at_the_limits_stay_finite():
  """Tiny and huge weights, no weight, no gap, no box, and a huge gap."""
  values = np.array([0, 1e-45, 1e-30, 1e-12, 1, 1e12, 1e30, 3e38], np.float32)
  rng = np.random.default_rng(0)
  weights = rng.choice(values, (ROWS, SIZE)) * rng.choice([-1, 1], (ROWS, SIZE))
  gap = rng.choice(values, ROWS) * rng.choice([-1, 1], ROWS)
  weights, gap = weights.astype(np.float32), gap.astype(np.float32)
  weights[:2] = 0
  gap[2:4] = np.nan, np.inf
  for side in (0.5, np.inf):
    upper = np.full((ROWS, SIZE), side, np.float32)
    for step in jax.tree.map(
      np.asarray, steps(weights, gap, -upper, upper)[0]
    ).values():
      assert np.isfinite(step).all()
      assert np.abs(step).max() <= side
      assert not step[:2].any()
      assert not step[(gap == 0) | np.isnan(gap)].any()
      signs = np.sign(weights) * np.sign(np.nan_to_num(gap))[:, None]
      assert np.all(step * signs >= 0)


# ------------------------------------------------------------- what FAB finds

B, D, K = 8, 12, 3
IMAGES = np.random.default_rng(4).uniform(size=(B, 2, 3, 2)).astype(np.float32)
IMAGES[0].flat[:6] = [0, 1, 0, 1, 0, 1]


def net(curved=1.0, broken=np.inf, bias=None):
  """Arrays of one structure for all tests, so that they share programs.

  curved 0: linear, 1: tanh; the logits are NaN where the first pixel is above
  broken.
  """
  rng = np.random.default_rng(3)
  parts = (
    rng.normal(size=(D, D)) / np.sqrt(D),
    rng.normal(size=(D, K)),
    rng.normal(size=K) / 10 if bias is None else bias,
    curved,
    broken,
  )
  return tuple(np.asarray(x, np.float32) for x in parts)


def logits_of(model, images, numpy=jnp):
  w1, w2, bias, curved, broken = model
  x = images.reshape(len(images), -1)
  hidden = (x - 0.5) @ w1
  hidden = hidden + curved * (numpy.tanh(2 * hidden) - hidden)
  logits = hidden @ w2 + bias[None]
  return numpy.where(x[:, :1] > broken, np.nan, logits)


def numpy_logits(model, images):
  return logits_of([np.float64(x) for x in model], np.float64(images), np)


def predicted(model, images=IMAGES):
  return numpy_logits(model, images).argmax(axis=1).astype(np.int32)


def attack(model, images=IMAGES, labels=None, epsilon=None, **kwargs):
  labels = predicted(model, images) if labels is None else labels
  network = jax.tree_util.Partial(logits_of, jax.tree.map(jnp.asarray, model))
  kwargs = {'num_steps': 20, 'eta': 1.01, **kwargs}
  return np.asarray(fab(network, images, labels, epsilon, **kwargs))


def distance(norm, result, images=IMAGES):
  return cases.sizes(np.float64(result) - np.float64(images), norm)


@pytest.mark.parametrize('bounds', [None, (0.0, 1.0)])
@pytest.mark.parametrize(
  ('norm', 'targeted'),
  [*((norm, False) for norm in cases.NORMS), ('l2', True)],
)
def test_finds_the_closed_form_on_a_linear_network(norm, targeted, bounds):
  # Two classes: the third one is never predicted.
  model = net(curved=0.0, bias=np.array([0.1, -0.1, -1e3]))
  labels = predicted(model)
  assert set(labels) == {0, 1}
  targets = 1 - labels if targeted else None
  result = attack(model, norm=norm, bounds=bounds, targets=targets)
  assert np.all(predicted(model, result) == 1 - labels)
  weights = np.float64(model[0]) @ np.float64(model[1])
  active = False
  for i, x in enumerate(np.float64(IMAGES).reshape(B, D)):
    w = weights[:, 1 - labels[i]] - weights[:, labels[i]]
    logits = numpy_logits(model, IMAGES[i : i + 1])[0]
    gap = logits[labels[i]] - logits[1 - labels[i]]
    box = (-x, 1 - x) if bounds else (x - np.inf, x + np.inf)
    step = shortest_step(norm, w, gap, *box)
    active |= np.any((step == box[0]) | (step == box[1]))
    exact = np.linalg.norm(step, cases.ORDERS[norm])
    found = distance(norm, result)[i]
    assert exact - 1e-6 <= found <= 1.01 * exact
  assert active == (bounds is not None)


def numpy_fab(norm, model, image, label, target, num_steps):
  """FAB-T of one row in float64, from the description in the paper."""

  def logits(x):
    return model.logits(x[None])[0]

  best, x, order = (np.inf, image), image, cases.ORDERS[norm]

  def nearer(x):
    if logits(x).argmax() == label:
      return best
    return min(best, (np.linalg.norm(x - image, order), x), key=lambda b: b[0])

  for _ in range(num_steps):
    best = nearer(x)
    one_hot = np.eye(K)[[target]] - np.eye(K)[[label]]
    w = model.gradient(x[None], one_hot)[0]
    gap = logits(x)[label] - logits(x)[target]
    to_plane = [
      shortest_step(norm, w, gap - w @ (z - x), -z, 1 - z) for z in (x, image)
    ]
    here, there = (np.linalg.norm(d, order) for d in to_plane)
    pull = min(here / (here + there), 0.1)
    x = (1 - pull) * (x + 1.05 * to_plane[0])
    x = np.clip(x + pull * (image + 1.05 * to_plane[1]), 0, 1)
    best = nearer(x)
    if logits(x).argmax() != label:
      x = image + 0.9 * (x - image)
  return best


def test_agrees_with_numpy_in_float64():
  model = reference.Mlp.random(0, D, 24, K)
  images = np.random.default_rng(5).uniform(size=(B, D))
  labels = model.logits(images).argmax(axis=1)
  targets = (labels + 1) % K

  def logits_fn(x):
    hidden = jax.nn.relu(x @ model.w1 + model.b1[None])
    return hidden @ model.w2 + model.b2[None]

  with jax.enable_x64(True):
    result = fab(logits_fn, images, labels, None, targets=targets, num_steps=6)
    assert result.dtype == np.float64
  rows = zip(images, labels, targets, strict=True)
  best = [numpy_fab('linf', model, *row, num_steps=6) for row in rows]
  assert sum(d < np.inf for d, _ in best) > B / 2
  np.testing.assert_allclose(result, [x for _, x in best], atol=1e-6)


@each_norm
def test_returns_what_is_within_epsilon_and_else_the_original(norm):
  model = net()
  nearest = attack(model, norm=norm)
  factor = np.where(np.arange(B) % 2, 1 + 1e-4, 1 - 1e-4)
  epsilon = np.float32(factor * distance(norm, nearest))
  result = attack(model, epsilon=epsilon, norm=norm)
  for i in range(B):
    expected = nearest[i] if i % 2 else IMAGES[i]
    assert result[i].tobytes() == expected.tobytes()
  wrong = (predicted(model) + 1) % K
  assert attack(model, labels=wrong, norm=norm).tobytes() == IMAGES.tobytes()


def test_restarts_only_come_nearer_and_follow_their_keys():
  # Far from the boundary and curved: there is more than one way out.
  model = net(curved=4.0, bias=np.array([4, 0, 0]))
  keys = jax.random.split(jax.random.key(0), B)
  restarts = {'num_restarts': 3, 'norm': 'l2'}
  before = distance('l2', attack(model, norm='l2'))
  result = attack(model, key=keys, **restarts)
  after = distance('l2', result)
  # Two programs may round differently.
  assert np.all(after <= before * (1 + 1e-6))
  assert np.any(after < 0.995 * before)
  assert np.any(attack(model, key=keys[::-1], **restarts) != result)
  turned = attack(model, IMAGES[::-1], key=keys[::-1], **restarts)
  np.testing.assert_array_equal(turned[::-1], result)


# ---------------------------------------------------------- rows and numbers


def test_nan_logits_do_not_fool():
  model = net()
  images = IMAGES.copy()
  images[:, 0, 0, 0] = 0.5
  labels = predicted(model, images)

  def run(model):
    return attack(model, images, labels, norm='l2')

  np.testing.assert_array_equal(run(net(broken=-1.0)), images)
  # One way leads where the logits are NaN, whose argmax is 0.
  lured = (run(model)[:, 0, 0, 0] > 0.5) & (labels != 0)
  assert lured.any() and not lured.all()
  result = run(net(broken=0.5))
  assert np.isfinite(result).all() and np.all(result[:, 0, 0, 0] <= 0.5)
  moved = np.any(result != images, axis=(1, 2, 3))
  fooled = predicted(model, result) != labels
  np.testing.assert_array_equal(moved, fooled)
  assert moved.any()


def test_gradients_that_are_not_finite_count_as_zero():
  @jax.custom_vjp
  def odd(x):
    return x.reshape(B, D)[:, :2]

  def backward(_, cotangent):
    gradient = jnp.full((B, D), jnp.nan).at[:, :2].set(cotangent)
    return (gradient.at[:, 3].set(jnp.inf).reshape(IMAGES.shape),)

  odd.defvjp(lambda x: (odd(x), None), backward)
  labels = np.asarray(odd(IMAGES).argmax(1))
  result = np.asarray(fab(odd, IMAGES, labels, None, num_steps=5))
  assert np.all(np.asarray(odd(result)).argmax(1) != labels)
  assert not np.any((result - IMAGES).reshape(B, D)[:, 2:])
