"""Figures: what they show, and that nothing overlaps."""

import math

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from advjax.reporting.figures.charts import (
  MAX_WIDTH,
  PALETTE,
  Group,
  Line,
  Matrix,
  Panel,
  bar_figure,
  encode,
  heatmap_figure,
  line_figure,
  model_colors,
  save_pictures,
)
from tests.reporting.reports import estimate

TEN = [f'model_{i}' for i in range(10)]


def boxes(texts, figure):
  renderer = FigureCanvasAgg(figure).get_renderer()
  shown = [text for text in texts if text.get_text() and text.get_visible()]
  return [text.get_window_extent(renderer) for text in shown]


def assert_readable(figure):
  """No labels of an axis overlap, and all are inside the figure."""
  assert figure.get_size_inches()[0] <= MAX_WIDTH + 0.01
  figure.draw_without_rendering()
  whole = figure.bbox.padded(1)
  for ax in figure.axes:
    for axis in (ax.xaxis, ax.yaxis):
      low, high = axis.get_view_interval()
      ticks = [
        tick
        for tick in axis.get_major_ticks()
        if min(low, high) <= tick.get_loc() <= max(low, high)
      ]
      found = boxes([tick.label1 for tick in ticks], figure)
      for i, box in enumerate(found):
        assert whole.fully_contains(box.x0, box.y0)
        assert not any(box.overlaps(other) for other in found[:i])


def labels(axis):
  return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def panel(**fields):
  epsilons = [0.0, 2 / 255, 4 / 255, 8 / 255, 16 / 255]
  line = Line(epsilons, [0.9, 0.8, 0.5, 0.2, 0.1], PALETTE[0], 'base')
  return Panel(
    **{'title': 'PGD', 'lines': [line], 'x_label': 'epsilon (linf)'}
    | {'x_axis': 'epsilon', 'mark': 8 / 255, 'chance': 0.1}
    | fields
  )


@pytest.mark.parametrize(
  ('names', 'attacks'), [(['base'], 8), (['base', '_$x$'], 2), (TEN, 4)]
)
def test_bars_have_the_height_of_accuracies(names, attacks):
  bars = {name: estimate(0.9 - 0.05 * i) for i, name in enumerate(names)}
  groups = [Group('clean', bars, {names[0]: estimate(0.95)})]
  for number in range(attacks):
    label = f'pasted objects,\nseverity {number}\nepsilon 8/255'
    groups.append(Group(label, bars, transfer=bool(number % 2)))
  figure = bar_figure(groups, model_colors(names), chance=0.1, k=5)
  assert_readable(figure)
  heights = [p.get_height() for ax in figure.axes for p in ax.patches]
  expected = [each.value for each in bars.values()] * len(groups)
  assert sorted(heights) == pytest.approx(sorted([*expected, 0.95]))
  shown = [label for ax in figure.axes for label in labels(ax.xaxis)]
  assert shown == [group.label for group in groups]
  assert {'top-5 accuracy', 'chance level'} <= set(legend(figure))
  assert ('transfer' in legend(figure)) == (attacks > 1)
  # Every bar has its interval.
  ends = [
    s for ax in figure.axes for c in ax.collections for s in c.get_segments()
  ]
  assert len(ends) == len(heights)


@pytest.mark.parametrize('count', [1, 3])
def test_epsilons_are_labelled_as_they_were_given(count):
  figure = line_figure([panel()] * count)
  assert_readable(figure)
  for ax in figure.axes[:count]:
    shown = labels(ax.xaxis)
    assert '8/255' in shown and shown[0] == '0'
    assert set(shown) <= {'0', '2/255', '4/255', '8/255', '16/255'}
  assert legend(figure) == ['base', 'chance level']


def test_lines_leave_out_what_is_not_finite():
  y = [2.0, math.nan, math.inf, 0.5]
  line = Line(range(4), y, PALETTE[0], 'a', low=[1] * 4, high=[3] * 4)
  figure = line_figure([panel(lines=[line], x_axis='integer', y_axis='log')])
  assert_readable(figure)
  drawn = figure.axes[0].lines[0].get_ydata()
  np.testing.assert_array_equal(drawn, [2.0, math.nan, math.nan, 0.5])
  assert len(figure.axes[0].collections) == 1


@pytest.mark.parametrize(
  'names', [['a'], ['base', 'adversarial_long_name'], TEN]
)
def test_matrices_have_their_numbers(names):
  values = np.linspace(0, 1, len(names) ** 2).reshape(len(names), -1)
  values[0, -1] = math.nan
  matrix = Matrix('PGD', names, names, values, 'source', 'target', [(0, 0)])
  figure = heatmap_figure([matrix] * 2)
  assert_readable(figure)
  for ax in figure.axes[:2]:
    written = [text.get_text() for text in ax.texts]
    assert written == [
      '-' if math.isnan(value) else f'{100 * value:.1f}'
      for value in values.ravel()
    ]
    heads = [label.replace('\n', '') for label in labels(ax.xaxis)]
    assert labels(ax.yaxis) == heads == names


def test_pictures_are_files_and_data(tmp_path):
  before = dict(matplotlib.rcParams)
  first, second = (
    encode('a/b c', 't', 'c', line_figure([panel()])) for _ in range(2)
  )
  assert dict(matplotlib.rcParams) == before
  assert first == second and first.name == 'a_b_c' and first.half
  assert first.uri.startswith('data:image/png;base64,iVBOR')
  save_pictures([first], tmp_path / 'figures')
  assert (tmp_path / 'figures' / 'a_b_c.png').read_bytes() == first.png
