"""Tables with a row per member, and the picture of what parameters buy."""

import numpy as np
import pytest
from advjax.reporting.efficiency import efficiency_chart
from advjax.reporting.summary import (
  Gap,
  differ_in_size,
  efficiency_rows,
  gap_of,
  pasted_mean,
  robust_of,
  summary_rows,
)

from tests.reporting.compared_reports import add_monitor, add_shifts, add_top_k


def table(rows):
  """Label -> head -> cell."""
  heads = rows[0].cells
  return {
    row.label: dict(zip(heads, row.cells, strict=True)) for row in rows[1:]
  }


def test_a_member_has_a_row(report):
  found = table(summary_rows(report))
  assert found == {
    'base': {'clean': '98.6 %', 'transfer': '-', 'white box': '41.0 %'},
    'adversarial': {
      'clean': '98.6 %',
      'transfer': '86.0 %',
      'white box': '80.0 %',
    },
  }
  report['members']['base']['clean_accuracy_std'] = 0.01
  assert table(summary_rows(report))['base']['clean'] == '98.6 ± 1.0 %'


def test_the_top_k_and_shifts_join_where_they_are(report):
  add_top_k(report)
  add_shifts(report)
  rows = summary_rows(report)
  assert [row.label for row in rows[1:]] == [
    *('base', '  top-5', 'adversarial', '  top-5')
  ]
  assert rows[0].cells[3:] == (
    *('corruptions', 'unseen corruptions', 'pasted objects'),
  )
  adversarial, top = rows[3].cells, rows[4].cells
  assert (adversarial[1], top[1]) == ('86.0 %', '93.0 %')
  member = report['members']['adversarial']
  for ending, cells in (('', adversarial), ('_top_k', top)):
    value = member[f'unseen_corruption{ending}_accuracy']
    assert cells[4] == f'{100 * value:.1f} %'
  # 98.6 less 5, 15 and 25; of the top 5 less 1, 3 and 5.
  assert (adversarial[5], top[5]) == ('83.6 %', '95.6 %')


def test_a_member_alone_needs_no_glance(report):
  assert summary_rows({}) == []
  del report['members']['adversarial']
  assert summary_rows(report) == []


def test_a_mean_of_pasted_objects_needs_all(report):
  member = {'pasted_objects': {'1': {'accuracy': 0.5}, '2': {}}}
  assert pasted_mean(member) == {} == pasted_mean({})


def test_robust_is_the_strongest_attack(report):
  assert robust_of(report, 'base') == (0.08, 'pgd')
  assert robust_of({'members': {'base': {}}}, 'base') is None


def test_the_gap_is_to_images_not_trained_on(report):
  member = report['members']['base']
  training = member['epochs'][-1]['accuracy']
  assert gap_of(member) == Gap(training, 0.986, False)
  add_monitor(report, num_validation=0)
  assert gap_of(member) == Gap(training, 0.986, False)
  add_monitor(report, num_validation=100)
  assert gap_of(member).value == pytest.approx(0.14)
  assert gap_of(member).held_out
  # The monitor may have looked at earlier epochs alone.
  del member['epochs'][-1]['monitor_clean_accuracy']
  assert gap_of(member).value == pytest.approx(0.13)
  assert gap_of({'clean_accuracy': 0.5}) is None


def test_members_of_one_size_are_not_compared_by_it(report):
  assert not differ_in_size(report)
  assert efficiency_rows(report) == []


def test_what_parameters_buy(report):
  add_monitor(report)
  report['members']['adversarial']['num_params'] = 11_200_000
  found = table(efficiency_rows(report))
  assert found['adversarial'] == {
    'parameters': '11,200,000',
    'ms per step': '9.9',
    'clean': '98.6 %',
    'white box': '44.0 %',
    'points per million': '8.8',
    'training to other images': '99.0 % to 85.0 % (held out)',
  }
  report['members']['base'] = {'num_params': 5}
  assert set(table(efficiency_rows(report))['base'].values()) == {'n/a', '5'}


def test_the_picture_has_every_member_at_its_size(report):
  report['members']['twin'] = dict(report['members']['base'])
  report['members']['adversarial']['num_params'] = 11_200_000
  report['members']['unknown'] = {'clean_accuracy': 0.5}
  figure = efficiency_chart(report)
  ax = figure.axes[0]
  marks = [line for line in ax.lines if line.get_marker() == 'o']
  sizes = [float(line.get_xdata()[0]) for line in marks]
  values = [float(line.get_ydata()[0]) for line in marks]
  np.testing.assert_allclose(values, [0.986, 0.08, 0.986, 0.44, 0.986, 0.08])
  np.testing.assert_allclose(sizes[2:4], 11_200_000)
  assert sizes[0] == 93_322
  # The twin stands beside it, not on it.
  assert 1.01 < sizes[4] / sizes[0] < 1.1
  assert {text.get_text() for text in ax.texts} == {
    *('base', 'adversarial', 'twin')
  }
  assert ax.get_xscale() == 'log'
  places = sorted(text.xy[0] for text in ax.texts)
  assert np.diff(places).min() >= 0.0499
  with pytest.raises(ValueError, match='num_params'):
    efficiency_chart({'members': {'base': {'clean_accuracy': 0.5}}})
