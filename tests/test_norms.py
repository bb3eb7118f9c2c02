"""Norms: NSL's golden vectors, closed forms, and what defines each function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from advjax import norms
from tests import reference

ALL = {
  **norms.NORMS,
  **{f'nsl {name}': norm for name, norm in norms.NSL_NORMS.items()},
}
KEYS = jax.random.split(jax.random.key(0), 500)


def sizes(name, x):
  x = np.asarray(x, np.float64).reshape(len(x), -1)
  order = {'linf': np.inf, 'infinity': np.inf, 'l2': 2, 'l1': 1}
  return np.linalg.norm(x, order[name.removeprefix('nsl ')], axis=1)


@pytest.mark.parametrize(
  ('norm', 'gradient', 'expected'),
  [
    ('infinity', [1, 2, -4], [1, 1, -1]),
    ('l1', [3, -4, -5], [0, 0, -1]),
    ('l1', [1, 1, 0], [0.5, 0.5, 0]),
    ('l2', [3, -4], [0.6, -0.8]),
    ('infinity', [0, 0], [0, 0]),
    ('l2', [0, 0], [0, 0]),
    ('l1', [0, 0], [0, 0]),
    # The floor of 1e-12 under the squares.
    ('l2', [3e-7, 4e-7], [0.3, 0.4]),
  ],
)
def test_nsl_direction(norm, gradient, expected):
  result = norms.NSL_NORMS[norm].direction(jnp.array([gradient], jnp.float32))
  np.testing.assert_allclose(result, [expected], rtol=1e-6)


def test_nsl_direction_takes_one_norm_over_two_tensors():
  gradient = {'a': jnp.array([[1.0, 2.0]]), 'b': jnp.array([[-2.0]])}
  result = norms.NSL_NORMS['l2'].direction(gradient)
  np.testing.assert_allclose(result['a'], [[1 / 3, 2 / 3]], rtol=1e-6)
  np.testing.assert_allclose(result['b'], [[-2 / 3]], rtol=1e-6)
  result = norms.NSL_NORMS['l1'].direction(gradient)
  np.testing.assert_allclose(result['a'], [[0, 0.5]])
  np.testing.assert_allclose(result['b'], [[-0.5]])


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('scale', [1.0, 1e-30, 1e30])
def test_direction_has_unit_length_or_is_zero(name, scale):
  if name == 'nsl l2':
    scale = 1.0  # NSL fades its l2 direction out below 1e-6, by definition.
  gradient = scale * jax.random.normal(jax.random.key(1), (5, 3, 20))
  gradient = gradient.at[0].set(0)
  direction = ALL[name].direction(gradient)
  np.testing.assert_allclose(sizes(name, direction), [0, 1, 1, 1, 1], rtol=1e-5)
  # It goes up, and for linf and l2 no unit vector goes up more.
  gain = np.sum(np.asarray(gradient * direction, np.float64), (1, 2)) / scale
  dual = {'linf': 'l1', 'infinity': 'l1', 'l2': 'l2', 'l1': 'linf'}
  most = sizes(dual[name.removeprefix('nsl ')], np.float64(gradient) / scale)
  if name == 'l1':
    assert np.all(gain[1:] > 0.5 * most[1:])
  else:
    np.testing.assert_allclose(gain, most, rtol=1e-5)


def test_slide_direction_takes_the_top_twentieth_that_can_move():
  gradient = jnp.array([[*range(1, 41)]], jnp.float32)  # 40: the top 2
  direction = norms.l1.direction(gradient)
  np.testing.assert_array_equal(np.flatnonzero(direction), [38, 39])
  np.testing.assert_array_equal(direction[0, 38:], [0.5, 0.5])
  upper = jnp.ones((1, 40)).at[0, 39].set(0)
  direction = norms.l1.direction(gradient, -jnp.ones((1, 40)), upper)
  np.testing.assert_array_equal(np.flatnonzero(direction), [37, 38])
  direction = norms.l1.direction(-gradient, -upper, jnp.ones((1, 40)))
  np.testing.assert_array_equal(np.flatnonzero(direction), [37, 38])


@pytest.mark.parametrize('name', ALL)
def test_size_is_the_norm_over_all_leaves(name):
  tree = {
    'a': jax.random.normal(jax.random.key(0), (3, 2, 2)),
    'b': jax.random.normal(jax.random.key(1), (3,)),
  }
  flat = np.concatenate([tree['a'].reshape(3, 4), tree['b'][:, None]], axis=1)
  np.testing.assert_allclose(ALL[name].size(tree), sizes(name, flat), rtol=1e-6)


@pytest.mark.parametrize('name', norms.NORMS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
  delta=hnp.arrays(
    np.float32,
    (3, 6),
    elements=st.floats(-2, 2, width=32, allow_subnormal=False),
  ),
  below=hnp.arrays(
    np.float32,
    (3, 6),
    elements=st.floats(0, 1, width=32, allow_subnormal=False),
  ),
  epsilon=st.sampled_from([0.0, 1e-3, 0.25, 1.0, 3.0, 20.0]),
)
def test_projection_lands_in_ball_and_box(name, delta, below, epsilon):
  lower, upper = -below, below[:, ::-1]
  result = _project(name, delta, np.float32(epsilon), lower, upper)
  expected = reference.project(name, np.float64(delta), epsilon, lower, upper)
  np.testing.assert_allclose(result, expected, atol=2e-6)
  assert np.all(sizes(name, result) <= epsilon * (1 + 1e-6))
  assert np.all((result >= lower) & (result <= upper))
  again = _project(name, np.asarray(result), np.float32(epsilon), lower, upper)
  np.testing.assert_allclose(again, result, atol=1e-6)


_project = jax.jit(
  lambda name, *args: norms.NORMS[name].project(*args), static_argnums=0
)


def test_l1_projection_when_the_box_alone_holds_more_than_the_ball():
  # The shift that fits rounds down, and nothing is left to take the rounding.
  delta = np.full((2, 6), 0.84604275, np.float32)
  upper = np.full((2, 6), 2.0**-24, np.float32)
  # So little that a sum with the last one does not show it.
  upper[1, :5], upper[1, 5] = 2.0**-126, 1
  result = _project('l1', delta, np.float32(0), -upper, upper)
  np.testing.assert_array_equal(result, np.zeros((2, 6)))


def test_l1_projection_is_nearer_than_clip_after_projection():
  delta = jnp.array([[1.0, 1.0, 0.2]])
  upper = jnp.array([[0.1, 1.0, 1.0]])
  joint = norms.l1.project(delta, 1.0, -upper, upper)
  np.testing.assert_allclose(joint, [[0.1, 0.85, 0.05]], rtol=1e-6)


def test_a_ball_of_radius_0_holds_nothing():
  delta = jnp.array([[1e-27, -1e-38], [0.0, 2.0]])
  for name in norms.NORMS:
    box = jnp.ones((2, 2))
    result = _project(name, delta, np.float32(0), -box, box)
    np.testing.assert_array_equal(result, np.zeros((2, 2)))


def test_projection_takes_one_radius_per_example():
  delta = jnp.ones((2, 4))
  epsilon = jnp.array([0.5, 8.0])
  for name, expected in {'linf': 0.5, 'l2': 0.25, 'l1': 0.125}.items():
    result = norms.NORMS[name].project(delta, epsilon)
    np.testing.assert_allclose(result, [[expected] * 4, [1.0] * 4], rtol=1e-6)


@pytest.mark.parametrize('name', norms.NORMS)
def test_samples_are_uniform_in_the_ball(name):
  like = {'a': jnp.zeros((500, 2)), 'b': jnp.zeros((500, 1))}
  draws = norms.NORMS[name].sample(KEYS, like)
  flat = np.concatenate([draws['a'], draws['b']], axis=1)
  radius = np.sort(sizes(name, flat))
  assert radius[-1] <= 1
  # In 3 dimensions radius ** 3 is uniform: the Kolmogorov-Smirnov distance of
  # 500 draws is below 0.073 in 99 % of the cases.
  distance = np.abs(radius**3 - (np.arange(500) + 0.5) / 500).max()
  assert distance < 0.073
  assert np.all(np.abs(flat.mean(axis=0)) < 0.1)
  assert np.linalg.matrix_rank(flat) == 3


@pytest.mark.parametrize('name', norms.NORMS)
def test_a_sample_depends_on_its_own_key_alone(name):
  sample = jax.jit(norms.NORMS[name].sample)
  all_of_them = sample(KEYS[:7], jnp.zeros((7, 4)))
  some = sample(KEYS[2:5], jnp.zeros((3, 4)))
  np.testing.assert_array_equal(all_of_them[2:5], some)


def test_unknown_norm_is_an_error():
  with pytest.raises(ValueError, match="norm = 'l0'; allowed: 'linf', 'l2'"):
    norms.get('l0')
  assert norms.get('l2') is norms.l2
  assert norms.get(norms.NSL_NORMS['l1']) is norms.NSL_NORMS['l1']
