"""Charts, read back from the objects that matplotlib holds."""

import copy

import numpy as np
import pytest
from advjax.reporting.bars import accuracy_bars
from advjax.reporting.training import (
  generalisation_curves,
  history_of,
  smooth,
  training_curves,
  watched,
)
from matplotlib.colors import to_hex, to_rgb

from advjax.reporting.charts import COLORS, own_color, robustness_curves
from tests.reporting.compared_reports import add_monitor


def line_of(ax, color):
  lines = [line for line in ax.lines if to_hex(line.get_color()) == color]
  assert len(lines) == 1
  return np.asarray(lines[0].get_data())


def test_curves_hold_the_numbers(report):
  figure = robustness_curves(report)
  white_box, transfer = figure.subfigs
  assert [ax.get_title() for ax in white_box.axes] == [
    'FGSM',
    'BIM-20',
    'PGD-40',
  ]
  x, y = line_of(white_box.axes[1], COLORS[0])
  np.testing.assert_allclose(x, [0, 0.02, 0.05, 0.1, 0.15, 0.2])
  np.testing.assert_allclose(y, [0.986, 0.92, 0.62, 0.11, 0.01, 0.0])
  # Transfer: adversarial (its own colour) on the images of base.
  report['members']['base']['robust_accuracy']['fgsm']['curve'][0]['transfer'][
    'adversarial'
  ] = 0.123
  _, transfer = robustness_curves(report).subfigs
  _, y = line_of(transfer.axes[0], COLORS[1])
  assert y[1] == 0.123
  assert white_box.get_suptitle().startswith('White box')
  assert transfer.get_suptitle().startswith('Transfer')


def test_curves_shade_intervals_and_mark_the_headline(report):
  ax = robustness_curves(report).subfigs[0].axes[0]
  ends = report['members']['base']['robust_accuracy']['fgsm']['white_box_ci']
  band = ax.collections[0].get_paths()[0].vertices
  at_headline = band[np.isclose(band[:, 0], 0.1)][:, 1]
  np.testing.assert_allclose(
    [at_headline.min(), at_headline.max()], ends, atol=1e-9
  )
  (headline,) = [line for line in ax.lines if line.get_marker() == 'None']
  assert list(headline.get_xdata()) == [0.1, 0.1]


def test_curves_without_a_curve_use_the_headline(report):
  entry = report['members']['base']['robust_accuracy']['fgsm']
  del entry['curve'], entry['white_box_ci']
  x, y = line_of(robustness_curves(report).subfigs[0].axes[0], COLORS[0])
  np.testing.assert_allclose([x, y], [[0, 0.1], [0.986, 0.41]])


def test_curves_do_not_repeat_an_epsilon_of_zero(report):
  entry = report['members']['base']['robust_accuracy']['fgsm']
  entry['curve'].insert(0, {'epsilon': 0.0, 'white_box': 0.9})
  x, y = line_of(robustness_curves(report).subfigs[0].axes[0], COLORS[0])
  assert list(x).count(0) == 1
  assert y[0] == 0.9


@pytest.mark.parametrize(('num_members', 'num_attacks'), [(1, 1), (6, 5)])
def test_charts_of_few_and_of_many(report, num_members, num_attacks):
  names = [f'net ${i}$ _x' for i in range(num_members)]
  member = report['members']['base']
  sample = member['robust_accuracy']['bim']
  report['members'] = {}
  for name in names:
    others = {other: 0.5 for other in names if other != name}
    report['members'][name] = copy.deepcopy(member)
    report['members'][name]['robust_accuracy'] = {
      f'bim_{i}': sample | {'transfer': others, 'curve': []}
      for i in range(num_attacks)
    }
  figure = robustness_curves(report)
  figure.draw_without_rendering()
  assert len(figure.subfigs) == (1 if num_members == 1 else 2)
  if num_members > 3:
    labels = [text.get_text() for text in figure.subfigs[1].legends[0].texts]
    assert len(labels) == num_members - 1  # From the first member only.
  accuracy_bars(report).draw_without_rendering()


def test_members_beyond_the_palette_have_colours_of_their_own():
  colors = [own_color(index) for index in range(18)]
  assert tuple(colors[:6]) == COLORS
  assert len(set(colors)) == 18
  assert (
    sum(to_rgb(colors[6])) < sum(to_rgb(colors[0])) < sum(to_rgb(colors[12]))
  )


def test_charts_refuse_what_they_cannot_draw():
  with pytest.raises(ValueError, match='robust_accuracy'):
    robustness_curves({'members': {'base': {'clean_accuracy': 1.0}}})
  with pytest.raises(ValueError, match='no members'):
    accuracy_bars({})
  with pytest.raises(ValueError, match='neither losses nor epochs'):
    training_curves({'base': {}})
  with pytest.raises(ValueError, match='monitor_clean_accuracy'):
    generalisation_curves({'members': {'base': {'epochs': [{}]}}})


def test_training_curves_hold_every_iteration_and_epoch(histories):
  figure = training_curves(histories)
  iterations, losses, rates = figure.axes
  raw = iterations.lines[0].get_ydata()
  np.testing.assert_allclose(raw, histories['base']['losses'])
  assert iterations.get_yscale() == 'log'
  clean = [epoch['clean_loss'] for epoch in histories['base']['epochs']]
  np.testing.assert_allclose(losses.lines[0].get_ydata(), clean)
  assert len(losses.lines) == len(rates.lines) == 4
  names = [text.get_text() for text in figure.legends[0].texts]
  assert names == ['base', 'adversarial']


def test_training_curves_of_a_plain_run_that_diverged():
  losses = np.array([2.0, 0.0, np.nan, np.inf])
  epochs = [
    {'loss': 1.0, 'accuracy': 0.5},
    {'loss': np.nan, 'accuracy': 0.1, 'monitor_robust_accuracy': 0.2},
  ]
  figure = training_curves({'model': {'losses': losses, 'epochs': epochs}})
  figure.draw_without_rendering()
  iterations, epoch_losses, rates = figure.axes
  assert iterations.get_yscale() == 'linear'  # A loss of zero has no logarithm.
  np.testing.assert_array_equal(epoch_losses.lines[0].get_data(), [[1], [1.0]])
  np.testing.assert_array_equal(rates.lines[1].get_data(), [[2], [0.2]])


def test_training_curves_thin_out_long_runs():
  losses = np.ones(12_001)
  figure = training_curves({'a': {'losses': losses}, 'b': {'epochs': []}})
  (ax,) = figure.axes
  assert 4_000 <= len(ax.lines[0].get_xdata()) <= 5_000


def test_smooth_is_the_mean_of_the_window():
  values = np.random.default_rng(0).normal(size=23)
  expected = [values[max(0, i - 2) : i + 3].mean() for i in range(23)]
  np.testing.assert_allclose(smooth(values, 5), expected)
  values[7] = np.nan
  assert np.isfinite(smooth(values, 5)).all()
  assert np.isnan(smooth(np.array([np.nan]), 1)).all()


def test_history_of_joins_the_records():
  records = [
    {'kind': 'steps', 'loss': 2.0, 'losses': [3.0, 1.0]},
    {'kind': 'steps', 'loss': 1.0, 'losses': [1.0]},
    {'kind': 'epoch', 'epoch': 1, 'loss': 1.7},
  ]
  history = history_of(records)
  assert history['losses'] == [3.0, 1.0, 1.0]
  assert [epoch['loss'] for epoch in history['epochs']] == [1.7]


def test_generalisation_is_a_panel_per_member(report):
  assert not watched(report)
  add_monitor(report)
  adversarial = report['members']['adversarial']
  adversarial['num_validation'] = 0
  for epoch in adversarial['epochs'][::2]:  # Watched every other epoch.
    del epoch['monitor_clean_accuracy'], epoch['monitor_robust_accuracy']
  base, other = generalisation_curves(report).axes
  assert base.get_title() == 'base: gap 14.0 points'
  assert other.get_title() == 'adversarial: no images held out'
  epochs = report['members']['base']['epochs']
  for line, key in zip(
    base.lines,
    ('accuracy', 'monitor_clean_accuracy', 'monitor_robust_accuracy'),
    strict=True,
  ):
    np.testing.assert_allclose(line.get_ydata(), [e[key] for e in epochs])
  assert list(other.lines[1].get_xdata()) == [2, 4, 6, 8, 10, 12, 14]
  # The shade lies between training and what was watched.
  (shade,) = base.collections
  ends = shade.get_paths()[0].vertices
  last = ends[ends[:, 0] == 15, 1]
  np.testing.assert_allclose([last.max(), last.min()], [0.99, 0.85])
