"""The report of a sweep: conclusions, figures, page and files."""

import csv
import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies

from advjax.reporting import sweep as reporting
from tests.reporting import sweep_reports as reports


def two(robust):
  """Two configurations, a trial for each of their robust accuracies."""
  trials = [
    reports.make_trial({'hparams.epsilon': epsilon, 'seed': seed}, (0.9, value))
    for epsilon, values in zip((0.1, 0.2), robust, strict=True)
    for seed, value in enumerate(values)
  ]
  return reports.make_sweep(trials)


def said(sweep):
  found = reporting.configurations(sweep)
  return ' '.join(reporting.explain_sweep(sweep, found))


def test_configurations_average_over_seeds():
  found = reporting.configurations(two([(0.2, 0.4), (0.5,)]))
  assert [each.label for each in found] == ['epsilon=0.1', 'epsilon=0.2']
  assert found[0].robust.value == pytest.approx(0.3)
  assert found[0].robust.std == pytest.approx(0.02**0.5)
  low, high = found[0].robust.ci
  assert low < 0.3 < high
  assert found[1].robust.std is None


def test_diverged_trials_are_left_out_of_means():
  trials = [
    reports.make_trial({'hparams.epsilon': 0.1, 'seed': seed}, accuracies)
    for seed, accuracies in enumerate([(0.9, 0.4), None])
  ]
  sweep = reports.make_sweep(trials)
  (found,) = reporting.configurations(sweep)
  assert found.num_diverged == 1
  assert found.robust.value == pytest.approx(0.4)
  assert reporting.best_trial([found]) is sweep.rows[0]
  assert '1 of its 2 seeds diverged' in said(sweep)
  warnings = reporting.sweep_warnings(sweep)
  assert warnings == [
    f'{sweep.rows[1].member}: diverged: the loss is not finite'
  ]


def test_trials_at_chance_are_a_warning():
  trials = [
    reports.make_trial({'seed': seed}, (clean, 0.05))
    for seed, clean in enumerate([0.12, 0.2])
  ]
  sweep = reports.make_sweep(trials)
  assert reporting.sweep_warnings(sweep) == []  # What chance is is not known.
  data = dataclasses.replace(sweep.dataset, largest_class_share=0.1)
  sweep = dataclasses.replace(sweep, dataset=data)
  (warning,) = reporting.sweep_warnings(sweep)
  assert warning.startswith('seed=0: ') and '10.0 %' in warning


@pytest.mark.parametrize(
  ('robust', 'clear'),
  [
    ([(0.2, 0.21), (0.6, 0.61)], True),
    ([(0.5, 0.51), (0.52, 0.53)], False),  # Intervals overlap.
    ([(0.1, 0.6), (0.59, 0.58)], False),  # Ranges over seeds overlap.
  ],
)
def test_a_lead_by_chance_is_none(robust, clear):
  text = said(two(robust))
  assert ('more than chance' in text) is clear
  assert ('not distinguishable' in text) is not clear


def test_gradient_masking_is_named():
  sweep = two([(0.1,), (0.5,)])
  masked = reports.make_trial(
    {'hparams.epsilon': 0.1, 'seed': 0},
    (0.9, 0.1),
    attacks={'fgsm': 0.8, 'pgd': 0.1},
  )
  assert 'Gradient masking' not in said(sweep)
  text = said(reports.make_sweep([masked, sweep.rows[1]]))
  assert 'Gradient masking in 1 trial' in text and '80.0 %' in text


def test_axes_of_fields_that_change_together():
  trials = [
    reports.make_trial(
      {'hparams.epsilon': e, 'hparams.step_size': 1.25 * e, 'model.name': m},
      (0.9, 0.3),
    )
    for e in (0.2, 0.1)
    for m in ('cnn', 'mlp')
  ]
  found = reporting.configurations(reports.make_sweep(trials))
  first, second = reporting.find_axes(found)
  assert first.label == 'epsilon (with step_size)' and first.numeric
  assert first.values == [0.1, 0.2]
  assert second.field == 'model.name' and second.values == ['cnn', 'mlp']


accuracy = strategies.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])


@hypothesis.given(
  strategies.lists(strategies.tuples(accuracy, accuracy), max_size=7)
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_pareto_front(points):
  trials = [
    reports.make_trial({'hparams.epsilon': float(i)}, point)
    for i, point in enumerate(points)
  ]
  found = reporting.configurations(reports.make_sweep(trials))
  front, rest = reporting.pareto_front(found)
  assert len(front) + len(rest) == len(points)

  def point(each):
    return each.clean.value, each.robust.value

  def dominated(each):
    return any(
      point(other) != point(each)
      and all(a >= b for a, b in zip(point(other), point(each), strict=True))
      for other in found
    )

  assert not any(map(dominated, front))
  assert all(map(dominated, rest))
  assert [point(f)[0] for f in front] == sorted(point(f)[0] for f in front)


def test_files(tmp_path):
  def accuracy(fields):
    return None if fields['hparams.epsilon'] == 0.05 else reports.smooth(fields)

  sweep = reports.grid(
    num_seeds=1, accuracy=accuracy, title='<b>sweep</b> & more', pending=['x']
  )
  text = reporting.write_sweep(tmp_path, sweep)
  best = reporting.best_trial(reporting.configurations(sweep))
  assert best.command in text
  saved = json.loads((tmp_path / 'sweep.json').read_text())
  assert saved == json.loads(json.dumps(sweep.to_json()))
  page = (tmp_path / 'report.html').read_text()
  assert '<b>sweep' not in page
  assert '&lt;b&gt;sweep&lt;/b&gt; &amp; more' in page and 'http' not in page
  assert page.count('class="best"') == 1
  assert page.count('<td data-key="diverged') == 3
  with open(tmp_path / 'results.csv') as file:
    rows = list(csv.DictReader(file))
  lines = (tmp_path / 'results.jsonl').read_text().splitlines()
  assert len(rows) == len(lines) == 9
  for row, line, trial in zip(
    rows, map(json.loads, lines), sweep.rows, strict=True
  ):
    assert list(row) == list(line)
    assert float(row['hparams.epsilon']) == trial.fields['hparams.epsilon']
    if trial.robust_accuracy:
      assert line['robust_accuracy'] == trial.robust_accuracy.value
      assert line['robust_accuracy_low'] == trial.robust_accuracy.ci[0]
      assert line['pgd'] == trial.attacks['pgd']
    else:
      assert row['robust_accuracy'] == '' and line['robust_accuracy'] is None
      assert row['reason'] == 'the loss is not finite'


def test_a_sweep_without_results(tmp_path):
  sweep = reports.make_sweep([], pending=['a', 'b'], num_members=2)
  text = reporting.write_sweep(tmp_path, sweep)
  assert '2 of 2 trials are pending' in text
  assert (tmp_path / 'report.html').exists()
