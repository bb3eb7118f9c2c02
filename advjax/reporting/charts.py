"""Charts of a report: what all have in common, and accuracy over epsilon.

All functions are pure and return a `matplotlib.figure.Figure`; pyplot and its
global state are not used, so that no display is needed. A member has the same
colour and marker in every chart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from advjax.reporting.values import (
  Report,
  attack_label,
  attacks_of,
  entry_of,
  finite,
  interval_of,
  members_of,
  short,
  transfer_of,
)

STYLE: dict[Any, Any] = {
  'font.size': 11,
  'axes.titlesize': 11,
  'axes.labelsize': 11,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e4e4e4',
  'grid.linewidth': 0.8,
  'legend.frameon': False,
  'figure.facecolor': 'white',
  'hatch.linewidth': 0.8,
}

# Masataka Okabe and Kei Ito's palette, told apart with every colour vision.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00')
# What later turns of the palette are mixed with: 0 is black, 1 white.
_TURNS = ((0.0, 0.0), (0.0, 0.45), (1.0, 0.45))
_MARKERS = ('o', 's', '^', 'D', 'v', 'P')
_DASHES = ('-', (0, (5, 2)), (0, (1.5, 1.5)), '-.', (0, (8, 2)), ':')
INK = '#555555'
_MAX_COLUMNS = 4
_MAX_SOURCES = 3

# epsilon, accuracy, and the interval around it where there is one.
_Point = tuple[float, float, float, float]


def robustness_curves(report: Report) -> Figure:
  """Draws accuracy over epsilon, one panel per attack, a colour per member.

  The upper part is white box (every member attacked with its own gradients),
  the lower part transfer (a member scored on images perturbed on another one).
  Shades are 95 % intervals, epsilon 0 is the clean accuracy, the dashed line is
  the headline epsilon. With more than three members the lower part shows the
  images of the first member only.

  Args:
    report: the content of report.json.

  Returns:
    The figure.

  Raises:
    ValueError: if no member was attacked.
  """
  attacks = attacks_of(report)
  if not attacks:
    raise ValueError('report has no member with robust_accuracy')
  names = list(members_of(report))
  pairs = _transfer_pairs(report, names)
  columns = min(len(attacks), _MAX_COLUMNS)
  rows = math.ceil(len(attacks) / columns)
  parts = 2 if pairs else 1
  with matplotlib.rc_context(STYLE):
    figure = Figure(
      figsize=(max(6.5, 3.7 * columns), 3.6 * rows * parts),
      layout='constrained',
    )
    halves = figure.subfigures(parts, 1, squeeze=False, hspace=0.04).ravel()
    own = {(name, name): own_style(i) for i, name in enumerate(names)}
    _curve_panels(
      halves[0],
      report,
      (rows, columns),
      own,
      "White box: attacked with the member's own gradients",
    )
    if pairs:
      _curve_panels(
        halves[1],
        report,
        (rows, columns),
        pairs,
        'Transfer: attacked with the gradients of another member',
      )
  return figure


def own_color(index: int) -> str:
  """Returns the colour of the member in this place.

  After the palette come its colours mixed with black, then with white.
  """
  turn, place = divmod(index, len(COLORS))
  end, share = _TURNS[turn % len(_TURNS)]
  mixed = (1 - share) * np.array(to_rgb(COLORS[place])) + share * end
  return to_hex(tuple(mixed))


def own_style(index: int) -> dict[str, Any]:
  """Returns colour and marker of the member in this place."""
  return {
    'color': own_color(index),
    'marker': _MARKERS[index % len(_MARKERS)],
  }


def _transfer_pairs(
  report: Report, names: Sequence[str]
) -> dict[tuple[str, str], dict[str, Any]]:
  """Returns (source, target) -> line style for every transfer there is."""
  sources = names if len(names) <= _MAX_SOURCES else names[:1]
  pairs = {}
  for i, source in enumerate(sources):
    for j, target in enumerate(names):
      has = any(
        target in (entry_of(report, source, attack) or {}).get('transfer', {})
        for attack in attacks_of(report)
      )
      if has and source != target:
        pairs[source, target] = own_style(j) | {
          'linestyle': _DASHES[(i + 1) % len(_DASHES)],
          'markerfacecolor': 'white',
        }
  return pairs


def _curve_panels(
  part: SubFigure,
  report: Report,
  shape: tuple[int, int],
  lines: Mapping[tuple[str, str], dict[str, Any]],
  title: str,
) -> None:
  """Draws one panel per attack; lines are (source, target) -> style."""
  part.suptitle(title, fontsize=12, fontweight='bold', x=0.01, ha='left')
  axes = part.subplots(*shape, sharey=True, squeeze=False).ravel()
  attacks = attacks_of(report)
  for ax, (attack, sample) in zip(axes, attacks.items(), strict=False):
    for (source, target), style in lines.items():
      points = _points(report, source, target, attack)
      if not points:
        continue
      x, y, low, high = np.asarray(points).T
      ax.plot(x, y, markersize=5, linewidth=1.8, **style)
      ax.fill_between(x, low, high, color=style['color'], alpha=0.15, lw=0)
    headline = finite(sample.get('epsilon'))
    if headline is not None:
      ax.axvline(headline, color=INK, linewidth=1, linestyle='--', zorder=1)
      ax.annotate(
        f' {short(headline)}',
        (headline, 1.0),
        xycoords=('data', 'axes fraction'),
        fontsize=9,
        color=INK,
        va='top',
      )
    ax.set_title(plain(attack_label(attack, sample)))
    ax.set_xlabel(plain(f'epsilon ({sample.get("norm", "norm unknown")})'))
    ax.set_xmargin(0.03)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter('{x:g}')
    percent_axis(ax)
  for ax in axes[len(attacks) :]:
    ax.set_axis_off()
  for ax in axes[:: shape[1]]:
    ax.set_ylabel('accuracy')
  _line_legend(part, lines)


def _line_legend(
  part: SubFigure, lines: Mapping[tuple[str, str], dict[str, Any]]
) -> None:
  handles = [
    Line2D([], [], linewidth=1.8, markersize=5, **style)
    for style in lines.values()
  ]
  labels = [
    plain(source if source == target else f'{target} on images from {source}')
    for source, target in lines
  ]
  widest = 0.5 + 0.08 * max(map(len, labels))  # Inches, at 10 points.
  columns = min(3, int(part.figure.get_size_inches()[0] / widest) or 1)
  part.legend(
    handles, labels, loc='outside lower left', ncols=columns, fontsize=10
  )


def _points(
  report: Report, source: str, target: str, attack: str
) -> list[_Point]:
  """Returns the curve of target on source's images, clean accuracy first."""
  entry = entry_of(report, source, attack)
  if entry is None:
    return []
  points = []
  for at in entry.get('curve') or [entry]:
    if source == target:
      value, ends = finite(at.get('white_box')), interval_of(at, 'white_box')
    else:
      value, ends = transfer_of(at, target)
    epsilon = finite(at.get('epsilon'))
    if value is not None and epsilon is not None:
      points.append((epsilon, value, *(ends or (value, value))))
  clean = finite(members_of(report)[target].get('clean_accuracy'))
  if points and clean is not None and not any(p[0] == 0 for p in points):
    ends = interval_of(members_of(report)[target], 'clean_accuracy')
    points.append((0.0, clean, *(ends or (clean, clean))))
  return sorted(points)


def percent_axis(ax: Axes) -> None:
  """Makes an axis of accuracies, from 0 to 100 %."""
  ax.set_ylim(-0.02, 1.02)
  ax.set_yticks(np.linspace(0, 1, 6))
  ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=' %'))


def plain(text: str) -> str:
  """Keeps matplotlib from reading names with dollars as mathematics."""
  return text.replace('$', r'\$')
