"""Tests of the parts that all data sets share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import data

ALL_BYTES = np.arange(256, dtype=np.uint8)


def numbered_split(num_images: int) -> data.Split:
  """A split whose images and labels tell their row."""
  rows = np.arange(num_images)
  images = np.broadcast_to(rows[:, None, None, None], (num_images, 2, 2, 1))
  return data.Split(images.astype(np.uint8), rows.astype(np.int32))


def test_to_float_spans_the_unit_interval():
  pixels = data.to_float(ALL_BYTES)
  assert pixels.dtype == np.float32
  assert pixels[0] == 0.0
  assert pixels[255] == 1.0
  np.testing.assert_allclose(
    pixels.astype(np.float64), np.arange(256) / 255, rtol=2e-7
  )
  np.testing.assert_array_equal(np.rint(pixels * 255), ALL_BYTES)


@pytest.mark.parametrize(
  'to_float', [data.to_float, jax.jit(data.to_float)], ids=['eager', 'jit']
)
def test_to_float_gives_the_same_bits_in_numpy_and_jax(to_float):
  pixels = to_float(jnp.asarray(ALL_BYTES))
  assert isinstance(pixels, jax.Array)
  assert pixels.dtype == jnp.float32
  np.testing.assert_array_equal(np.asarray(pixels), data.to_float(ALL_BYTES))


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_to_float_leaves_the_values_of_floats(dtype):
  pixels = data.to_float(np.array([0.0, 0.25, 1.0], dtype))
  assert pixels.dtype == np.float32
  np.testing.assert_array_equal(pixels, [0.0, 0.25, 1.0])


def test_to_float_takes_bfloat16():
  pixels = data.to_float(jnp.array([0.0, 0.25, 1.0], jnp.bfloat16))
  assert pixels.dtype == jnp.float32
  np.testing.assert_array_equal(np.asarray(pixels), [0.0, 0.25, 1.0])


@pytest.mark.parametrize('dtype', [np.int32, np.bool_, np.uint16])
def test_to_float_refuses_other_dtypes(dtype):
  with pytest.raises(ValueError, match=f'{np.dtype(dtype)}.*uint8'):
    data.to_float(np.zeros(3, dtype))


@given(
  num_images=st.integers(1, 200),
  fraction=st.floats(0, 1, exclude_max=True),
  seed=st.integers(0, 2**32 - 1),
)
def test_holdout_partitions_the_rows_in_order(num_images, fraction, seed):
  num_validation = int(fraction * num_images)
  train, validation = data.holdout(num_images, num_validation, seed)
  assert len(validation) == num_validation
  rows = np.concatenate([train, validation])
  np.testing.assert_array_equal(np.sort(rows), np.arange(num_images))
  for part in (train, validation):
    assert part.dtype == np.int32
    assert (np.diff(part) > 0).all()


def test_holdout_depends_on_the_seed_alone():
  chosen = [data.holdout(100, 20, seed)[1] for seed in (0, 0, 1)]
  np.testing.assert_array_equal(chosen[0], chosen[1])
  assert (chosen[0] != chosen[2]).any()


@pytest.mark.parametrize('num_validation', [-1, 10, 11])
def test_holdout_refuses_to_leave_nothing(num_validation):
  with pytest.raises(ValueError, match=rf'{num_validation} .*\[0, 10\)'):
    data.holdout(10, num_validation, seed=0)
