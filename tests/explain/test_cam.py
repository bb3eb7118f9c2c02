"""Class activation maps against NumPy, and against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.explain import cam, grad_cam

RNG = np.random.default_rng(0)
FILTERS = RNG.normal(size=(3, 5)).astype(np.float32)
WEIGHTS = RNG.normal(size=(5, 4)).astype(np.float32)
BIAS = RNG.normal(size=4).astype(np.float32)
IMAGES = RNG.uniform(size=(3, 8, 8, 3)).astype(np.float32)
LABELS = np.array([1, 0, 3])


def features_fn(images):
  """`[B, 8, 8, 3]` to `[B, 4, 4, 5]`."""
  blocks = images.reshape(len(images), 4, 2, 4, 2, 3).mean((2, 4))
  return jax.nn.relu((blocks - 0.5) @ FILTERS)


def pooled_head(maps):
  return maps.mean((1, 2)) @ WEIGHTS + BIAS[None]


def curved_head(maps):
  return jnp.tanh(maps.mean((1, 2)) + maps[:, 0, 1]) @ WEIGHTS


def float64_maps():
  blocks = IMAGES.reshape(3, 4, 2, 4, 2, 3).astype(np.float64).mean((2, 4))
  return np.maximum((blocks - 0.5) @ FILTERS, 0)


def test_the_mean_of_cam_is_the_logit_without_its_bias():
  maps = np.asarray(cam(features_fn, WEIGHTS, IMAGES, LABELS, upsample=False))
  assert maps.shape == (3, 4, 4)
  logits = pooled_head(float64_maps())[np.arange(3), LABELS]
  np.testing.assert_allclose(
    maps.mean((1, 2)) + BIAS[LABELS], logits, rtol=1e-5
  )
  assert (maps < 0).any() and (maps > 0).any()


def test_behind_global_pooling_grad_cam_is_the_positive_part_of_cam():
  """Divided by the number of places, 4 x 4, before it is upsampled."""
  found = grad_cam(features_fn, pooled_head, IMAGES, LABELS, upsample=False)
  maps = cam(features_fn, WEIGHTS, IMAGES, LABELS, upsample=False)
  expected = np.maximum(maps, 0) / 16
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_grad_cam_by_hand():
  maps = float64_maps()
  inner = 1 - np.tanh(maps.mean((1, 2)) + maps[:, 0, 1]) ** 2
  gradient = inner * WEIGHTS.T[LABELS]  # Of the sum of mean and one place.
  weights = gradient / 16 + gradient / 16  # Both averaged over 16 places.
  expected = np.einsum('bijk,bk->bij', maps, weights)
  found = grad_cam(features_fn, curved_head, IMAGES, LABELS, upsample=False)
  wanted = np.maximum(expected, 0)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
  assert (expected < 0).any() and (expected > 0).any()


def test_maps_are_upsampled_where_they_lie():
  """A single bright block stays in its corner, bilinear between."""
  images = np.zeros((1, 8, 8, 1), np.float32)
  images[0, :4, 4:] = 1
  found = np.asarray(
    cam(lambda x: x[:, ::4, ::4], np.ones((1, 1)), images, np.zeros(1, int))
  )
  assert found.shape == (1, 8, 8)
  row = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
  np.testing.assert_allclose(found[0, 0], row)
  np.testing.assert_allclose(found[0, :, -1], row[::-1])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float64'])
def test_other_precisions(dtype):
  with jax.enable_x64(dtype == 'float64'):
    images = jnp.asarray(IMAGES, dtype)
    found = grad_cam(features_fn, pooled_head, images, LABELS)
    also = cam(features_fn, jnp.asarray(WEIGHTS), images, LABELS)
    assert found.dtype == also.dtype == dtype
  expected = cam(features_fn, WEIGHTS, IMAGES, LABELS)
  np.testing.assert_allclose(np.asarray(also, np.float32), expected, atol=0.1)


@pytest.mark.parametrize(
  ('method', 'arguments', 'message'),
  [
    (cam, (features_fn, None), r'class_weights = None; allowed: \[K, N\]'),
    (
      cam,
      (features_fn, WEIGHTS[:3]),
      r'\[3, 4\]; allowed: \[5, N\], a row for',
    ),
    (cam, (features_fn, WEIGHTS[:, :2]), r'labels = 0 to 3; .* in \[0, 2\)'),
    (
      cam,
      (lambda x: x[:, 0], WEIGHTS),
      r'\(images\) = float32 \[3, 8, 3\]',
    ),
    (grad_cam, (lambda x: x[:2], pooled_head), r'allowed: \[3, h, w, K\]'),
    (grad_cam, (features_fn, lambda x: x), r'logits = .*\[3, 4, 4, 5\]'),
    (grad_cam, (None, pooled_head), 'features_fn = None; .*callable'),
    (grad_cam, (features_fn, None), 'head_fn = None; .*callable'),
  ],
)
def test_bad_arguments_are_named(method, arguments, message):
  with pytest.raises(ValueError, match=message):
    method(*arguments, IMAGES, LABELS)


@pytest.mark.parametrize('change', [1, -1])
def test_classes_without_a_logit_are_named(change):
  with pytest.raises(ValueError, match=r'labels = .*; .* in \[0, 4\)'):
    grad_cam(features_fn, pooled_head, IMAGES, LABELS + change)
