"""The embedded digits, against scikit-learn's own arrays."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from advjax import data
from advjax.data import digits


@pytest.fixture(scope='module')
def dataset():
  return data.load({'name': 'digits'})


def test_images_are_the_originals_resized_bilinearly(dataset):
  originals = load_digits()
  resized = digits._resize(originals.images.astype(np.int64))
  by_pillow = [
    Image.fromarray(np.float32(image) * 255 / 16).resize(
      (28, 28), Image.Resampling.BILINEAR
    )
    for image in originals.images
  ]
  # Half a grey value of rounding, and Pillow's own arithmetic in float32.
  assert np.abs(resized - np.stack(by_pillow)).max() <= 0.5 + 1e-5
  # The splits hold every one of them once.
  assert sorted(
    (image.tobytes(), label)
    for split in (dataset.train, dataset.test)
    for image, label in zip(*split, strict=True)
  ) == sorted(
    (image.tobytes(), label)
    for image, label in zip(resized, originals.target, strict=True)
  )


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
  assert dataset.train.images.shape == (1437, 28, 28, 1)
  assert dataset.test.labels.dtype == np.int32
  assert dataset.class_names == tuple('0123456789')
  # Stratified.
  totals = np.bincount(load_digits().target)
  in_test = np.bincount(dataset.test.labels, minlength=10)
  assert np.abs(in_test - totals * 360 / 1797).max() < 1


def test_scikit_learns_file_and_its_loader_give_the_same(monkeypatch):
  images, labels = digits._read()
  monkeypatch.setattr(digits, '_FILE', 'elsewhere.csv')
  others, other_labels = digits._read()
  np.testing.assert_array_equal(others, images)
  np.testing.assert_array_equal(other_labels, labels)
  assert others.dtype == images.dtype
