"""Heatmaps of a sweep: clean and robust accuracy over two of its fields."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from advjax.reporting.charts import COLORS, INK, STYLE, plain
from advjax.reporting.sweep.settings import (
  Axis,
  Score,
  Setting,
  axis_values,
  tick_labels,
)

_COLOURS = colormaps['viridis']
_MAX_TEXT = 14  # Values on an axis from which on cells are too small for text.
_MAX_TICK = 26  # Characters.
_MAX_WIDTH = 13.0  # Inches of two panels beside each other.
_SPARSE = 0.4  # Part of the cells below which the fields form no grid.


class Grid(NamedTuple):
  """An accuracy over two fields; rows are the second one's values.

  Attributes:
    mean: over the seeds, float64 `[num_y, num_x]`; NaN where there is none.
    std: over the seeds, likewise; NaN for fewer than two.
    num_rows: members that are done there, int `[num_y, num_x]`.
    num_diverged: those of them that diverged.
  """

  mean: np.ndarray
  std: np.ndarray
  num_rows: np.ndarray
  num_diverged: np.ndarray


Metric = Callable[[Setting], Score | None]
METRICS: dict[str, Metric] = {
  'clean accuracy': lambda setting: setting.clean,
  'robust accuracy': lambda setting: setting.robust,
}


def make_grid(
  settings: Sequence[Setting], x: Axis, y: Axis, metric: Metric
) -> Grid:
  """Sets an accuracy out over two fields.

  Args:
    settings: those of one panel: two differ in x or in y.
    x: the field whose values are the columns.
    y: the field whose values are the rows.
    metric: setting -> score or None.

  Returns:
    The grid, values in the order of `axis_values`.
  """
  x_values, y_values = axis_values(settings, x), axis_values(settings, y)
  shape = len(y_values), len(x_values)
  grid = Grid(
    np.full(shape, np.nan),
    np.full(shape, np.nan),
    np.zeros(shape, int),
    np.zeros(shape, int),
  )
  for setting in settings:
    at = (
      y_values.index(setting.values[y.field]),
      x_values.index(setting.values[x.field]),
    )
    score = metric(setting)
    if score is not None:
      grid.mean[at] = score.mean
      grid.std[at] = np.nan if score.std is None else score.std
    grid.num_rows[at] = len(setting.rows)
    grid.num_diverged[at] = setting.num_diverged
  return grid


def format_percent(value: float, _: object = None) -> str:
  """Writes a tick of an axis of accuracy.

  Example:
    >>> format_percent(0.975), format_percent(0.5)
    ('97.5 %', '50 %')
  """
  return f'{round(100 * value, 6):g} %'


def head(figure: Figure, title: str) -> None:
  """Writes a title, if there is one, above all panels."""
  if title:
    figure.suptitle(
      plain(title), fontsize=12, fontweight='bold', x=0.01, ha='left'
    )


def is_sparse(settings: Sequence[Setting], x: Axis, y: Axis) -> bool:
  """Returns whether two numeric fields form no grid, as in a random search."""
  num_cells = len(axis_values(settings, x)) * len(axis_values(settings, y))
  return x.numeric and y.numeric and len(settings) < _SPARSE * num_cells


def color_ranges(settings: Sequence[Setting]) -> dict[str, Normalize]:
  """Returns the range of each accuracy, 5 points wide at least."""
  ranges = {}
  for name, metric in METRICS.items():
    values = [score.mean for score in map(metric, settings) if score]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = max(0.0, 0.05 - (high - low)) / 2
    ranges[name] = Normalize(low - pad, high + pad)
  return ranges


def heatmap_chart(
  settings: Sequence[Setting],
  x: Axis,
  y: Axis,
  ranges: dict[str, Normalize],
  best: Setting | None = None,
  title: str = '',
) -> Figure:
  """Draws clean and robust accuracy over two fields, a cell per setting.

  Cells show per cent, mean and standard deviation over the seeds; an asterisk
  where some seeds diverged. Hatched with a cross: all diverged. Blank with a
  dash: nothing done there.

  Args:
    settings: those of one panel.
    x: the field along the width.
    y: the field along the height, upwards.
    ranges: from `color_ranges`, of all panels.
    best: the setting to frame.
    title: above both.

  Returns:
    The figure.
  """
  grids = {n: make_grid(settings, x, y, m) for n, m in METRICS.items()}
  num_y, num_x = grids['clean accuracy'].mean.shape
  width = float(np.clip(4.4 / num_x, 0.64, 1.3))
  height = float(np.clip(3.4 / num_y, 0.5, 0.85))
  names = _ticks(axis_values(settings, y))
  panel = num_x * width + 0.35 + 0.08 * max(map(len, names))
  beside = 2 * panel <= _MAX_WIDTH
  columns, rows = (2, 1) if beside else (1, 2)
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    figure = Figure(
      figsize=(max(5.5, columns * panel), rows * (num_y * height + 1.2)),
      layout='constrained',
    )
    head(figure, title)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, grid) in zip(axes, grids.items(), strict=True):
      _draw_cells(ax, grid, ranges[name], width)
      _label_axes(ax, settings, x, y, width)
      ax.set_title(f'{name} (%)', fontweight='bold')
      if max(num_x, num_y) > _MAX_TEXT:
        _color_bar(figure, ax, ranges[name])
      if best is not None and best in settings:
        at = (
          axis_values(settings, x).index(best.values[x.field]) - 0.5,
          axis_values(settings, y).index(best.values[y.field]) - 0.5,
        )
        ax.add_patch(
          Rectangle(
            at, 1, 1, fill=False, ec=COLORS[1], lw=3, clip_on=False, zorder=5
          )
        )
  return figure


def _draw_cells(ax: Axes, grid: Grid, colours: Normalize, width: float) -> None:
  num_y, num_x = grid.mean.shape
  ax.set_xlim(-0.5, num_x - 0.5)
  ax.set_ylim(-0.5, num_y - 0.5)
  ax.imshow(
    grid.mean, _COLOURS, colours, aspect='auto', origin='lower', zorder=1
  )
  for edge in range(1, num_x):
    ax.axvline(edge - 0.5, color='white', linewidth=1.5)
  for edge in range(1, num_y):
    ax.axhline(edge - 0.5, color='white', linewidth=1.5)
  size = 11 if width > 0.9 else 9
  with_text = max(num_x, num_y) <= _MAX_TEXT
  for at in np.ndindex(grid.mean.shape):
    mean, centre = grid.mean[at], (at[1], at[0])
    if np.isfinite(mean):
      if with_text:
        ax.text(
          *centre,
          _cell_text(grid, at),
          ha='center',
          va='center',
          fontsize=size,
          linespacing=1.1,
          color=_ink(_COLOURS(colours(mean))),
        )
      continue
    diverged = grid.num_diverged[at] > 0
    ax.add_patch(
      Rectangle(
        (at[1] - 0.5, at[0] - 0.5),
        1,
        1,
        facecolor='white',
        edgecolor='#b8b8b8',
        hatch='////' if diverged else None,
        linewidth=0.8,
      )
    )
    mark = 'x' if diverged else '-'
    ax.text(
      *centre,
      mark,
      ha='center',
      va='center',
      fontsize=15 if diverged else 10,
      color=INK,
      bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1.5},
    )


def _cell_text(grid: Grid, at: tuple[int, ...]) -> str:
  text = f'{100 * grid.mean[at]:.1f}'
  if grid.num_diverged[at]:
    text += '*'
  if np.isfinite(grid.std[at]):
    text += f'\n± {100 * grid.std[at]:.1f}'
  return text


def _ink(colour: tuple[float, ...]) -> str:
  """Black on bright cells, white on dark ones."""
  red, green, blue = colour[:3]
  bright = 0.299 * red + 0.587 * green + 0.114 * blue
  return 'black' if bright > 0.4 else 'white'


def _label_axes(
  ax: Axes, settings: Sequence[Setting], x: Axis, y: Axis, width: float
) -> None:
  x_ticks = _ticks(axis_values(settings, x))
  y_ticks = _ticks(axis_values(settings, y))
  turned: dict[str, Any] = {}
  if 0.09 * max(map(len, x_ticks)) > width:
    turned = {'rotation': 40, 'ha': 'right', 'rotation_mode': 'anchor'}
  ax.set_xticks(range(len(x_ticks)), x_ticks, **turned)
  ax.set_yticks(range(len(y_ticks)), y_ticks)
  ax.tick_params(length=0)
  ax.spines[:].set_visible(False)
  ax.set_xlabel(plain(x.label))
  ax.set_ylabel(plain(y.label))


def _ticks(values: Sequence[Any]) -> list[str]:
  return [
    plain(text if len(text) <= _MAX_TICK else f'{text[: _MAX_TICK - 3]}...')
    for text in tick_labels(values)
  ]


def points_chart(
  settings: Sequence[Setting],
  x: Axis,
  y: Axis,
  ranges: dict[str, Normalize],
  best: Setting | None = None,
  title: str = '',
) -> Figure:
  """Draws clean and robust accuracy as coloured points in the plane of x and y.

  For two numeric fields whose values form no grid. Crosses are settings that
  have no accuracy, such as diverged ones.

  Args:
    settings: those of one panel.
    x: the field along the width.
    y: the field along the height.
    ranges: from `color_ranges`, of all panels.
    best: the setting to ring.
    title: above both.

  Returns:
    The figure.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    head(figure, title)
    axes = figure.subplots(1, 2)
    for ax, (name, metric) in zip(axes, METRICS.items(), strict=True):
      for setting in settings:
        at = setting.values[x.field], setting.values[y.field]
        score = metric(setting)
        if score is None:
          ax.plot(*at, 'x', color=INK, markersize=8)
          continue
        ax.plot(
          *at,
          'o',
          color=_COLOURS(ranges[name](score.mean)),
          markersize=10,
          mec=COLORS[1] if setting is best else 'white',
          mew=3 if setting is best else 0.8,
        )
      for axis, scale in ((x, ax.set_xscale), (y, ax.set_yscale)):
        scale(_scale(axis_values(settings, axis)))
      ax.margins(0.08)
      ax.set_xlabel(plain(x.label))
      ax.set_ylabel(plain(y.label))
      ax.set_title(name, fontweight='bold')
      _color_bar(figure, ax, ranges[name])
  return figure


def _scale(values: Sequence[float]) -> str:
  return 'log' if values[0] > 0 and values[-1] / values[0] >= 20 else 'linear'


def _color_bar(figure: Figure, ax: Axes, colours: Normalize) -> None:
  figure.colorbar(
    matplotlib.cm.ScalarMappable(colours, _COLOURS),
    ax=ax,
    format=format_percent,
    shrink=0.9,
  )
