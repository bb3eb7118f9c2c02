"""Intervals and the writing of numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.reporting.values import (
  accuracy_interval,
  attack_label,
  attacks_of,
  autoattack_runs,
  finite,
  interval_of,
  percent,
)


@given(st.integers(0, 500), st.integers(1, 500))
def test_interval_is_wilsons_closed_form(num_correct, num_images):
  num_correct = min(num_correct, num_images)
  z, n, p = 1.959963984540054, num_images, num_correct / num_images
  centre = (p + z * z / (2 * n)) / (1 + z * z / n)
  half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
  low, high = accuracy_interval(p, n)
  np.testing.assert_allclose(
    [low, high], [centre - half, centre + half], 1e-9, 1e-9
  )
  assert 0 <= low <= p <= high <= 1


def test_interval_has_a_width_where_everything_is_right():
  low, high = accuracy_interval(1.0, 360)
  assert 0.98 < low < 0.995
  assert high == 1


@pytest.mark.parametrize(
  ('accuracy', 'num_images', 'message'),
  [
    (1.2, 10, r'\[0, 1\], got 1.2'),
    (-0.1, 10, r'\[0, 1\], got -0.1'),
    (math.nan, 10, 'got nan'),
    (0.5, 0, 'num_images must be at least 1, got 0'),
  ],
)
def test_interval_names_the_bad_argument(accuracy, num_images, message):
  with pytest.raises(ValueError, match=message):
    accuracy_interval(accuracy, num_images)


def test_finite_takes_numbers_of_numpy_and_leaves_the_rest():
  assert finite(np.float32(0.5)) == 0.5
  for value in (None, math.nan, math.inf, 'text', True):
    assert finite(value) is None


def test_percent():
  assert percent(0.98611) == '98.6 %'
  assert percent(1) == '100.0 %'
  assert percent(None) == percent(math.nan) == 'n/a'


def test_interval_of_wants_two_finite_ends():
  assert interval_of({'white_box_ci': [0.1, 0.2]}, 'white_box') == (0.1, 0.2)
  assert interval_of({'white_box_ci': [0.1, math.nan]}, 'white_box') is None
  assert interval_of({'white_box_ci': None}, 'white_box') is None
  assert interval_of({}, 'white_box') is None


@pytest.mark.parametrize(
  ('key', 'entry', 'label'),
  [
    ('fgsm', {'num_steps': 1}, 'FGSM'),
    ('bim', {'num_steps': 20}, 'BIM-20'),
    ('bim-20', {'num_steps': 20}, 'BIM-20'),
    ('mifgsm', {'num_steps': 10}, 'MI-FGSM-10'),
    ('autoattack', {}, 'AutoAttack'),
  ],
)
def test_attack_label(key, entry, label):
  assert attack_label(key, entry) == label


def test_close_epsilons_of_autoattack_are_kept_apart():
  def entry(epsilon, norm='linf'):
    return {'version': 'standard', 'epsilon': epsilon, 'norm': norm}

  entries = [entry(8 / 255), entry(0.0314), entry(0.1), entry(0.1, 'l2')]
  members = {'one': {'autoattack': entries}, 'two': {'autoattack': entries[1:]}}
  runs = autoattack_runs({'members': members})
  assert list(runs) == [
    f'standard, epsilon {8 / 255!r}, linf',
    'standard, epsilon 0.0314, linf',
    'standard, epsilon 0.1, linf',
    'standard, epsilon 0.1, l2',
  ]
  assert [list(found) for found in runs.values()] == [['one']] + 3 * [
    ['one', 'two']
  ]
  assert [found['one'] for found in runs.values()] == entries


def test_attacks_of_joins_the_members(report):
  del report['members']['base']['robust_accuracy']['bim']
  assert sorted(attacks_of(report)) == ['bim', 'fgsm', 'pgd']
  assert attacks_of({}) == {}
