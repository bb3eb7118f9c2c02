"""JAX's modes: attacks and explanations run under each, with equal results."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from advjax import explain
from tests.attacks import cases

IMAGES = np.random.default_rng(1).uniform(size=(3, 2, 2, 1)).astype(np.float32)
IMAGES[0] = [[[0], [1]], [[0.5], [1]]]
WEIGHTS = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2], np.int32)
SHAPE = IMAGES.shape[1:]


def apply(weights, images):
  hidden = jax.nn.relu(images - 0.25)
  return hidden.reshape(len(images), 4).astype(weights.dtype) @ weights


def bisected(logits_fn, images, labels):
  def attack(logits_fn, images, labels, epsilon, keys):
    return advjax.fgsm(logits_fn, images, labels, epsilon)

  choices = {'key': cases.KEY, 'max_epsilon': 0.5, 'num_bisections': 2}
  return advjax.minimal_epsilon(
    attack, logits_fn, images, labels, **choices
  ).images


def heads(logits_fn, images, labels):
  return explain.grad_cam(lambda x: x, logits_fn, images, labels)


_ball, _searches = cases.GRADIENT, cases.SEARCHES
RUNS = {
  **{name: _ball[name] for name in ('fgsm', 'pgd', 'mifgsm')},
  **_searches,
  **cases.MINIMUM,
  'square': functools.partial(_searches['square'], num_queries=3),
  'square l2': functools.partial(_searches['square'], norm='l2', num_queries=3),
  'apgd l1': functools.partial(_searches['apgd'], norm='l1'),
  'fab l2': functools.partial(_searches['fab'], norm='l2', num_restarts=2),
  'minimal_epsilon': bisected,
  'saliency': explain.saliency,
  'guided_backprop': explain.guided_backprop,
  'integrated_gradients': functools.partial(
    explain.integrated_gradients, num_steps=2
  ),
  'smooth_grad': functools.partial(
    explain.smooth_grad, num_samples=2, key=cases.KEY
  ),
  'grad_cam': heads,
  'activation_maximization': lambda f, x, y: explain.activation_maximization(
    f, y, SHAPE, num_steps=2, key=cases.KEY
  ),
}


@contextlib.contextmanager
def careful(name):
  """All modes at once that refuse programs but compute alike."""
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.numpy_dtype_promotion('strict'))
    stack.enter_context(jax.numpy_rank_promotion('raise'))
    stack.enter_context(jax.debug_nans(True))
    # Its radii of what is not fooled are infinite.
    stack.enter_context(jax.debug_infs(name != 'minimal_epsilon'))
    stack.enter_context(jax.checking_leaks())
    yield


def run(name, dtype=None, weights=WEIGHTS):
  images = jnp.asarray(IMAGES, dtype)
  result = RUNS[name](Partial(apply, jnp.asarray(weights)), images, LABELS)
  assert result.dtype == (
    np.float32 if name == 'activation_maximization' else images.dtype
  )
  return np.asarray(result)


@pytest.mark.parametrize('name', RUNS)
def test_modes_change_nothing(name):
  expected = run(name)
  assert np.isfinite(expected).all()
  with careful(name):
    np.testing.assert_array_equal(run(name), expected)
  if 'l1' not in name:  # Eager bisections take long.
    with jax.disable_jit():
      np.testing.assert_allclose(run(name), expected, atol=1e-5)


@pytest.mark.parametrize('name', RUNS)
def test_mixed_dtypes_under_x64(name):
  """The result has the dtype of the images, whatever the weights have."""
  with jax.enable_x64(True):
    found = run(name, 'float32', WEIGHTS.astype(np.float64))
    assert np.isfinite(run(name, 'float64')).all()
  np.testing.assert_allclose(found, run(name), atol=1e-3)
