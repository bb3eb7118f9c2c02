"""The ball is one of real numbers: float64 finds nothing outside of it."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advjax
from advjax import norms
from advjax._arguments import Problem
from tests.attacks import cases

ROWS = 24
DTYPES = ['float32', 'float16', 'bfloat16', 'float64']
SHAPES = [(1, 1), (7,), (64, 5, 3)]


@functools.partial(jax.jit, static_argnums=0)
def perturb(norm, images, delta, epsilon, lower, upper):
  problem = Problem(images, None, None, epsilon, None, lower, upper)
  norm = norms.get(norm)
  delta = norm.project(delta, epsilon, *problem.slack())
  return problem.perturb(delta, norm)


def x64(dtype):
  wide = dtype == 'float64'
  return jax.enable_x64(True) if wide else contextlib.nullcontext()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('norm', cases.NORMS)
@settings(max_examples=15)
@given(
  seed=st.integers(0, 2**31),
  shape=st.sampled_from(SHAPES),
  power=st.floats(-30, 2),
  contrast=st.sampled_from([1.0, 1e-3, 20.0]),
  width=st.sampled_from([1.0, 255.0, np.inf]),
)
def test_what_is_projected_and_added(
  norm, dtype, seed, shape, power, contrast, width
):
  rng = np.random.default_rng(seed)
  wide = np.float64 if dtype == 'float64' else np.float32
  images = (rng.random((ROWS, *shape)) ** contrast).astype(jnp.dtype(dtype))
  images[0], images[1] = 0, 1
  epsilon = (10.0**power * rng.choice([0, 1, 3.3], ROWS)).astype(wide)
  far = 10.0 ** rng.integers(-2, 3, (ROWS, *[1] * len(shape)))
  direction = rng.normal(size=images.shape)
  radius = epsilon.reshape(far.shape)
  delta = (direction * far * radius).astype(wide)
  lower, upper = wide(0 if width < np.inf else -np.inf), wide(width)
  box = [np.full((1,) * images.ndim, x, wide) for x in (lower, upper)]
  with x64(dtype):
    found = np.asarray(perturb(norm, images, delta, epsilon, *box))
  assert found.dtype == images.dtype
  found, images = found.astype(np.float64), images.astype(np.float64)
  size = cases.sizes(found - images, norm)
  assert np.all(size <= np.float64(epsilon))
  assert np.all((found >= lower) & (found <= upper))
  if width == np.inf and dtype in ('float32', 'float64') and power > -1:
    reached = cases.sizes(delta, norm) >= np.float64(epsilon)
    reached &= epsilon > 0
    assert np.all(size[reached] >= epsilon[reached] * (1 - 1e-5))


@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_nothing_is_lost_in_large_images(norm):
  rng = np.random.default_rng(0)
  images = rng.random((3, 224, 224, 3), np.float32)
  delta = rng.normal(size=images.shape).astype(np.float32)
  # Equal terms, whose rounding errors all have one sign.
  delta[1] = 1
  delta[2] = rng.random(images.shape[1:]) ** 9
  epsilon = np.float32({'l2': [0.5, 3, 50], 'l1': [12, 300, 3000]}[norm])
  free = np.full((1, 1, 1, 1), np.inf, np.float32)
  found = np.asarray(perturb(norm, images, delta, epsilon, -free, free))
  size = cases.sizes(found.astype(np.float64) - images, norm)
  assert np.all(size <= np.float64(epsilon))
  assert np.all(size >= np.float64(epsilon) * (1 - 2e-5))


@pytest.mark.parametrize('shape', [(1, 1, 3), (64, 5, 3), (9,)])
@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_square_of_any_shape(shape, norm):
  rng = np.random.default_rng(0)
  images = rng.random((16, *shape), np.float32)
  weights = rng.normal(size=(int(np.prod(shape)), 3)).astype(np.float32)
  labels = np.zeros(16, np.int32)
  network = jax.tree_util.Partial(cases.apply, weights)
  for epsilon in (0.5, 1e-6):
    found = advjax.square(
      network,
      images,
      labels,
      epsilon,
      num_queries=20,
      norm=norm,
      key=cases.KEY,
    )
    size = cases.sizes(np.float64(found) - images, norm)
    assert np.all(size <= np.float64(np.float32(epsilon)))
    assert size.max() > 0.9 * epsilon


@pytest.mark.parametrize('name', ['fmn', 'carlini_wagner'])
def test_weights_of_float64_beside_narrower_images(name):
  with jax.enable_x64(True):
    network = jax.tree_util.Partial(
      lambda weights, images: images.reshape(4, -1) @ weights,
      np.float64(cases.WEIGHTS),
    )
    images = cases.IMAGES.astype(jnp.bfloat16)
    found = cases.ALL[name](network, images, cases.LABELS)
  assert found.dtype == images.dtype
