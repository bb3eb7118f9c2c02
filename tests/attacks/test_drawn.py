"""Thousands of drawn examples: no attack leaves the ball or the box."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.attacks import cases

# Shape of an image, number of classes. The first three see every attack; the
# others those of the slow tests.
SHAPES = {
  (1, 1, 1): 2,
  (5,): 1000,
  (4, 3, 2): 10,
  (1, 1, 3): 1000,
  (33,): 2,
  (2, 9): 3,
  (7, 7, 1): 100,
  (6, 6, 3): 4,
}
ROWS = 500
BOUNDS = [(0.0, 1.0), (-0.1, 0.9)]  # The latter are no floats.
EPSILONS = np.float32(
  [0, 1e-30, 1e-9, 1e-7, 1e-4, 1 / 255, 8 / 255, 0.1, 0.3, 1, 4, 100]
)


@functools.cache
def model(shape, numpy=jnp):
  size = (np.prod(shape), SHAPES[shape])
  weights = np.random.default_rng(0).normal(size=size).astype(np.float32)

  def logits_fn(images):
    flat = images.reshape(len(images), -1).astype(np.float32)
    return numpy.tanh(2 * flat - 1) @ weights

  return logits_fn


def draw(shape, bounds, rng, dtype):
  """Images, many of them at the border of the box, labels, targets, radii."""
  lower, upper = np.float32(bounds)
  images = rng.uniform(lower, upper, (ROWS, *shape)).astype(np.float32)
  ends = np.where(rng.random(images.shape) < 0.5, lower, upper)
  near = np.nextafter(ends, np.float32(0.5))
  kind = rng.integers(6, size=(ROWS, *[1] * len(shape)))
  some = rng.random(images.shape) < 0.5
  images = np.select(
    [kind == 1, kind == 2, kind == 3, kind == 4],
    [lower, upper, np.where(some, ends, images), np.where(some, near, ends)],
    images,
  ).astype(np.float32)
  images = np.where((images == 0) & some, np.float32(-0.0), images)
  if dtype != np.float32:  # Inside after rounding, too.
    images = (images * np.float32(0.99)).astype(dtype)
  classes = SHAPES[shape]
  labels = model(shape, np)(images).argmax(axis=1)
  labels = np.where(kind.ravel() == 5, rng.integers(classes, size=ROWS), labels)
  targets = (labels + rng.integers(1, classes, size=ROWS)) % classes
  return (
    images,
    labels.astype(np.int32),
    targets.astype(np.int32),
    rng.choice(EPSILONS, ROWS),
  )


def run(name, norm, shape, dtype='float32'):
  dtype = jnp.dtype(dtype)
  rng = np.random.default_rng(len(name))
  for bounds in BOUNDS:
    images, labels, targets, epsilon = draw(shape, bounds, rng, dtype)
    kwargs = {'norm': norm, 'bounds': bounds}
    if name == 'carlini_wagner':
      del kwargs['norm']
    if name in ('fab', 'pgd'):
      kwargs['targets'] = targets
    if name in cases.BALL:
      kwargs['epsilon'] = epsilon
    result = cases.ALL[name](model(shape), images, labels, **kwargs)
    result = np.asarray(result)
    assert result.dtype == images.dtype and result.shape == images.shape
    lower, upper = np.float32(bounds)
    wide = result.astype(np.float64)
    assert np.all((wide >= lower) & (wide <= upper))  # No NaN either.
    size = cases.sizes(wide - images, norm)
    assert np.mean(size > 0) > 0.1  # It did something.
    if name in cases.MINIMUM:
      continue
    slack = 1e-5 if norm == 'l1' else 1e-6 * np.maximum(1, epsilon)
    np.testing.assert_array_less(size - epsilon, slack)
    fixed = epsilon == 0
    assert result[fixed].tobytes() == images[fixed].tobytes()


NORMS = {name: cases.NORMS for name in cases.ALL if name != 'bim'}
NORMS |= {'deepfool': ['linf', 'l2'], 'carlini_wagner': ['l2']}
# Every family of attacks, and every norm with several.
FEW = [
  ('bim_random', 'linf', (4, 3, 2), 'bfloat16'),
  ('pgd', 'l2', (5,), 'float32'),
  ('mifgsm', 'l1', (4, 3, 2), 'float32'),
  ('apgd', 'l1', (4, 3, 2), 'bfloat16'),
  ('fab', 'l2', (1, 1, 1), 'float32'),
  ('square', 'linf', (5,), 'bfloat16'),
  ('square', 'l1', (4, 3, 2), 'float32'),
  ('deepfool', 'linf', (4, 3, 2), 'bfloat16'),
  ('carlini_wagner', 'l2', (5,), 'bfloat16'),
  ('fmn', 'l1', (4, 3, 2), 'bfloat16'),
]
SLOW = [
  (name, norm, shape)
  for name, norms in NORMS.items()
  for norm, shape in itertools.product(norms, SHAPES)
]


@pytest.mark.accelerator
@pytest.mark.parametrize(('name', 'norm', 'shape', 'dtype'), FEW)
def test_inside_ball_and_box(name, norm, shape, dtype, quick_compiles):
  run(name, norm, shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'norm', 'shape'), SLOW)
def test_inside_ball_and_box_with_every_norm_and_shape(name, norm, shape):
  run(name, norm, shape)
