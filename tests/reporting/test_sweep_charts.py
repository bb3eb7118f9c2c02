"""Figures of a sweep, read back from the objects that matplotlib holds."""

import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize

from advjax.reporting.sweep import curves, figures, front, heatmaps
from advjax.reporting.sweep.settings import find_axes, read_settings
from tests.reporting.sweep_reports import (
  EPSILONS,
  grid_report,
  make_report,
  product,
)


def grid_of(report, metric='robust accuracy'):
  settings = read_settings(report)
  x, y = find_axes(settings)[:2]
  return heatmaps.make_grid(settings, x, y, heatmaps.METRICS[metric])


def holed_report():
  """2 x 2 settings, two seeds: one setting lost, one in part, one not there."""
  settings = product(a=(1, 2), b=(3, 4), seed=(0, 1))[:6]
  lost = {(1, 4, 0), (1, 4, 1), (2, 3, 1)}
  return make_report(
    settings,
    lambda f: None if tuple(f.values()) in lost else (0.9, f['a'] / 10),
  )


def test_grid_holds_means_and_deviations_over_the_seeds():
  report = grid_report(num_seeds=2)
  grid = grid_of(report)
  assert grid.mean.shape == (3, 3)
  for row in report['rows']:
    column = sorted((0.05, 0.1, 8 / 255)).index(row['hparams.epsilon'])
    line = (0.1, 0.2, 0.5).index(row['hparams.multiplier'])
    same = [
      other['robust_accuracy']
      for other in report['rows']
      if other['hparams.epsilon'] == row['hparams.epsilon']
      and other['hparams.multiplier'] == row['hparams.multiplier']
    ]
    assert grid.mean[line, column] == pytest.approx(np.mean(same))
    assert grid.std[line, column] == pytest.approx(np.std(same, ddof=1))
  assert (grid.num_rows == 2).all() and not grid.num_diverged.any()


def test_grid_tells_lost_from_missing():
  grid = grid_of(holed_report())
  np.testing.assert_allclose(grid.mean, [[0.1, 0.2], [np.nan, np.nan]])
  np.testing.assert_array_equal(grid.num_rows, [[2, 2], [2, 0]])
  np.testing.assert_array_equal(grid.num_diverged, [[0, 1], [2, 0]])
  np.testing.assert_array_equal(np.isfinite(grid.std), [[1, 0], [0, 0]])


def test_heatmap_writes_its_cells():
  settings = read_settings(holed_report())
  x, y = find_axes(settings)
  ranges = heatmaps.color_ranges(settings)
  figure = heatmaps.heatmap_chart(settings, x, y, ranges, settings[0], 'here')
  clean, robust = figure.axes
  assert figure.get_suptitle() == 'here'
  assert [text.get_text() for text in robust.texts] == [
    '10.0\n± 0.0',
    '20.0*',
    'x',
    '-',
  ]
  assert clean.texts[0].get_text() == '90.0\n± 0.0'
  assert [t.get_text() for t in robust.get_xticklabels()] == ['1', '2']
  assert [t.get_text() for t in robust.get_yticklabels()] == ['3', '4']
  assert robust.get_title() == 'robust accuracy (%)'
  hatches = [patch.get_hatch() for patch in robust.patches]
  assert hatches == ['////', None, None]  # Diverged, missing, the frame.


def test_colours_stand_where_the_numbers_do():
  settings = read_settings(grid_report(1))
  x, y = find_axes(settings)
  ranges = heatmaps.color_ranges(settings)
  figure = heatmaps.heatmap_chart(settings, x, y, ranges)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  pixels = np.asarray(canvas.buffer_rgba())
  ax = figure.axes[1]
  for text in ax.texts:
    column, line = text.get_position()
    at = ax.transData.transform((column + 0.4, line + 0.4)).astype(int)
    drawn = pixels[len(pixels) - at[1], at[0], :3] / 255
    value = float(text.get_text()) / 100
    colour = colormaps['viridis'](ranges['robust accuracy'](value))[:3]
    np.testing.assert_allclose(drawn, colour, atol=0.02)


def test_colours_do_not_magnify_noise():
  settings = read_settings(
    make_report(product(a=(1, 2)), lambda f: (0.9, 0.1 * f['a']))
  )
  ranges = heatmaps.color_ranges(settings)
  assert ranges['clean accuracy'].vmin == pytest.approx(0.875)
  assert ranges['clean accuracy'].vmax == pytest.approx(0.925)
  assert ranges['robust accuracy'].vmax == pytest.approx(0.2)


@pytest.mark.parametrize('size', [2, 8, 20])
def test_heatmaps_keep_to_a_page(size):
  settings = read_settings(
    make_report(product(a=range(size), b=range(size)), lambda f: (0.9, 0.5))
  )
  x, y = find_axes(settings)
  ranges = {name: Normalize(0, 1) for name in heatmaps.METRICS}
  figure = heatmaps.heatmap_chart(settings, x, y, ranges)
  width, _ = figure.get_size_inches()
  assert 5 <= width <= 14
  assert len(figure.axes[0].texts) == (0 if size == 20 else size**2)
  assert len(figure.axes) == (4 if size == 20 else 2)  # With colour bars.


def lines_of(ax):
  """Returns the lines that hold points, without the crosses of lost ones."""
  return [
    line
    for line in ax.lines
    if len(line.get_xdata()) and line.get_marker() != 'x'
  ]


def test_curves_have_a_line_per_value_and_bands_over_the_seeds():
  report = grid_report(num_seeds=3)
  settings = read_settings(report)
  x, lines = find_axes(settings)
  clean, robust = curves.field_curves(settings, x, lines).axes
  assert len(lines_of(clean)) == len(lines_of(robust)) == 3
  values = np.array([row['robust_accuracy'] for row in report['rows']])
  by_epsilon = values.reshape(3, 3, 3)[[2, 0, 1], 1]  # Multiplier 0.2.
  xs, ys = lines_of(robust)[1].get_data()
  np.testing.assert_allclose(xs, [8 / 255, 0.05, 0.1])
  np.testing.assert_allclose(ys, by_epsilon.mean(1))
  band = robust.collections[1].get_paths()[0].vertices
  at = band[np.isclose(band[:, 0], 0.1)][:, 1]
  assert at.min() == pytest.approx(by_epsilon[2].min())
  assert at.max() == pytest.approx(by_epsilon[2].max())
  assert [t.get_text() for t in robust.get_xticklabels()] == [
    '0.0314',
    '0.05',
    '0.1',
  ]


def test_curves_break_where_a_setting_is_lost():
  report = make_report(
    product(a=(1, 2, 3)), lambda f: None if f['a'] == 2 else (0.9, 0.5)
  )
  settings = read_settings(report)
  (x,) = find_axes(settings)
  ax = curves.field_curves(settings, x, None).axes[1]
  (line,) = lines_of(ax)
  np.testing.assert_array_equal(line.get_ydata(), [0.5, np.nan, 0.5])
  (cross,) = [line for line in ax.lines if line.get_marker() == 'x']
  assert list(cross.get_xdata()) == [2]


def test_categories_are_not_joined_by_lines():
  settings = read_settings(
    make_report(product(norm=('l2', 'linf'), seed=(0, 1)))
  )
  (x,) = find_axes(settings)
  ax = curves.field_curves(settings, x, None).axes[0]
  assert {line.get_linestyle() for line in lines_of(ax)} == {'None'}
  assert [t.get_text() for t in ax.get_xticklabels()] == ['l2', 'linf']


def test_attack_curves_are_means_with_bands_over_the_seeds():
  report = grid_report(num_seeds=2)
  settings = read_settings(report)
  ax = curves.attack_curves(report, settings[:2]).subfigs[0].axes[1]
  assert ax.get_title() == 'BIM'
  xs, ys = ax.lines[0].get_data()
  np.testing.assert_allclose(xs, [0, *EPSILONS])
  first, second = (
    report['curves'][row['member']]['bim'] for row in settings[0].rows
  )
  np.testing.assert_allclose(ys[1:], np.mean([first, second], 0))
  assert ys[0] == pytest.approx(settings[0].clean.mean)


def test_front_chart_numbers_its_points():
  settings = read_settings(
    make_report(
      product(a=range(4)),
      lambda f: [(0.9, 0.5), (0.95, 0.4), (0.951, 0.399), (0.8, 0.4)][f['a']],
    )
  )
  figure = front.front_chart(settings)
  (ax,) = figure.axes
  assert [text.get_text() for text in ax.texts] == ['1', '2-3']
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert labels[2] == '1: a=0\n    90.0 % clean, 50.0 % robust'
  with pytest.raises(ValueError, match='no setting has'):
    front.front_chart([])


def names_of(report):
  return [p.name for p in figures.sweep_pictures(report, read_settings(report))]


@pytest.mark.parametrize(
  ('settings', 'names'),
  [
    (product(a=(1,)), ['attack_curves']),
    (product(seed=(0, 1)), ['attack_curves']),
    (product(a=(1, 2)), ['curves', 'pareto_front', 'attack_curves']),
    (
      product(a=(1, 2), norm=('l2', 'linf'), b=(1, 2)),
      [
        *('heatmap_1', 'heatmap_2', 'curves_1', 'curves_2'),
        *('pareto_front', 'attack_curves'),
      ],
    ),
    (
      [{'a': i / 3, 'b': (0.1, 7, 2, 9, 4, 5)[i]} for i in range(6)],
      ['heatmap', 'pareto_front', 'attack_curves'],
    ),
  ],
)
def test_figures_are_those_that_the_sweep_allows(settings, names):
  assert names_of(make_report(settings)) == names


def test_captions_say_what_is_shown_and_what_is_left_out():
  report = make_report(product(a=(1, 2), b=(1, 2), c=tuple('ABCDEFGH')))
  pictures = figures.sweep_pictures(report, read_settings(report))
  assert sum(p.name.startswith('heatmap') for p in pictures) == 6
  assert pictures[0].title == 'Accuracy over a and b: c=A'
  assert 'the first 6 of 8 combinations' in pictures[0].caption
  assert 'left out: c=G; c=H.' in pictures[0].caption
  report = holed_report()
  caption = figures.sweep_pictures(report, read_settings(report))[0].caption
  for words in ('± the standard deviation', 'Hatched', 'asterisk', 'A dash'):
    assert words in caption


def test_a_sweep_without_scores_has_no_figures():
  assert names_of(make_report(product(a=(1, 2)), lambda f: None)) == []


@pytest.mark.parametrize('values', [(0.01, 0.02, 0.05, 0.3), range(1, 30)])
def test_labels_of_an_axis_do_not_touch(values):
  settings = read_settings(
    make_report(product(a=tuple(v * 1.001 for v in values)))
  )
  (x,) = find_axes(settings)
  figure = curves.field_curves(settings, x, None)
  figure.canvas.draw()
  for ax in figure.axes:
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    assert len(boxes) >= 3
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
