"""Accuracy class by class."""

import numpy as np
import pytest
from advjax.evaluation.per_class import per_class_accuracy

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('num_classes', [3, 10, 200])
def test_accuracy_is_counted_in_each_class(num_classes):
  labels = RNG.integers(0, num_classes, 100)
  predictions = np.where(
    RNG.random(100) < 0.6, labels, RNG.integers(0, num_classes, 100)
  )
  found = per_class_accuracy(predictions, labels, num_classes)
  assert found.shape == (num_classes,)
  for label in range(num_classes):
    own = predictions[labels == label]
    if len(own):
      assert found[label] == (own == label).mean()
    else:
      assert np.isnan(found[label])
  counts = np.bincount(labels, minlength=num_classes)
  whole = np.nansum(found * counts) / 100
  assert whole == pytest.approx((predictions == labels).mean())


def test_no_images_no_accuracy():
  assert np.isnan(
    per_class_accuracy(np.zeros(0, int), np.zeros(0, int), 2)
  ).all()


@pytest.mark.parametrize(
  ('predictions', 'labels', 'message'),
  [
    ([0, 1], [0, 1, 1], r'shapes \(2,\) and \(3,\); allowed: \[N\] both'),
    ([[0, 1]], [[0, 1]], r'shapes \(1, 2\)'),
    ([0, 1], [0, 2], r'labels hold values from 0 to 2; allowed: 0 to 1'),
    ([0, 1], [-1, 1], r'labels hold values from -1 to 1'),
  ],
)
def test_bad_input_is_named(predictions, labels, message):
  with pytest.raises(ValueError, match=message):
    per_class_accuracy(np.array(predictions), np.array(labels), 2)
