"""The gradient of a batch, in parts and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from advjax.training.gradients import AXIS
from X import mean_statistics, psum

from advjax.models import create_model
from advjax.training.objectives import create_objective

OBJECTIVES = {
  'standard': {},
  'adversarial_regularization': {'multiplier': 0.2, 'step_size': 0.2},
  'pgd_at': {'epsilon': 0.1, 'step_size': 0.05},
  'trades': {'epsilon': 0.1, 'step_size': 0.05, 'beta': 6.0},
}


@pytest.mark.parametrize('name', list(OBJECTIVES))
def test_parts_add_up_to_the_whole(name):
  steps = (
    {}
    if name in ('standard', 'adversarial_regularization')
    else {'num_steps': 2}
  )
  objective = create_objective({'name': name, **steps})
  model = create_model(
    {'name': 'cnn', 'conv_filters': (4,), 'num_fc_units': ()}, 3
  )
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.uniform(size=(12, 8, 8, 1)), jnp.float32)
  params, state = model.init(jax.random.key(0), images[:1])
  batch = {
    'image': images,
    'label': jnp.asarray(rng.integers(0, 3, 12)),
    'weight': jnp.where(jnp.arange(12) < 10, 0.1, 0.0),
  }
  keys = jax.random.split(jax.random.key(1), 12)
  hparams = {k: jnp.float32(v) for k, v in OBJECTIVES[name].items()}

  def loss_fn(params, batch, keys):
    return objective(model.apply, params, state, batch, hparams, keys)

  whole, (_, of_whole) = gradient_of_rows(loss_fn, params, batch, keys)
  parts, (_, of_parts) = gradient_of_rows(loss_fn, params, batch, keys, 4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    parts,
    whole,
  )
  assert set(of_parts) == set(of_whole)
  for metric, values in of_whole.items():
    np.testing.assert_allclose(of_parts[metric], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('num_rows', 'expected'),
  [(16, 0), (32, 0), (33, 0), (34, 17), (48, 24), (64, 32), (128, 32), (37, 0)],
)
def test_parts_are_even_and_as_large_as_the_caches_take(num_rows, expected):
  kernel = {'kernel': jnp.ones((3, 3, 1, 2)), 'bias': jnp.ones(2)}
  assert rows_at_once(kernel, {}, num_rows) == expected
  # BatchNorm sees the whole batch; dense layers are faster with it.
  assert rows_at_once(kernel, {'mean': jnp.ones(2)}, num_rows) == 0
  assert rows_at_once({'kernel': jnp.ones((4, 2))}, {}, num_rows) == 0


def test_a_sum_is_one_message_of_every_leaf():
  tree = {'a': jnp.arange(6.0).reshape(2, 3), 'b': jnp.arange(2.0)}
  mapped = jax.vmap(lambda tree: psum(tree, None), axis_name=AXIS)
  found = mapped(tree)
  np.testing.assert_array_equal(found['a'], [[3, 5, 7]] * 2)
  np.testing.assert_array_equal(found['b'], [1, 1])
  text = str(
    jax.make_jaxpr(lambda t: psum(t, None), axis_env=[(AXIS, 2)])(tree)
  )
  assert text.count('psum') == 1


@pytest.mark.parametrize('num_frozen', [0, 1])
def test_statistics_are_averaged_and_counters_are_not(num_frozen):
  old = {'mean': jnp.zeros((2, 3)), 'count': jnp.array([4, 4])}
  new = {'mean': jnp.arange(6.0).reshape(2, 3), 'count': jnp.array([5, 5])}
  found = jax.vmap(
    lambda new, old: mean_statistics(new, old, None, num_frozen),
    axis_name=AXIS,
  )(new, old)
  np.testing.assert_array_equal(found['mean'], [[1.5, 2.5, 3.5]] * 2)
  np.testing.assert_array_equal(found['count'], [5, 5])
