"""Numbers and tables as people read them."""

import math

import numpy as np
import pytest

from advjax.reporting.formatting import (
  Row,
  Table,
  attack_label,
  format_epsilon,
  format_estimate,
  percent,
  points,
)
from advjax.results import Estimate


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (8 / 255, '8/255'),
    (float(np.float32(8 / 255)), '8/255'),
    (0.0314, '0.0314'),  # As it was given.
    (float(np.float32(0.1)), '0.1'),
    (0.2, '0.2'),  # And 51/255.
    (0.0, '0'),
    (3.0, '3'),
    (0.0123456, '0.0123'),
    (300 / 255, '1.18'),
  ],
)
def test_epsilons_are_written_as_they_were_given(value, text):
  assert format_epsilon(value) == text


def test_accuracies_have_their_interval():
  found = Estimate(0.98611, (0.9678, 0.9941), 0.004)
  assert format_estimate(found) == '98.6 ± 0.4 % [96.8, 99.4]'
  assert format_estimate(Estimate(1.0)) == '100.0 %'
  assert format_estimate(None) == '-'
  assert percent(0.12345, 2) == '12.35 %'
  assert percent(math.nan) == percent(None) == 'n/a'
  assert [points(x) for x in (0.01, 0.125, 0.02)] == [
    '1 point',
    '12.5 points',
    '2 points',
  ]


@pytest.mark.parametrize(
  ('key', 'num_steps', 'label'),
  [
    ('fgsm', 1, 'FGSM'),
    ('pgd-40-5', 40, 'PGD-40-5'),
    ('mifgsm', 10, 'MI-FGSM-10'),
    ('apgd-ce', None, 'APGD-CE'),
    ('fab-t-100', 100, 'FAB-T-100'),
    ('autoattack-plus', None, 'AutoAttack-PLUS'),
    ('deepfool', None, 'DeepFool'),
  ],
)
def test_attacks_have_the_names_of_papers(key, num_steps, label):
  assert attack_label(key, num_steps) == label


def test_wide_tables_continue_below():
  names = [f'model_{i}' for i in range(12)]
  rows = [
    Row('white box'),
    Row('  PGD', [f'{i}.0 % [1.0, 2.0]' for i in names]),
  ]
  text = Table('t', names, rows).text()
  blocks = text.split('\n\n')
  assert len(blocks) > 1
  assert max(map(len, text.splitlines())) <= 100
  for name in names:
    assert text.count(f'{name}.0 %') == 1
  for block in blocks:
    head, line, group, cells = block.splitlines()
    assert set(line) == {'-'} and group == 'white box'
    assert cells.startswith('  PGD') and len(cells) == len(line) == len(head)
