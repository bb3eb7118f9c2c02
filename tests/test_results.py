"""Results as JSON."""

import math

import numpy as np
import pytest

from advjax.results import Estimate, Trace, accuracy_interval
from tests.reporting import reports


def test_estimates_are_up_to_three_keys():
  data = reports.compared().to_json()['members']['base']
  assert data['clean_accuracy'] == 0.984
  assert data['clean_accuracy_ci'] == list(accuracy_interval(0.984, 1000))
  assert data['unseen_corruption_accuracy_std'] == 0.01
  assert 'clean_accuracy_std' not in data and 'noise' not in data
  entry = data['robust_accuracy']['fgsm']
  assert entry['transfer'] == {'pgd_at': 0.8}
  assert entry['transfer_ci'] == {'pgd_at': list(accuracy_interval(0.8, 1000))}
  assert data['train_seconds'] == 12.5  # Of `Training`, inline.


def test_what_is_not_finite_becomes_null():
  trace = Trace(
    loss=[math.inf, 1.0],
    accuracy=[1.0],
    zero_gradients=0.0,
    not_finite_gradients=0.0,
  )
  assert trace.to_json()['loss'] == [None, 1.0]


def test_several_seeds_are_averaged():
  correct = [np.array([True, True, False, False]), np.array([True] * 4)]
  found = Estimate.of_correct(correct)
  assert found.value == 0.75 and found.std == pytest.approx(0.5 / 2**0.5)
  assert found.ci == accuracy_interval(0.75, 4)


@pytest.mark.parametrize(
  ('right', 'count', 'low', 'high'),
  # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3.
  [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_intervals_are_those_published(right, count, low, high):
  found = accuracy_interval(right / count, count)
  assert found == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(('accuracy', 'count'), [(1.1, 10), (-0.1, 10), (1, 0)])
def test_bad_accuracies_are_named(accuracy, count):
  with pytest.raises(ValueError, match='allowed'):
    accuracy_interval(accuracy, count)
