"""Tests of the parts that all data sets share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax import data

ALL_BYTES = np.arange(256, dtype=np.uint8)


def test_to_float_spans_the_unit_interval():
  pixels = data.to_float(ALL_BYTES)
  assert pixels.dtype == np.float32
  assert pixels[0] == 0.0
  assert pixels[255] == 1.0
  np.testing.assert_allclose(
    pixels.astype(np.float64), np.arange(256) / 255, rtol=2e-7
  )
  np.testing.assert_array_equal(np.rint(pixels * 255), ALL_BYTES)


def test_to_float_gives_the_same_bits_in_numpy_and_jax():
  for to_float in (data.to_float, jax.jit(data.to_float)):
    pixels = to_float(jnp.asarray(ALL_BYTES))
    assert isinstance(pixels, jax.Array)
    assert pixels.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(pixels), data.to_float(ALL_BYTES))


def test_to_float_leaves_the_values_of_floats_and_refuses_other_dtypes():
  for dtype in (np.float16, np.float64, jnp.bfloat16):
    pixels = data.to_float(np.array([0.0, 0.25, 1.0], dtype))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, [0.0, 0.25, 1.0])
  for dtype in (np.int32, np.bool_):
    with pytest.raises(ValueError, match=f'{np.dtype(dtype)}.*uint8'):
      data.to_float(np.zeros(3, dtype))


@settings(max_examples=30)
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
  again = data.holdout(num_images, num_validation, seed)
  np.testing.assert_array_equal(again[0], train)


def test_holdout_refuses_to_leave_nothing():
  for count in (-1, 10):
    with pytest.raises(ValueError, match=rf'= {count}; allowed: \[0, 10\)'):
      data.holdout(10, count, seed=0)


def shuffled_dataset():
  """100 images that tell their row, of five classes drawn by chance."""
  images = np.tile(
    np.arange(100, dtype=np.uint8)[:, None, None, None], (2, 2, 1)
  )
  labels = np.random.default_rng(0).integers(0, 5, (2, 100)).astype(np.int32)
  splits = [data.Split(images, row) for row in labels]
  return data.Dataset('made up', *splits, 5, tuple('abcde'))


@settings(max_examples=30)
@given(classes=st.permutations(range(5)), num_kept=st.integers(2, 5))
def test_keep_classes_keeps_rows_and_names(classes, num_kept):
  dataset = shuffled_dataset()
  kept = data.keep_classes(dataset, classes[:num_kept])
  assert (kept.name, kept.num_classes) == ('made up', num_kept)
  assert kept.class_names == tuple(
    'abcde'[label] for label in classes[:num_kept]
  )
  for before, after in (
    (dataset.train, kept.train),
    (dataset.test, kept.test),
  ):
    rows = np.isin(before.labels, classes[:num_kept])
    np.testing.assert_array_equal(after.images, before.images[rows])
    old_labels = np.array(classes)[after.labels]
    np.testing.assert_array_equal(old_labels, before.labels[rows])
    assert (after.images.dtype, after.labels.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize(
  'classes',
  [(), (1,), (1, 1), (0, 5), (-1, 0), (0, 'owl'), (0.0, 1.0), (0, [1]), 3],
)
def test_keep_classes_refuses(classes):
  message = r"^classes = .*allowed: two or more .*'made up', .* 4$"
  with pytest.raises(ValueError, match=message) as error:
    data.keep_classes(shuffled_dataset(), classes)
  assert repr(classes) in str(error.value)


def test_keep_classes_refuses_to_leave_nothing():
  dataset = shuffled_dataset()
  test = dataset.test._replace(labels=np.zeros(100, np.int32))
  with pytest.raises(ValueError, match=r'\(2, 3\); allowed: .* the test split'):
    data.keep_classes(dataset._replace(test=test), (2, 3))
