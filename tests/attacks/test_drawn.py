"""Ten thousand drawn examples: no attack leaves the ball or the box."""

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
ROWS = 1700
BOUNDS = [(0.0, 1.0), (-0.1, 0.9)]  # The latter are no floats.
EPSILONS = np.float32(
  [0, 1e-30, 1e-9, 1e-7, 1e-4, 1 / 255, 8 / 255, 0.1, 0.3, 1, 4, 100]
)
ORDERS = {'linf': np.inf, 'l2': 2, 'l1': 1}


@functools.cache
def model(shape):
  size = (np.prod(shape), SHAPES[shape])
  weights = np.random.default_rng(0).normal(size=size).astype(np.float32)

  def logits_fn(images):
    flat = images.reshape(len(images), -1).astype(jnp.float32)
    return jnp.tanh(2 * flat - 1) @ weights

  return logits_fn


def draw(shape, bounds, rng):
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
  classes = SHAPES[shape]
  labels = np.asarray(model(shape)(images).argmax(axis=1), np.int32)
  labels = np.where(kind.ravel() == 5, rng.integers(classes, size=ROWS), labels)
  targets = (labels + rng.integers(1, classes, size=ROWS)) % classes
  return (
    images,
    labels.astype(np.int32),
    targets.astype(np.int32),
    rng.choice(EPSILONS, ROWS),
  )


def check(images, result, epsilon, norm, bounds):
  result = np.asarray(result)
  lower, upper = np.float32(bounds)
  assert result.dtype == images.dtype and result.shape == images.shape
  assert np.all((result >= lower) & (result <= upper))  # No NaN either.
  moved = (result.astype(np.float64) - images).reshape(ROWS, -1)
  size = np.linalg.norm(moved, ORDERS[norm], axis=1)
  slack = 1e-5 if norm == 'l1' else 1e-6 * np.maximum(1, epsilon)
  np.testing.assert_array_less(size - epsilon, slack)
  still = epsilon == 0
  assert result[still].tobytes() == images[still].tobytes()
  # The attack did something.
  assert np.mean(size > 0) > 0.2


def run(name, norm, shape, seed):
  rng = np.random.default_rng(seed)
  for bounds in BOUNDS:
    images, labels, targets, epsilon = draw(shape, bounds, rng)
    kwargs = {'targets': targets} if name in ('fab', 'pgd') else {}
    sizes = (epsilon,)
    if name in cases.ATTACKS and name != 'fgsm':
      sizes = (epsilon, np.float32(0.4) * epsilon)
    result = cases.ANY[name](
      model(shape), images, labels, *sizes, norm=norm, bounds=bounds, **kwargs
    )
    check(images, result, epsilon, norm, bounds)


# Every attack sees the three norms and the first three shapes.
FEW = [
  (name, norm, list(SHAPES)[(i + j) % 3])
  for i, name in enumerate(cases.ANY)
  for j, norm in enumerate(cases.NORMS)
]
REST = sorted(set(itertools.product(cases.ANY, cases.NORMS, SHAPES)) - set(FEW))


@pytest.mark.parametrize(('name', 'norm', 'shape'), FEW)
def test_inside_ball_and_box(name, norm, shape, quick_compiles):
  run(name, norm, shape, seed=len(name))


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'norm', 'shape'), REST)
def test_inside_ball_and_box_with_every_norm_and_shape(name, norm, shape):
  run(name, norm, shape, seed=len(name))
