"""Bars, lines, matrices and points: one style, one colour for each model.

No function uses pyplot, so none needs a display. Fractions are in [0, 1] and
drawn in per cent. Figures are at most `MAX_WIDTH` inches wide and shown at
their size in inches, so that letters have the same size in all of them.
"""

import base64
import dataclasses
import io
import math
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from advjax.files import replacing
from advjax.reporting.formatting import format_epsilon
from advjax.results import Estimate

MAX_WIDTH = 10.5  # Inches: the width of the page.
SMALL = 8  # Points: numbers on bars and in cells, notes.
STYLE: dict[Any, Any] = {
  'font.size': 10,
  'axes.titlesize': 10,
  'axes.labelsize': 10,
  'xtick.labelsize': 9,
  'ytick.labelsize': 9,
  'legend.fontsize': 9,
  'legend.frameon': False,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e4e4e4',
  'figure.facecolor': 'white',
  'hatch.linewidth': 0.8,
  'text.parse_math': False,  # Names may hold dollars.
}
INK = '#555555'
ACCURACY_COLORS = colormaps['viridis']
PERTURBATION_COLORS = colormaps['RdBu_r']  # Around 0: red adds to a pixel.
# The palette of Okabe and Ito, told apart with every colour vision.
PALETTE = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00')
MARKERS = ('o', 's', '^', 'D', 'v', 'P')
DASHES: tuple[Any, ...] = ('-', (0, (5, 2)), (0, (1.5, 1.5)), '-.')
_CHANCE: dict[str, Any] = {'color': INK, 'lw': 0.9, 'ls': (0, (1, 2))}
_MAX_LABEL = 40  # Characters, of rows and columns.
_MAX_HEAD = 14  # Characters in a line, of columns.
_DPI = 150
_PIXELS = 96  # CSS pixels in an inch.
_CHARACTER = 0.078  # Inches, of a letter of 9 points, on average.


def model_colors(names: Iterable[str]) -> dict[str, str]:
  """Returns the colour of each model, the same in all figures of a report."""
  colors = {}
  for i, name in enumerate(names):
    turn, place = divmod(i, len(PALETTE))
    # After the palette its colours again, darker, then brighter.
    end, share = ((0.0, 0.0), (0.0, 0.45), (1.0, 0.45))[turn % 3]
    mixed = (1 - share) * np.array(to_rgb(PALETTE[place])) + share * end
    colors[name] = to_hex(tuple(mixed))
  return colors


@dataclasses.dataclass(frozen=True)
class Picture:
  """An encoded figure."""

  name: str  # Stem of its file and anchor on the page.
  title: str  # Above it; also the alternative text.
  caption: str
  png: bytes
  width: int  # CSS pixels.
  half: bool  # Whether two of its size fit beside each other.

  @property
  def uri(self) -> str:
    """The image as a data URI."""
    return f'data:image/png;base64,{base64.b64encode(self.png).decode()}'


def encode(name: str, title: str, caption: str, figure: Figure) -> Picture:
  """Encodes a figure as PNG."""
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    # The font draws a box in place of a letter that it lacks.
    warnings.filterwarnings('ignore', 'Glyph .* missing', UserWarning)
    figure.savefig(buffer, format='png', dpi=_DPI, metadata={'Software': None})
  width = figure.get_figwidth()
  return Picture(
    re.sub(r'[^\w.-]', '_', name),
    title,
    caption,
    buffer.getvalue(),
    round(width * _PIXELS),
    half=width <= MAX_WIDTH / 2,
  )


def save_pictures(pictures: Iterable[Picture], folder: pathlib.Path) -> None:
  """Writes `<folder>/<name>.png` for every picture."""
  folder.mkdir(parents=True, exist_ok=True)
  for picture in pictures:
    with replacing(folder / f'{picture.name}.png') as file:
      file.write(picture.png)


def percent_axis(axis: Any) -> None:
  """Writes the ticks of an axis of fractions in per cent."""
  axis.set_major_formatter(
    ticker.PercentFormatter(1.0, decimals=0, symbol=' %')
  )


def accuracy_axis(ax: Axes, chance: float | None = None) -> None:
  """Makes the y axis one of accuracies, with a line at chance level."""
  ax.set_ylim(-0.02, 1.04)
  ax.set_yticks(np.linspace(0, 1, 6))
  percent_axis(ax.yaxis)
  if chance is not None:
    ax.axhline(chance, **_CHANCE, zorder=1)


def log_axis(axis: Any) -> None:
  """Gives a logarithmic axis plain labels: 0.01, 1, 100, 20k."""
  low, high = sorted(axis.get_view_interval())
  digits = {20: (1, 2, 3, 5, 7), 300: (1, 2, 5), math.inf: (1,)}
  subs = next(each for most, each in digits.items() if high / low < most)
  axis.set_major_locator(ticker.LogLocator(subs=subs))
  large = ticker.EngFormatter(sep='')
  axis.set_major_formatter(
    ticker.FuncFormatter(lambda x, _: large(x) if x >= 10_000 else f'{x:g}')
  )
  axis.set_minor_formatter(ticker.NullFormatter())


def epsilon_axis(ax: Axes, places: Iterable[float], inches: float) -> None:
  """Labels epsilons, those first that come first, where labels do not overlap.

  The x axis is so many inches long.
  """
  low, high = ax.get_xlim()
  kept: dict[float, tuple[float, str]] = {}
  for place in places:
    label = format_epsilon(place)
    width = (0.08 + _CHARACTER * len(label)) * (high - low) / inches
    if all(abs(place - p) >= (width + w) / 2 for p, (w, _) in kept.items()):
      kept[place] = width, label
  places = sorted(kept)
  ax.set_xticks(places, [kept[place][1] for place in places])


def legend(
  figure: Figure, handles: Mapping[str, Any], chance: float | None = None
) -> None:
  """Puts a legend above all axes, in as many columns as fit.

  The figure becomes higher by the rows beyond the first one.
  """
  if chance is not None:
    handles = {**handles, 'chance level': Line2D([], [], **_CHANCE)}
  if handles:
    widest = 0.65 + _CHARACTER * max(map(len, handles))
    columns = min(int(figure.get_figwidth() / widest) or 1, len(handles))
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (rows - 1))
    labels = [label.removeprefix('_') for label in handles]
    style: Any = {'loc': 'outside upper left', 'ncols': columns}
    figure.legend([*handles.values()], labels, **style)


@dataclasses.dataclass(frozen=True)
class Group:
  """Bars side by side."""

  label: str  # Below them; may have several lines.
  # By model; it may be absent.
  bars: Mapping[str, Estimate | None]
  # Accuracies in the top k, as pale bars behind.
  top_k: Mapping[str, Estimate | None] = dataclasses.field(default_factory=dict)
  transfer: bool = False  # Hatched.


def bar_figure(
  groups: Sequence[Group],
  colors: Mapping[str, str],
  *,
  chance: float | None = None,
  k: int | None = None,
) -> Figure:
  """Draws accuracies with their 95 % intervals as groups of bars."""
  many = len(groups) * len(colors) > 48
  bar = 0.14 if many else 0.34
  widths = []
  for group in groups:
    letters = max(map(len, group.label.split('\n')))
    widths.append(max(len(colors) * bar + 0.25, letters * _CHARACTER + 0.2))
  count = len(_break(widths, MAX_WIDTH - 1.0))
  # The narrowest of so many lines.
  limits = np.linspace(max(widths), MAX_WIDTH - 1.0, 20)
  lines = next(
    x for x in (_break(widths, w) for w in limits) if len(x) == count
  )
  width = max(3.5, *(sum(widths[i] for i in line) for line in lines))
  with matplotlib.rc_context(STYLE | {'axes.grid.axis': 'y'}):
    figure = Figure((width + 1.0, 3.1 * count + 0.4), layout='constrained')
    axes = figure.subplots(count, squeeze=False)[:, 0]
    for ax, line in zip(axes, lines, strict=True):
      ax.set_xlim(0, width)  # In inches.
      accuracy_axis(ax, chance)
      ax.set_ylim(0, 1.2 if k else 1.12)
      ax.set_ylabel('accuracy')
      ends = np.cumsum([widths[i] for i in line])
      ticks = [end - widths[i] / 2 for i, end in zip(line, ends, strict=True)]
      for i, tick in zip(line, ticks, strict=True):
        for j, (name, color) in enumerate(colors.items()):
          x = tick + (j + 0.5 - len(colors) / 2) * bar
          _draw_bar(ax, x, bar, groups[i], name, color, not many)
      ax.set_xticks(ticks, [groups[i].label for i in line])
      ax.tick_params(axis='x', length=0)
    handles = {name: Patch(color=color) for name, color in colors.items()}
    if any(group.transfer for group in groups):
      handles['transfer'] = Patch(fc='white', ec=INK, hatch='////')
    if any(any(group.top_k.values()) for group in groups):
      handles[f'top-{k} accuracy'] = Patch(color=INK, alpha=0.3)
    legend(figure, handles, chance)
  return figure


def _break(widths: Sequence[float], limit: float) -> list[list[int]]:
  """Puts groups into lines of at most so many inches."""
  lines: list[list[int]] = [[]]
  for i, width in enumerate(widths):
    if lines[-1] and sum(widths[j] for j in lines[-1]) + width > limit:
      lines.append([])
    lines[-1].append(i)
  return lines


def _draw_bar(
  ax: Axes,
  x: float,
  w: float,
  group: Group,
  name: str,
  color: str,
  number: bool,
) -> None:
  """Draws the bars of a model, with its numbers if `number`."""
  filled: dict[str, Any] = {'color': color, 'edgecolor': color}
  if group.transfer:
    filled = {'facecolor': 'white', 'edgecolor': color, 'hatch': '////'}
  pale = {'color': color, 'alpha': 0.3, 'zorder': 0.9}  # Behind.
  place = 0.0
  for estimate, style, ink in (
    (group.bars.get(name), filled, 'black'),
    (group.top_k.get(name), pale, INK),
  ):
    if estimate is None or not math.isfinite(estimate.value):
      continue
    low, high = estimate.ci or (estimate.value, estimate.value)
    ax.bar(x, estimate.value, 0.94 * w, **style)
    ax.vlines(x, low, high, color=ink, lw=1.2)
    if number:
      place = max(estimate.value + 0.015, high + 0.015, place)
      text = f'{100 * estimate.value:.1f}'
      ax.text(x, place, text, ha='center', color=ink, fontsize=SMALL)
      place += 0.07


Values = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a panel."""

  x: Values
  y: Values  # What is not finite is left out.
  color: str
  label: str = ''  # In the legend, where the same label is listed once.
  low: Values | None = None  # Ends of the shade.
  high: Values | None = None
  dash: Any = '-'  # Of `DASHES`.
  marker: str = ''  # Of `MARKERS`.
  hollow: bool = False
  width: float = 1.8
  opacity: float = 1.0
  steps: bool = False  # Whether y keeps its value up to the next x.

  def style(self) -> dict[str, Any]:
    """Arguments of `Line2D`."""
    return {
      'color': self.color,
      'ls': self.dash,
      'marker': self.marker or 'None',
      'ms': 4.5,
      'mfc': 'white' if self.hollow else self.color,
      'lw': self.width,
      'alpha': self.opacity,
    }


@dataclasses.dataclass(frozen=True)
class Panel:
  """Axes with lines."""

  title: str
  lines: Sequence[Line]
  x_label: str
  y_label: str = ''
  # 'epsilon' labels the values of the lines, 'integer' whole numbers.
  x_axis: Literal['epsilon', 'integer', 'log', 'number'] = 'number'
  y_axis: Literal['accuracy', 'log', 'number'] = 'accuracy'
  mark: float | None = None  # An x such as the evaluation epsilon.
  chance: float | None = None  # Accuracy at chance level.


def line_figure(panels: Sequence[Panel]) -> Figure:
  """Draws lines over an axis, one panel beside the other."""
  columns = min(len(panels), 4)
  inches = {1: 5.0, 2: 4.2, 3: 3.4}.get(columns, MAX_WIDTH / columns)
  rows = math.ceil(len(panels) / columns)
  with matplotlib.rc_context(STYLE):
    figure = Figure((inches * columns, 2.8 * rows + 0.3), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
      _draw_panel(ax, panel, inches - 0.75)
    for ax in axes[len(panels) :]:
      ax.set_axis_off()
    lines = (line for panel in panels for line in panel.lines if line.label)
    handles = {line.label: Line2D([], [], **line.style()) for line in lines}
    chance = next((p.chance for p in panels if p.chance is not None), None)
    legend(figure, handles, chance)
  return figure


def _draw_panel(ax: Axes, panel: Panel, inches: float) -> None:
  """Draws a panel into axes that are so many inches wide."""
  for line in panel.lines:
    y = np.asarray(line.y, np.float64)
    shown = np.isfinite(y) & ((y > 0) | (panel.y_axis != 'log'))
    y = np.where(shown, y, np.nan)
    alone = not line.marker and shown.sum() <= 3
    style = line.style() | ({'marker': 'o'} if alone else {})
    step = 'steps-post' if line.steps else 'default'
    ax.plot(line.x, y, drawstyle=step, **style)
    if line.low is not None and line.high is not None:
      low, high = (np.asarray(end, np.float64) for end in (line.low, line.high))
      ax.fill_between(line.x, low, high, color=line.color, alpha=0.15, lw=0)
  x = sorted({float(each) for line in panel.lines for each in line.x})
  x = x or [0.0, 1.0]
  if panel.y_axis == 'log':
    ax.set_yscale('log')
    log_axis(ax.yaxis)
  if panel.x_axis == 'log':
    ax.set_xscale('log')
    log_axis(ax.xaxis)
  elif panel.x_axis != 'number':
    space = 0.03 * (x[-1] - x[0]) or 0.5
    ax.set_xlim(x[0] - space, x[-1] + space)
  if panel.x_axis == 'integer':
    locator = ticker.MaxNLocator(5, integer=True, min_n_ticks=1)
    places = locator.tick_values(x[0], x[-1])
    ax.set_xticks([place for place in places if x[0] <= place <= x[-1]])
    ax.xaxis.set_major_formatter('{x:,.0f}')
  elif panel.x_axis == 'epsilon':
    first = [each for each in x if each in (0.0, panel.mark)]
    epsilon_axis(ax, [*reversed(first), *x], inches)
  if panel.y_axis == 'accuracy':
    accuracy_axis(ax, panel.chance)
  if panel.mark is not None:
    ax.axvline(panel.mark, color=INK, lw=0.9, ls='--', zorder=1)
  ax.set_title(panel.title)
  ax.set_xlabel(panel.x_label)
  ax.set_ylabel(panel.y_label)


@dataclasses.dataclass(frozen=True)
class Matrix:
  """A matrix of fractions."""

  title: str
  rows: Sequence[str]
  columns: Sequence[str]
  values: np.ndarray  # `[rows, columns]`, NaN for what is absent.
  row_label: str = ''
  column_label: str = ''
  framed: Sequence[tuple[int, int]] = ()  # (row, column)
  texts: Sequence[Sequence[str]] | None = None  # Else per cent.


def heatmap_figure(
  matrices: Sequence[Matrix], low: float = 0.0, high: float = 1.0
) -> Figure:
  """Draws matrices of accuracies as coloured cells with numbers."""
  num_rows = max(len(matrix.rows) for matrix in matrices)
  num_columns = max(len(matrix.columns) for matrix in matrices)
  letters = max(len(row) for matrix in matrices for row in matrix.rows)
  margin = 0.5 + _CHARACTER * min(letters, _MAX_LABEL)
  texts = [
    text for matrix in matrices for row in matrix.texts or () for text in row
  ]
  wanted = max([0.55, *(0.1 + 0.068 * len(text) for text in texts)])
  fitting = (MAX_WIDTH - margin - 0.6) / num_columns
  columns_of = [[each[:_MAX_LABEL] for each in m.columns] for m in matrices]
  wrapped = [list(map(_wrap, each)) for each in columns_of]
  heads = [part for each in wrapped for w in each for part in w.split('\n')]
  upright = 0.15 + _CHARACTER * max(map(len, heads))
  turned = upright > fitting
  if not turned:
    columns_of, wanted = wrapped, max(wanted, upright)
  cell = min(wanted, fitting)
  width = max(margin + cell * num_columns, 2.6)
  columns = max(1, min(len(matrices), int(MAX_WIDTH / width)))
  rows = math.ceil(len(matrices) / columns)
  longest = max(len(each) for names in columns_of for each in names)
  lines = max(each.count('\n') for names in columns_of for each in names)
  above = 0.7 + (longest * _CHARACTER if turned else 0.2 + 0.15 * lines)
  line = min(0.3, 12 / num_rows)
  numbers = cell >= 0.62 * wanted and line >= 0.17
  with matplotlib.rc_context(STYLE | {'axes.grid': False}):
    inches = min(width * columns + (0 if numbers else 0.6), MAX_WIDTH)
    size = inches, rows * (above + line * num_rows)
    figure = Figure(size, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, matrix, heads in zip(axes, matrices, columns_of, strict=False):
      colors = {'cmap': ACCURACY_COLORS, 'vmin': low, 'vmax': high}
      image = ax.imshow(matrix.values, **colors, aspect='auto')
      ax.set_title(matrix.title)
      ax.set(xlabel=matrix.column_label, ylabel=matrix.row_label)
      for axis, labels in ((ax.xaxis, heads), (ax.yaxis, matrix.rows)):
        step = 1 if numbers else math.ceil(len(labels) / 40)
        names = [each[:_MAX_LABEL] for each in labels[::step]]
        axis.set_ticks(range(0, len(labels), step), names)
        axis.set_tick_params(length=0)
      if turned:
        ax.tick_params(axis='x', rotation=90)
      ax.spines[:].set_visible(False)
      if numbers:
        _write_cells(ax, matrix, low, high)
      for row, column in matrix.framed:
        corner = (column - 0.44, row - 0.42)
        for style in ({'ec': 'black'}, {'ec': 'white', 'ls': (0, (3, 3))}):
          ax.add_patch(Rectangle(corner, 0.88, 0.84, fill=False, **style))
    for ax in axes[len(matrices) :]:
      ax.set_axis_off()
    if not numbers:
      bar = figure.colorbar(image, ax=axes.tolist())
      percent_axis(bar.ax.yaxis)
  return figure


def _wrap(label: str) -> str:
  """Breaks a long label after spaces and underscores."""
  words = label.replace('_', '_\0').replace(' ', ' \0').split('\0')
  lines = ['']
  for word in words:
    if len(lines[-1] + word.rstrip()) > _MAX_HEAD and lines[-1]:
      lines.append('')
    lines[-1] += word
  return '\n'.join(line.rstrip(' ') for line in lines)


def _write_cells(ax: Axes, matrix: Matrix, low: float, high: float) -> None:
  for (row, column), value in np.ndenumerate(matrix.values):
    known = math.isfinite(value)
    text = f'{100 * value:.1f}' if known else '-'
    if matrix.texts is not None:
      text = matrix.texts[row][column]
    share = (value - low) / ((high - low) or 1.0) if known else 1.0
    red, green, blue, _ = ACCURACY_COLORS(min(1.0, max(0.0, share)))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.4
    ink = 'black' if bright else 'white'
    ax.text(
      column, row, text, ha='center', va='center', color=ink, fontsize=SMALL
    )


@dataclasses.dataclass(frozen=True)
class Point:
  """A point with intervals."""

  x: Estimate
  y: Estimate
  color: str
  label: str = ''  # In the legend, where the same label is listed once.
  marker: str = 'o'
  hollow: bool = False
  text: str = ''  # A few letters beside it.

  def style(self) -> dict[str, Any]:
    """Arguments of `Line2D`."""
    filling = 'white' if self.hollow else self.color
    marker = {'marker': self.marker, 'mfc': filling, 'ls': ''}
    return {'color': self.color, **marker}


def scatter_figure(
  points: Sequence[Point],
  x_label: str,
  y_label: str = 'accuracy',
  *,
  x_axis: Literal['accuracy', 'log', 'number'] = 'number',
  path: Sequence[tuple[float, float]] = (),
  chance: float | None = None,
) -> Figure:
  """Draws points with their 95 % intervals."""
  with matplotlib.rc_context(STYLE):
    figure = Figure((6.5, 4.6), layout='constrained')
    ax = figure.add_subplot()
    if path:
      ax.plot(*zip(*path, strict=True), color=INK, lw=1.2, zorder=1)
    for point in points:
      x, y = point.x.value, point.y.value
      ends = error_bars(point.y), error_bars(point.x)
      ax.errorbar(x, y, *ends, **point.style(), ms=7, elinewidth=1.2)
      place: Any = {'xytext': (6, 5), 'textcoords': 'offset points'}
      ax.annotate(point.text, (x, y), **place, fontsize=SMALL)
    if x_axis == 'log':
      ax.set_xscale('log')
      values = [point.x.value for point in points]
      ax.set_xlim(min(values) / 1.6, max(values) * 1.6)
      log_axis(ax.xaxis)
    if x_axis == 'accuracy':  # Both axes zoom in on the points.
      percent_axis(ax.xaxis)
      percent_axis(ax.yaxis)
    else:
      accuracy_axis(ax, chance)
    ax.set(xlabel=x_label, ylabel=y_label)
    named = (point for point in points if point.label)
    handles = {point.label: Line2D([], [], **point.style()) for point in named}
    legend(figure, handles, chance)
  return figure


def error_bars(estimate: Estimate) -> list[list[float]]:
  """Returns the lengths of the error bar below and above, for Matplotlib."""
  low, high = estimate.ci or (estimate.value, estimate.value)
  return [[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]]
