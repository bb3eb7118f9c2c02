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
ROWS = 1700  # Six times: three programs with two boxes each.
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


def check_box(images, result, bounds):
  """Returns how far the result is away, in float64: `[rows, coordinates]`."""
  result = np.asarray(result)
  lower, upper = np.float32(bounds)
  assert result.dtype == images.dtype and result.shape == images.shape
  assert np.all((result >= lower) & (result <= upper))  # No NaN either.
  return (result.astype(np.float64) - images).reshape(ROWS, -1)


def check_ball(images, result, epsilon, norm, bounds):
  moved = check_box(images, result, bounds)
  size = np.linalg.norm(moved, ORDERS[norm], axis=1)
  slack = 1e-5 if norm == 'l1' else 1e-6 * np.maximum(1, epsilon)
  np.testing.assert_array_less(size - epsilon, slack)
  still = epsilon == 0
  assert np.asarray(result)[still].tobytes() == images[still].tobytes()
  assert np.mean(size > 0) > 0.1  # It did something.


def run(name, norm, shape):
  rng = np.random.default_rng(len(name))
  for bounds in BOUNDS:
    images, labels, targets, epsilon = draw(shape, bounds, rng)
    kwargs = {'norm': norm, 'bounds': bounds}
    if name in cases.NEAREST:
      result = cases.NEAREST[name](model(shape), images, labels, **kwargs)
      moved = check_box(images, result, bounds)
      assert np.mean(moved.any(axis=1)) > 0.1
      continue
    if name in ('fab', 'pgd'):
      kwargs['targets'] = targets
    sizes = (epsilon,)
    if name in cases.ATTACKS and name != 'fgsm':
      sizes = (epsilon, np.float32(0.4) * epsilon)
    result = cases.ANY[name](model(shape), images, labels, *sizes, **kwargs)
    check_ball(images, result, epsilon, norm, bounds)


NORMS = {name: cases.NORMS for name in (*cases.ANY, *cases.NEAREST)}
NORMS |= {'deepfool': ['linf', 'l2'], 'carlini_wagner': ['l2']}
# Every attack sees its norms and the first three shapes, save bim, which is
# bim_random without a start.
FEW = [
  (name, norms[j % len(norms)], list(SHAPES)[(i + j) % 3])
  for i, (name, norms) in enumerate(NORMS.items())
  for j in range(3)
  if name != 'bim'
]
ALL = [
  (name, norm, shape)
  for name, norms in NORMS.items()
  for norm, shape in itertools.product(norms, SHAPES)
]


@pytest.mark.parametrize(
  ('name', 'norm', 'shape'),
  [
    # One of the three of each attack, and each norm in turn.
    pytest.param(*case, marks=pytest.mark.accelerator)
    if i % 3 == i // 3 % 3
    else case
    for i, case in enumerate(FEW)
  ],
)
def test_inside_ball_and_box(name, norm, shape, quick_compiles):
  run(name, norm, shape)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'norm', 'shape'), ALL)
def test_inside_ball_and_box_with_every_norm_and_shape(name, norm, shape):
  run(name, norm, shape)
