"""Tests of the embedded digits, against scikit-learn's own arrays."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from advjax import data
from advjax.data import digits


@pytest.fixture(scope='module')
def dataset() -> data.Dataset:
  return data.load({'name': 'digits'})


def resized_by_pillow(images: np.ndarray) -> np.ndarray:
  """[N, 8, 8] of 0..16 to float [N, 28, 28] of 0..255, by other code."""
  return np.stack(
    [
      np.asarray(
        Image.fromarray(np.float32(image) * 255 / 16).resize(
          (28, 28), Image.Resampling.BILINEAR
        )
      )
      for image in images
    ]
  )


def test_shapes_dtypes_and_names(dataset):
  assert dataset.name == 'digits'
  assert dataset.train.images.shape == (1437, 28, 28, 1)
  assert dataset.test.images.shape == (360, 28, 28, 1)
  assert dataset.num_classes == 10
  assert dataset.class_names == tuple('0123456789')
  for split in (dataset.train, dataset.test):
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32
    assert split.images.min() == 0
    assert split.images.max() == 255


def test_images_are_the_originals_resized_bilinearly(dataset):
  originals = load_digits()
  expected = {
    (np.rint(image).astype(np.uint8).tobytes(), int(label))
    for image, label in zip(
      resized_by_pillow(originals.images), originals.target, strict=True
    )
  }
  resized = digits._resize(originals.images.astype(np.int64))
  # Half a grey value of rounding, and Pillow's own arithmetic in float32.
  difference = np.abs(resized - resized_by_pillow(originals.images))
  assert difference.max() <= 0.5 + 1e-5
  # Ties (127.5) round either way, so not all images are equal byte for byte.
  images = np.concatenate([dataset.train.images, dataset.test.images])
  labels = np.concatenate([dataset.train.labels, dataset.test.labels])
  found = [
    (image.tobytes(), int(label)) in expected
    for image, label in zip(images[..., 0], labels, strict=True)
  ]
  assert np.mean(found) > 0.2


def test_split_holds_every_image_once(dataset):
  resized = digits._resize(load_digits().images.astype(np.int64))
  rows = np.concatenate(
    [dataset.train.images[..., 0], dataset.test.images[..., 0]]
  )
  assert sorted(row.tobytes() for row in rows) == sorted(
    row.tobytes() for row in resized
  )


def test_split_is_stratified_and_shuffled(dataset):
  totals = np.bincount(load_digits().target)
  in_test = np.bincount(dataset.test.labels, minlength=10)
  assert np.abs(in_test - totals * 360 / 1797).max() < 1
  # Not sorted by class: the first 64 show all ten digits.
  for split in (dataset.train, dataset.test):
    assert set(split.labels[:64]) == set(range(10))


def test_bytes_never_change(dataset):
  """Published numbers rest on these very images, in this very order."""
  digests = [
    hashlib.sha256(array.tobytes()).hexdigest()[:16]
    for split in (dataset.train, dataset.test)
    for array in split
  ]
  assert digests == [
    'eb24baf1d3f29efe',
    'f6b9f09cc7867428',
    '1439abdb84f58449',
    '7077f69c555d8548',
  ]


def test_scikit_learns_file_and_its_loader_give_the_same(monkeypatch):
  images, labels = digits._read()
  monkeypatch.setattr(digits, '_FILE', 'elsewhere.csv')
  others, other_labels = digits._read()
  np.testing.assert_array_equal(others, images)
  np.testing.assert_array_equal(other_labels, labels)
  assert others.dtype == images.dtype
  # Without the import of scikit-learn, which takes long.
  monkeypatch.undo()
  monkeypatch.setattr('sklearn.datasets.load_digits', None)
  np.testing.assert_array_equal(digits._read()[0], images)
