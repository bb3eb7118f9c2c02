"""Steps onto a hyperplane agree with other ways to find them, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.attacks import hyperplane
from tests.attacks import cases, hyperplane_reference

pytestmark = pytest.mark.usefixtures('quick_compiles')

ROWS, D = 16, 50  # One shape for all: one program.
ORDERS = {'linf': np.inf, 'l2': 2, 'l1': 1}
each_norm = pytest.mark.parametrize('norm', cases.NORMS)


@jax.jit
def steps(weights, gap, lower, upper):
  """All norms at once, in one program."""
  args = weights, gap, lower, upper
  return {norm: step(*args) for norm, step in hyperplane.STEPS.items()}


@st.composite
def problems(draw):
  """A batch of planes and boxes: ties, zeros, borders, out of reach, no box."""
  rows = []
  for _ in range(ROWS):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, D))
    weights = rng.normal(size=size)
    if draw(st.booleans()):  # Ties, and zeros among them.
      weights = np.round(weights)
    weights *= 10.0 ** draw(st.sampled_from([0, 0, -3, 2]))
    point = rng.uniform(size=size)
    at_border = rng.uniform(size=size) < draw(st.sampled_from([0, 0.3, 1]))
    point[at_border] = np.round(point[at_border])
    lower, upper = -point, 1 - point
    if draw(st.integers(0, 4)) == 0:
      lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
    # Of what the box allows; from 1 on, the plane is out of its reach.
    share = draw(st.sampled_from([0, 1e-3, 0.1, 0.5, 0.99, 1, 1.5]))
    gap = share * np.abs(weights).sum() / 2 * draw(st.sampled_from([-1, 1]))
    # What is beyond size has no weight.
    fill = np.zeros(D - size)
    rows.append(
      (
        np.r_[weights, fill],
        gap,
        np.r_[lower, fill - 1],
        np.r_[upper, fill + 1],
      )
    )
  return tuple(np.stack(x) for x in zip(*rows, strict=True))


@settings(max_examples=20)
@given(problem=problems())
def test_agrees_with_float64_references(problem):
  weights, gap, lower, upper = problem
  with jax.enable_x64(True):
    result = jax.tree.map(np.asarray, steps(*problem))
  reachable = [
    hyperplane_reference.within_reach(*row)
    for row in zip(*problem, strict=True)
  ]
  for norm, step in result.items():
    assert np.all((step >= lower) & (step <= upper))
    assert not step[weights == 0].any()
    scale = 1 + np.abs(gap)
    residual = np.sum(weights * step, axis=1) - reachable
    assert np.all(np.abs(residual) <= 1e-12 * D * scale)
    for i, row in enumerate(zip(*problem, strict=True)):
      expected = hyperplane_reference.shortest_step(norm, *row)
      length = np.linalg.norm(expected, ORDERS[norm])
      np.testing.assert_allclose(
        np.linalg.norm(step[i], ORDERS[norm]), length, rtol=1e-6, atol=1e-7
      )
      if norm == 'l2':  # The only norm in which it is unique.
        np.testing.assert_allclose(step[i], expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=20)
@given(problem=problems())
def test_float32_stays_inside_and_reaches_the_plane(problem):
  problem = [np.asarray(x, np.float32) for x in problem]
  weights, gap, lower, upper = map(np.float64, problem)
  reachable = np.array(
    [
      hyperplane_reference.within_reach(*row)
      for row in zip(weights, gap, lower, upper, strict=True)
    ]
  )
  for norm, step in steps(*problem).items():
    step = np.asarray(step, np.float64)
    assert np.all((step >= lower) & (step <= upper)), norm
    residual = np.sum(weights * step, axis=1) - reachable
    assert np.all(np.abs(residual) <= 3e-6 * np.maximum(np.abs(gap), 1e-6))


def test_a_single_coordinate():
  weights = np.array([[2.0], [-4.0], [2.0], [0.0]], np.float32)
  gap = np.array([1.0, 1.0, 3.0, 1.0], np.float32)
  lower, upper = np.full((2, 4, 1), [[[-1.0]], [[0.75]]], np.float32)
  for step in steps(weights, gap, lower, upper).values():
    np.testing.assert_array_equal(step, [[0.5], [-0.25], [0.75], [0]])


@each_norm
def test_numbers_at_the_limits_stay_finite(norm):
  """Tiny and huge weights, no weight, no gap, no box, and a huge gap."""
  values = np.array([0, 1e-45, 1e-30, 1e-12, 1, 1e12, 1e30, 3e38], np.float32)
  rng = np.random.default_rng(0)
  weights = rng.choice(values, (ROWS, D)) * rng.choice([-1, 1], (ROWS, D))
  gap = rng.choice(values, ROWS) * rng.choice([-1, 1], ROWS)
  weights, gap = weights.astype(np.float32), gap.astype(np.float32)
  weights[:2] = 0
  gap[2:4] = np.nan, np.inf
  for side in (0.5, np.inf):
    upper = np.full((ROWS, D), side, np.float32)
    step = np.asarray(steps(weights, gap, -upper, upper)[norm])
    assert np.isfinite(step).all()
    assert np.abs(step).max() <= side
    assert not step[:2].any()
    assert not step[(gap == 0) | np.isnan(gap)].any()
    gap = np.nan_to_num(gap)
    assert np.all(step * np.sign(weights) * np.sign(gap)[:, None] >= 0)


@each_norm
def test_scaling_the_plane_changes_nothing(norm):
  rng = np.random.default_rng(1)
  weights = rng.normal(size=(ROWS, D)).astype(np.float32)
  gap = rng.normal(size=ROWS).astype(np.float32)
  upper = rng.uniform(0, 0.1, size=(ROWS, D)).astype(np.float32)
  expected = steps(weights, gap, -upper, upper)[norm]
  for scale in (2.0**-80, 2.0**80):  # Whose squares are 0 and infinite.
    scale = np.float32(scale)
    step = steps(scale * weights, scale * gap, -upper, upper)[norm]
    np.testing.assert_array_equal(step, expected)


def test_rows_are_independent_and_vmap_agrees():
  rng = np.random.default_rng(2)
  weights = rng.normal(size=(ROWS, D)).astype(np.float32)
  weights[0] = 2.0 ** -np.arange(D)  # Ends rounds after the others.
  upper = np.tile(2.0 ** np.arange(D), (ROWS, 1)).astype(np.float32) / 1e4
  gap = rng.normal(size=ROWS).astype(np.float32)
  gap[0] = 0.04
  args = weights, gap, -upper, upper
  together = steps(*args)
  alone = jax.vmap(lambda *row: steps(*(x[None] for x in row)))(*args)
  turned = steps(*(x[::-1] for x in args))
  for norm, step in together.items():
    np.testing.assert_allclose(alone[norm][:, 0], step, rtol=1e-6)
    np.testing.assert_array_equal(turned[norm][::-1], step)


@each_norm
def test_distance_is_the_length_of_the_step_without_a_box(norm):
  rng = np.random.default_rng(3)
  weights = rng.normal(size=(ROWS, D)).astype(np.float32)
  gap = rng.normal(size=ROWS).astype(np.float32)
  far = np.full((ROWS, D), np.inf, np.float32)
  step = steps(weights, gap, -far, far)[norm]
  np.testing.assert_allclose(
    hyperplane.distance(norm, weights, gap),
    np.linalg.norm(step, ORDERS[norm], axis=1),
    rtol=1e-5,
  )


def test_distance_without_a_plane():
  weights = jnp.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
  gap = jnp.array([1.0, 0.0, jnp.nan, jnp.inf])
  np.testing.assert_array_equal(
    hyperplane.distance('l2', weights, gap), [np.inf, np.inf, np.nan, np.inf]
  )
