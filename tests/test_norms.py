"""Norms: NSL's golden vectors, closed forms, and what defines each function."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from advjax import norms
from tests import reference

ALL = {
  **norms.NORMS,
  **{f'nsl {x}': norms.NSL_NORMS[x] for x in ('infinity', 'l2', 'l1')},
}
KEYS = jax.random.wrap_key_data(
  np.random.default_rng(0).integers(2**32, size=(500, 2), dtype=np.uint32)
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(name, function, *args):
  """A function of a norm in one program, not one per operation."""
  return getattr(ALL[name], function)(*args)


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
  gradient = np.array([gradient], np.float32)
  result = run(f'nsl {norm}', 'direction', gradient)
  np.testing.assert_allclose(result, [expected], rtol=1e-6)


def test_nsl_direction_takes_one_norm_over_two_tensors():
  gradient = {'a': np.float32([[1, 2]]), 'b': np.float32([[-2]])}
  result = run('nsl l2', 'direction', gradient)
  np.testing.assert_allclose(result['a'], [[1 / 3, 2 / 3]], rtol=1e-6)
  np.testing.assert_allclose(result['b'], [[-2 / 3]], rtol=1e-6)
  result = run('nsl l1', 'direction', gradient)
  np.testing.assert_allclose(result['a'], [[0, 0.5]])
  np.testing.assert_allclose(result['b'], [[-0.5]])


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('scale', [1.0, 1e-30, 1e30])
def test_direction_has_unit_length_or_is_zero(name, scale):
  if name == 'nsl l2':
    scale = 1.0  # NSL fades its l2 direction out below 1e-6, by definition.
  gradient = np.random.default_rng(1).normal(size=(5, 3, 20)) * scale
  gradient[0] = 0
  gradient = gradient.astype(np.float32)
  direction = np.asarray(run(name, 'direction', gradient))
  np.testing.assert_allclose(sizes(name, direction), [0, 1, 1, 1, 1], rtol=1e-5)
  # It goes up, and for linf and l2 no unit vector goes up more.
  gain = np.sum(np.float64(gradient) * direction, (1, 2)) / scale
  dual = {'linf': 'l1', 'infinity': 'l1', 'l2': 'l2', 'l1': 'linf'}
  most = sizes(dual[name.removeprefix('nsl ')], np.float64(gradient) / scale)
  if name == 'l1':
    assert np.all(gain[1:] > 0.5 * most[1:])
  else:
    np.testing.assert_allclose(gain, most, rtol=1e-5)


def test_slide_direction_takes_the_top_twentieth_that_can_move():
  gradient = np.arange(1, 41, dtype=np.float32)[None]  # 40: the top 2
  free = np.ones((1, 40), np.float32)
  direction = run('l1', 'direction', gradient, -free, free)
  np.testing.assert_array_equal(np.flatnonzero(direction), [38, 39])
  np.testing.assert_array_equal(np.asarray(direction)[0, 38:], [0.5, 0.5])
  upper = free.copy()
  upper[0, 39] = 0
  for args in ((gradient, -free, upper), (-gradient, -upper, free)):
    direction = run('l1', 'direction', *args)
    np.testing.assert_array_equal(np.flatnonzero(direction), [37, 38])


@pytest.mark.parametrize('name', ALL)
def test_size_is_the_norm_over_all_leaves(name):
  flat = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
  tree = {'a': flat[:, :4].reshape(3, 2, 2), 'b': flat[:, 4]}
  size = run(name, 'size', tree)
  np.testing.assert_allclose(size, sizes(name, flat), rtol=1e-6)


@pytest.mark.parametrize('name', norms.NORMS)
@settings(max_examples=60)
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
  result = run(name, 'project', delta, np.float32(epsilon), lower, upper)
  expected = reference.project(name, np.float64(delta), epsilon, lower, upper)
  np.testing.assert_allclose(result, expected, atol=2e-6)
  assert np.all(sizes(name, result) <= epsilon * (1 + 1e-6))
  assert np.all((result >= lower) & (result <= upper))
  again = run(
    name, 'project', np.asarray(result), np.float32(epsilon), lower, upper
  )
  np.testing.assert_allclose(again, result, atol=1e-6)


def test_l1_projection_when_the_box_alone_holds_more_than_the_ball():
  # The shift that fits rounds down, and nothing is left to take the rounding.
  delta = np.full((2, 6), 0.84604275, np.float32)
  upper = np.full((2, 6), 2.0**-24, np.float32)
  # So little that a sum with the last one does not show it.
  upper[1, :5], upper[1, 5] = 2.0**-126, 1
  result = run('l1', 'project', delta, np.float32(0), -upper, upper)
  np.testing.assert_array_equal(result, np.zeros((2, 6)))


def test_l1_projection_is_nearer_than_clip_after_projection():
  # In the shape of the test above: no program more.
  delta = np.float32([[1, 1, 0.2, 0, 0, 0]] * 3)
  upper = np.float32([[0.1, 1, 1, 1, 1, 1]] * 3)
  joint = run('l1', 'project', delta, np.float32(1), -upper, upper)
  np.testing.assert_allclose(joint[0, :3], [0.1, 0.85, 0.05], rtol=1e-6)


@pytest.mark.parametrize('name', norms.NORMS)
def test_projection_takes_one_radius_per_example_and_0_holds_nothing(name):
  delta = np.ones((3, 4), np.float32)
  delta[2] = [1e-27, -1e-38, 0, 2]
  result = run(name, 'project', delta, np.float32([0.5, 8, 0]))
  expected = {'linf': 0.5, 'l2': 0.25, 'l1': 0.125}[name]
  rows = [[expected] * 4, [1] * 4, [0] * 4]
  np.testing.assert_allclose(result, rows, rtol=1e-6)


@pytest.mark.parametrize('name', norms.NORMS)
def test_samples_are_uniform_in_the_ball(name):
  like = {'a': np.zeros((500, 2), 'f'), 'b': np.zeros((500, 1), 'f')}
  draws = run(name, 'sample', KEYS, like)
  flat = np.concatenate([draws['a'], draws['b']], axis=1)
  radius = np.sort(sizes(name, flat))
  assert radius[-1] <= 1
  # In 3 dimensions radius ** 3 is uniform: the Kolmogorov-Smirnov distance of
  # 500 draws is below 0.073 in 99 % of the cases.
  distance = np.abs(radius**3 - (np.arange(500) + 0.5) / 500).max()
  assert distance < 0.073
  assert np.all(np.abs(flat.mean(axis=0)) < 0.1)
  assert np.linalg.matrix_rank(flat) == 3
  # A draw depends on its own key alone.
  some = run(name, 'sample', KEYS[2:5], jax.tree.map(lambda x: x[2:5], like))
  np.testing.assert_array_equal(draws['a'][2:5], some['a'])


def test_both_l1_directions_have_a_name():
  """The top 5 % of the coordinates evenly, two of 40, and the largest alone."""
  gradient = np.linspace(1, -2, 40, dtype=np.float32)[None]
  two, one = np.zeros_like(gradient), np.zeros_like(gradient)
  two[0, -2:], one[0, -1] = -0.5, -1
  for norm, expected in [
    (norms.get('l1'), two),
    (norms.get('slide'), two),
    (norms.NSL_NORMS['slide'], two),
    (norms.NSL_NORMS['l1'], one),
    (norms.get('nsl_l1'), one),
  ]:
    np.testing.assert_array_equal(norm.direction(gradient), expected)
  assert norms.NSL_NORMS['linf'] is norms.NSL_NORMS['infinity'] is norms.linf


def test_unknown_norm_is_an_error():
  with pytest.raises(ValueError, match="norm = 'l0'; allowed: 'linf', 'l2'"):
    norms.get('l0')
  with pytest.raises(ValueError, match=r"'infinity'.*did you mean 'linf'\?"):
    norms.get('infinity')
  assert norms.get('l2') is norms.l2
  assert norms.get(norms.NSL_NORMS['l1']) is norms.NSL_NORMS['l1']
