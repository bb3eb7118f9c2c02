"""Bars of accuracies, read back from the objects that matplotlib holds."""

import copy

import numpy as np
import pytest
from advjax.reporting.bars import accuracy_bars, has_shifts, shift_bars
from matplotlib.colors import to_rgba

from advjax.reporting.charts import COLORS
from advjax.reporting.values import interval_of
from tests.reporting.compared_reports import SEEN, add_shifts, add_top_k


def test_bars_hold_the_numbers(report):
  base = report['members']['base']['robust_accuracy']['fgsm']
  base['transfer']['adversarial'] = 0.7
  ax = accuracy_bars(report).axes[0]
  ticks = [tick.get_text() for tick in ax.get_xticklabels()]
  assert ticks[:3] == [
    'clean',
    'FGSM\nwhite box\nepsilon 0.1',
    'FGSM\ntransfer\nepsilon 0.1',
  ]
  heights = [bar.get_height() for bar in ax.patches]
  np.testing.assert_allclose(heights[:6], [0.986, 0.986, 0.41, 0.8, 0.86, 0.7])
  hatched = [bar.get_hatch() is not None for bar in ax.patches]
  assert hatched[:6] == [False] * 4 + [True] * 2
  assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
  assert len(ax.containers) == 2 * 7 * 2  # A bar and its interval each.


def test_transfer_bar_takes_the_source_that_fools_most(report):
  third = copy.deepcopy(report['members']['base'])
  report['members']['third'] = third
  report['members']['base']['robust_accuracy']['fgsm']['transfer'] = {
    'adversarial': 0.9
  }
  third['robust_accuracy']['fgsm']['transfer'] = {'adversarial': 0.3}
  heights = [bar.get_height() for bar in accuracy_bars(report).axes[0].patches]
  assert 0.3 in heights
  assert 0.9 not in heights


def test_the_top_k_stands_pale_behind(report):
  add_top_k(report)
  figure = accuracy_bars(report)
  ax = figure.axes[0]
  pale, solid = ax.patches[0], ax.patches[1]
  base = report['members']['base']
  assert pale.get_height() == base['clean_top_k_accuracy']
  assert solid.get_height() == base['clean_accuracy']
  assert pale.get_x() == solid.get_x()
  assert pale.get_facecolor()[:3] == solid.get_facecolor()[:3]
  assert pale.get_facecolor()[3] < solid.get_facecolor()[3] == 1
  legend = [text.get_text() for text in figure.legends[0].texts]
  assert 'pale: top-5' in legend
  numbers = {text.get_text(): text.get_position() for text in ax.texts}
  entry = base['robust_accuracy']['pgd']
  assert (entry['white_box'], entry['white_box_top_k']) == (0.08, 0.54)
  assert 0.08 < numbers['8.0'][1] < 0.5 < numbers['54.0'][1]


def test_numbers_that_would_hide_each_other_stand_in_order(report):
  add_top_k(report)  # 98.6 and 99.3 on clean images.
  ax = accuracy_bars(report).axes[0]
  places = {text.get_text(): text.get_position()[1] for text in ax.texts}
  assert 1.0 < places['98.6'] < places['99.3'] < ax.get_ylim()[1]
  assert places['99.3'] - places['98.6'] > 0.05


def test_shifts_have_a_group_for_each_family(report):
  add_top_k(report)
  add_shifts(report)
  assert has_shifts(report)
  ax = shift_bars(report).axes[0]
  ticks = [tick.get_text().replace('\n', ' ') for tick in ax.get_xticklabels()]
  assert ticks == [
    'clean',
    'noise (partly seen)',
    'blur',
    'weather (partly seen)',
    'digital',
    'all unseen corruptions',
    *(f'pasted objects severity {severity}' for severity in (1, 3, 5)),
  ]
  solid = [bar for bar in ax.patches if bar.get_facecolor()[3] == 1]
  base = [bar for bar in solid if bar.get_facecolor() == to_rgba(COLORS[0])]
  member = report['members']['base']
  kinds = member['corruptions']
  blurs = [kind for kind in kinds if kind.endswith('blur')]
  assert len(base) == len(ticks) and len(blurs) == 4
  blur = np.mean([kinds[kind] for kind in blurs])
  assert base[2].get_height() == pytest.approx(blur)
  unseen = np.mean([v for kind, v in kinds.items() if kind not in SEEN])
  assert base[5].get_height() == pytest.approx(unseen)
  assert base[8].get_height() == member['pasted_objects']['5']['accuracy']
  # A mean over kinds has no interval over images; the others have.
  pale = len(ax.patches) - len(solid)
  assert pale == len(solid) == 2 * 9
  intervals = [box for box in ax.containers if hasattr(box, 'has_yerr')]
  assert len(intervals) == 2 * 2 * 4


def test_shifts_need_something_to_show(report):
  assert not has_shifts(report)
  # Some kinds are no family.
  report['members']['base']['corruptions'] = {'fog': [0.5] * 5}
  assert not has_shifts(report)
  with pytest.raises(ValueError, match='no member with corruptions'):
    shift_bars(report)
  report['members']['base']['pasted_objects'] = {
    '1': {'accuracy': 0.5, 'accuracy_ci': [0.4, 0.6]}
  }
  ax = shift_bars(report).axes[0]
  assert [bar.get_height() for bar in ax.patches] == [0.986, 0.986, 0.5]
  low, high = interval_of(report['members']['base'], 'clean_accuracy')
  assert low < 0.986 < high
