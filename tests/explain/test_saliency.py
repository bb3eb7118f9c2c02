"""Gradient maps against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from advjax import explain
from tests.compiles import counted

RNG = np.random.default_rng(0)
SHAPE = (3, 2, 2, 3)
WEIGHTS = RNG.normal(size=(12, 4)).astype(np.float32)
IMAGES = RNG.uniform(size=SHAPE).astype(np.float32)
LABELS = np.array([1, 0, 3])
KEY = jax.random.key(0)
KEYS = RNG.integers(2**32, size=(3, 2), dtype=np.uint32)
# What a linear network's maps are made of.
OF_LABELS = WEIGHTS.T[LABELS].reshape(SHAPE)


def linear(images):
  return images.reshape(len(images), -1) @ WEIGHTS.astype(images.dtype) + 1


def smooth(images):
  """A network with curvature, in whatever precision the images have."""
  weights = WEIGHTS.astype(images.dtype)
  hidden = jnp.tanh(images.reshape(len(images), -1) @ weights)
  return hidden**2 @ weights[:4]


METHODS = {
  'saliency': explain.saliency,
  'integrated_gradients': explain.integrated_gradients,
  'smooth_grad': lambda *args: explain.smooth_grad(*args, key=KEY),
}


def test_of_a_linear_network_it_is_the_weights():
  found = explain.saliency(linear, IMAGES, LABELS)
  np.testing.assert_allclose(found, OF_LABELS, rtol=1e-5)


@pytest.mark.parametrize('baseline', [0.0, 0.5, IMAGES[:1], IMAGES[0, 0, 0]])
def test_of_a_linear_network_integrated_gradients_are_a_product(baseline):
  found = explain.integrated_gradients(
    linear, IMAGES, LABELS, baseline=baseline
  )
  np.testing.assert_allclose(
    found, (IMAGES - baseline) * OF_LABELS, rtol=1e-4, atol=1e-6
  )


def test_integrated_gradients_are_complete():
  baseline = np.full(SHAPE, 0.25, np.float32)
  maps = explain.integrated_gradients(
    smooth, IMAGES, LABELS, baseline=baseline, num_steps=64
  )
  rows = np.arange(len(LABELS))
  difference = (smooth(IMAGES) - smooth(baseline))[rows, LABELS]
  assert np.abs(difference).max() > 0.1
  np.testing.assert_allclose(maps.sum((1, 2, 3)), difference, atol=1e-3)


def test_without_noise_smooth_grad_is_saliency():
  found = explain.smooth_grad(smooth, IMAGES, LABELS, std=0, key=KEYS)
  expected = explain.saliency(smooth, IMAGES, LABELS)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_smooth_grad_draws_with_the_deviation_asked_for():
  """Of a cubic, the mean gradient at x is 3 (x^2 + std^2)."""
  images = np.full((64, 1, 1, 1), 0.5, np.float32)
  found = explain.smooth_grad(
    lambda x: x[:, 0, 0] ** 3,
    images,
    np.zeros(64, int),
    std=0.3,
    num_samples=200,
    key=KEY,
  )
  maps = np.asarray(found)
  assert maps.mean() == pytest.approx(3 * (0.25 + 0.09), rel=0.02)
  assert maps.std() > 0.01


def test_draws_of_an_example_do_not_depend_on_the_others():
  def draw(rows, keys):
    images, labels = IMAGES[rows], LABELS[rows]
    return np.asarray(explain.smooth_grad(smooth, images, labels, key=keys))

  whole = draw([0, 1, 2], KEYS)
  order = np.array([2, 1, 1])
  mixed = draw(order, KEYS[order])
  np.testing.assert_allclose(mixed, whole[order], rtol=1e-5, atol=1e-6)
  assert np.abs(draw([0, 1, 2], KEYS[::-1]) - whole).max() > 1e-3


def test_the_two_maps_are_the_two_signs():
  gradient = np.array([[[[1.0, -3.0, 0.5], [-1.0, -2.0, -0.5]]]])
  np.testing.assert_array_equal(explain.positive_map(gradient), [[[1, 0]]])
  np.testing.assert_array_equal(explain.negative_map(gradient), [[[3, 2]]])


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    ('saliency', 'bfloat16'),
    ('integrated_gradients', 'float64'),
    ('smooth_grad', 'bfloat16'),
  ],
)
def test_other_precisions(name, dtype):
  with jax.enable_x64(dtype == 'float64'):
    found = METHODS[name](linear, jnp.asarray(IMAGES, dtype), LABELS)
    assert found.dtype == dtype and found.shape == SHAPE
  expected = IMAGES * OF_LABELS if name[0] == 'i' else OF_LABELS
  tolerance = 0.05 if dtype == 'bfloat16' else 1e-6
  np.testing.assert_allclose(
    np.asarray(found, np.float32), expected, atol=tolerance
  )


def test_new_parameters_compile_nothing():
  def apply(weights, images):
    return images.reshape(len(images), -1) @ weights

  first = explain.saliency(Partial(apply, WEIGHTS), IMAGES, LABELS)
  with counted() as compiles:
    second = explain.saliency(Partial(apply, 2 * WEIGHTS), IMAGES, LABELS)
  assert compiles == [0]
  np.testing.assert_allclose(second, 2 * first)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((None, IMAGES, LABELS), 'logits_fn = None; allowed: a callable'),
    ((linear, IMAGES[0], LABELS), r'images = float32 \[2, 2, 3\]; allowed'),
    ((linear, IMAGES.astype(int), LABELS), r'images = int.*\[B, H, W, C\]'),
    ((linear, IMAGES, LABELS[:2]), r'labels = .* \[2\]; allowed: int \[3\]'),
    ((linear, IMAGES, LABELS * 1.0), r'labels = float.*; allowed: int \[3\]'),
    ((linear, IMAGES, LABELS + 1), r'labels = 1 to 4; .* in \[0, 4\)'),
    ((lambda x: x, IMAGES, LABELS), r'logits = .*; allowed: float \[3, K\]'),
  ],
)
def test_bad_arguments_are_named(arguments, message):
  for method in (*METHODS.values(), explain.guided_backprop):
    with pytest.raises(ValueError, match=message):
      method(*arguments)


@pytest.mark.parametrize(
  ('method', 'options', 'message'),
  [
    ('integrated_gradients', {'num_steps': 0}, 'num_steps = 0; allowed'),
    ('integrated_gradients', {'num_steps': 1.5}, 'num_steps = 1.5; allowed'),
    (
      'integrated_gradients',
      {'baseline': np.zeros(5)},
      r'baseline = float32 \[5\]; allowed: .*\(3, 2, 2, 3\)',
    ),
    ('smooth_grad', {'std': -1, 'key': KEY}, 'std = -1.0; allowed'),
    (
      'smooth_grad',
      {'std': np.ones(3), 'key': KEY},
      r'std.shape = \(3,\)',
    ),
    ('smooth_grad', {'key': None}, 'key = None; .* or 3 keys'),
    (
      'smooth_grad',
      {'key': jax.random.wrap_key_data(KEYS[:2])},
      r'key = key<fry> \[2\]',
    ),
  ],
)
def test_bad_options_are_named(method, options, message):
  with pytest.raises(ValueError, match=message):
    getattr(explain, method)(linear, IMAGES, LABELS, **options)
