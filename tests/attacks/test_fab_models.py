"""FAB on other models, as a search, and inside of other transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks.fab import fab, make_fab
from advjax.attacks.search import Problem
from tests import reference
from tests.attacks import cases, hyperplane_reference
from tests.attacks.fab_cases import (
  IMAGES,
  ORDERS,
  B,
  D,
  K,
  attack,
  net,
  predicted,
)

pytestmark = pytest.mark.usefixtures('quick_compiles')
each_norm = pytest.mark.parametrize('norm', cases.NORMS)


def numpy_fab(norm, model, image, label, target, num_steps):
  """FAB-T of one row in float64, from the description in the paper."""

  def logits(x):
    return model.logits(x[None])[0]

  best, x = (np.inf, image), image
  order = ORDERS[norm]

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
      hyperplane_reference.shortest_step(norm, w, gap - w @ (z - x), -z, 1 - z)
      for z in (x, image)
    ]
    here, there = (np.linalg.norm(d, order) for d in to_plane)
    pull = min(here / (here + there), 0.1)
    x = (1 - pull) * (x + 1.05 * to_plane[0])
    x = np.clip(x + pull * (image + 1.05 * to_plane[1]), 0, 1)
    if logits(x).argmax() != label:
      best = min(
        best, (np.linalg.norm(x - image, order), x), key=lambda b: b[0]
      )
      x = image + 0.9 * (x - image)
  return best


@each_norm
def test_agrees_with_numpy_in_float64(norm):
  model = reference.Mlp.random(0, D, 24, K)
  rng = np.random.default_rng(5)
  images = rng.uniform(size=(B, D))
  labels = model.logits(images).argmax(axis=1)
  targets = (labels + 1) % K

  def logits_fn(x):
    return (
      jax.nn.relu(x @ model.w1 + model.b1[None]) @ model.w2 + model.b2[None]
    )

  with jax.enable_x64(True):
    result = fab(
      logits_fn, images, labels, None, targets=targets, num_steps=6, norm=norm
    )
    assert result.dtype == np.float64
  rows = zip(images, labels, targets, strict=True)
  best = [numpy_fab(norm, model, *row, num_steps=6) for row in rows]
  assert sum(d < np.inf for d, _ in best) > B / 2
  np.testing.assert_allclose(result, [x for _, x in best], atol=1e-6)


def flat(images):
  """A model without slopes: nothing moves a row but its random start."""
  return jnp.zeros((len(images), K)) + 0 * images[:, 0, 0, :1]


def problem_of(epsilon):
  return Problem(
    images=jnp.asarray(IMAGES),
    labels=jnp.zeros(B, int),
    targets=jnp.ones(B, int),
    epsilon=epsilon,
    keys=jax.random.split(jax.random.key(1), B),
    lower=jnp.full((1, 1, 1, 1), -jnp.inf),
    upper=jnp.full((1, 1, 1, 1), jnp.inf),
  )


def test_random_starts_lie_half_as_far_as_what_is_found_or_epsilon():
  search = make_fab(
    norm='l1', num_steps=1, targeted=True, alpha_max=0.0, num_restarts=2
  )
  assert search.num_steps == 2
  epsilon = np.array([0.1, 0.5, 0.1, 0.5, np.inf, np.inf, np.inf, 0.1])
  found = np.array([0.3, 0.3, np.inf, np.inf, 0.3, np.inf, 0.3, 0.3])
  t = np.array([1, 1, 1, 1, 1, 1, 0, 0])
  problem = problem_of(jnp.asarray(epsilon, jnp.float32))
  state = search.start(problem)
  state = state._replace(
    delta=state.delta + 0.1, distance=jnp.asarray(found, jnp.float32)
  )
  state = jax.jit(search.step, static_argnums=0)(flat, problem, state, t)
  size = np.abs(np.float64(state.delta)).reshape(B, D).sum(axis=1)
  # Nothing found and no limit: half as far as it was, 12 times 0.1.
  expected = [0.05, 0.15, 0.05, 0.25, 0.15, 0.6, 1.2, 1.2]
  np.testing.assert_allclose(size, expected, rtol=1e-5)


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


def test_single_pixels_and_two_classes():
  images = np.array([0.2, 0.7, 1.0], np.float32).reshape(3, 1, 1, 1)

  def above_half(x):
    return jnp.concatenate([x[:, 0, 0], 1 - x[:, 0, 0]], axis=1)

  labels = np.array([1, 0, 0])
  result = fab(above_half, images, labels, None, num_steps=4)
  np.testing.assert_allclose(result[:, 0, 0, 0], 0.5, atol=0.02)
  assert np.all(above_half(result).argmax(1) != labels)


def test_pmap_vmap_and_the_gradient_of_the_surroundings():
  model = jax.tree.map(jnp.asarray, net())
  labels = jnp.asarray(predicted(model))
  keys = jax.random.split(jax.random.key(3), B)

  def run(model, images, labels, keys, epsilon):
    return fab(
      lambda x: model.logits(x),
      images,
      labels,
      epsilon,
      targets=(labels + 1) % K,
      key=keys,
      num_steps=2,
      num_restarts=2,
    )

  epsilon = jnp.linspace(0.05, 0.4, B)
  args = jnp.asarray(IMAGES), labels, keys
  expected = run(model, *args, epsilon)
  assert np.any(expected != IMAGES) and np.any(expected == IMAGES)
  halves = jax.tree.map(
    lambda x: x.reshape(2, B // 2, *x.shape[1:]), (*args, epsilon)
  )

  def curve(*args):
    epsilons = jnp.stack([args[-1], 0 * args[-1]])
    return jax.vmap(lambda epsilon: run(*args[:-1], epsilon))(epsilons)

  result = jax.pmap(curve, in_axes=(None, 0, 0, 0, 0))(model, *halves)
  result = np.moveaxis(result, 1, 0).reshape(2, *IMAGES.shape)
  np.testing.assert_allclose(result[0], expected, atol=1e-6)
  np.testing.assert_array_equal(result[1], IMAGES)

  def loss(model, attacked):
    if attacked is None:
      attacked = run(model, *args, epsilon)
    return jnp.sum(jnp.square(model.logits(attacked)))

  gradient = jax.grad(loss)(model, None)
  fixed = jax.grad(loss)(model, expected)
  np.testing.assert_allclose(gradient.w1, fixed.w1, rtol=1e-4, atol=1e-4)


def test_equal_choices_are_one_search():
  choices = {'norm': 'l2', 'num_steps': 7, 'targeted': True}
  search = make_fab(**choices)
  assert search is make_fab(**choices)
  passes = search.num_steps, search.num_forward, search.num_backward
  assert passes == (7, 2, 1)


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'norm': 'l0'}, r"norm must be one of \['l1', 'l2', 'linf'\]; got 'l0'"),
    ({'num_steps': 0}, 'num_steps must be at least 1; got 0'),
    ({'num_restarts': 0}, 'num_restarts must be at least 1; got 0'),
    ({'num_restarts': 2}, 'key must be given for num_restarts = 2; got None'),
    ({'eta': 0.9}, r'eta must be a Python number of at least 1 .*; got 0.9'),
    ({'eta': np.inf}, 'eta must be .*; got inf'),
    ({'beta': 1.5}, r'beta must be a Python number in \[0, 1\] .*; got 1.5'),
    ({'alpha_max': '1'}, "alpha_max must be .*; got '1'"),
    ({'alpha_max': np.nan}, 'alpha_max must be .*; got nan'),
    ({'epsilon': -1.0}, 'epsilon must be at least 0; got -1.0'),
    ({'labels': np.ones((B, K))}, r'labels must be int \[8\]; got float'),
    ({'labels': np.full(B, K)}, r'labels must lie in \[0, 3\)'),
    ({'targets': np.ones(B)}, r'targets must be int \[8\]; got float'),
    ({'targets': np.full(B, -1)}, r'targets must lie in \[0, 3\)'),
  ],
)
def test_errors_name_the_argument(wrong, message):
  with pytest.raises(ValueError, match=message):
    attack(net(), **{'labels': np.zeros(B, int), **wrong})
