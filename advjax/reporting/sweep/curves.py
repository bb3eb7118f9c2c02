"""Curves of a sweep: over one of its fields, and over the attack's epsilon."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from advjax.reporting.charts import (
  COLORS,
  STYLE,
  plain,
  robustness_curves,
)
from advjax.reporting.sweep.heatmaps import (
  METRICS,
  Metric,
  format_percent,
  head,
)
from advjax.reporting.sweep.settings import (
  Axis,
  Setting,
  axis_values,
  tick_labels,
)
from advjax.reporting.values import Report, finite

MAX_LINES = 8
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
_MIN_SPAN = 0.05  # Of accuracy: what a panel shows at least.
# Parts of a panel's width: a character of a label, and the space beside it.
_CHARACTER, _SPACE = 0.022, 0.03


def shown_values(values: Sequence[Any]) -> list[Any]:
  """Returns at most eight of some values, evenly chosen, both ends kept.

  Example:
    >>> shown_values(list(range(15)))
    [0, 2, 4, 6, 8, 10, 12, 14]
  """
  if len(values) <= MAX_LINES:
    return list(values)
  chosen = np.linspace(0, len(values) - 1, MAX_LINES).round().astype(int)
  return [values[i] for i in chosen]


def has_curves(settings: Sequence[Setting], axes: Sequence[Axis]) -> bool:
  """Returns whether any line over the first axis has two points."""
  if not axes:
    return False
  others = [
    tuple(s.values[axis.field] for axis in axes[1:])
    for s in settings
    if s.clean
  ]
  return len(set(others)) < len(others)


def field_curves(
  settings: Sequence[Setting], x: Axis, lines: Axis | None, title: str = ''
) -> Figure:
  """Draws clean and robust accuracy over a swept field.

  Lines are means over the seeds, shades (bars for a field that is not numeric)
  reach from the lowest seed to the highest, crosses on the lower edge are
  settings whose members all diverged.

  Args:
    settings: those of one panel: two differ in x or in the field of the lines.
    x: the field along the width.
    lines: a line per value of this field, at most eight; None for one line.
    title: above both panels.

  Returns:
    The figure.
  """
  x_values = axis_values(settings, x)
  keys = shown_values(axis_values(settings, lines)) if lines else [None]
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(11, 4.2), layout='constrained')
    head(figure, title)
    axes = figure.subplots(1, 2)
    for ax, (name, metric) in zip(axes, METRICS.items(), strict=True):
      for i, key in enumerate(keys):
        by_x = {
          s.values[x.field]: s
          for s in settings
          if lines is None or s.values[lines.field] == key
        }
        style = _style(i, len(keys), lines)
        places = _places(x_values, x, i, len(keys))
        found = [by_x.get(value) for value in x_values]
        _draw_line(ax, found, places, metric, style, x.numeric)
      _scale_x(ax, x, x_values)
      _scale_y(ax)
      ax.set_xlabel(plain(x.label))
      ax.set_title(name, fontweight='bold')
    if lines:
      labels = tick_labels(keys)
      handles = [
        axes[0].plot([], [], **_style(i, len(keys), lines))[0]
        for i in range(len(keys))
      ]
      figure.legend(
        handles,
        [plain(label[:30]) for label in labels],
        title=plain(lines.label),
        loc='outside right center',
        fontsize=10,
      )
  return figure


def _style(i: int, count: int, lines: Axis | None) -> dict[str, Any]:
  """Numbers get colours from dark to bright, categories the palette's."""
  if lines is not None and lines.numeric and count > 2:
    color: Any = colormaps['viridis'](0.88 * i / (count - 1))
  else:
    color = COLORS[i % len(COLORS)]
  return {'color': color, 'marker': _MARKERS[i % len(_MARKERS)]}


def _places(
  values: Sequence[Any], x: Axis, i: int, count: int
) -> Sequence[float]:
  """Returns where values stand: categories side by side, line by line."""
  if x.numeric:
    return values
  shift = 0.5 * ((i + 0.5) / count - 0.5)
  return [place + shift for place in range(len(values))]


def _draw_line(
  ax: Axes,
  settings: Sequence[Setting | None],
  places: Sequence[float],
  metric: Metric,
  style: Mapping[str, Any],
  numeric: bool,
) -> None:
  """Draws one line; it has a gap where a setting has no accuracy."""
  scores = [None if s is None else metric(s) for s in settings]
  mean, least, most = (
    np.array([math.nan if s is None else getattr(s, end) for s in scores])
    for end in ('mean', 'least', 'most')
  )
  if numeric:
    ax.plot(places, mean, markersize=6, linewidth=1.8, **style)
    ax.fill_between(places, least, most, color=style['color'], alpha=0.18, lw=0)
  else:  # Nothing lies between two categories.
    bars = np.stack([mean - least, most - mean])
    ax.errorbar(places, mean, bars, ls='none', capsize=4, ms=8, **style)
  lost = [
    place
    for place, setting, score in zip(places, settings, scores, strict=True)
    if setting is not None and score is None
  ]
  ax.plot(
    lost,
    [0.03] * len(lost),
    'x',
    color=style['color'],
    markersize=8,
    mew=2,
    transform=ax.get_xaxis_transform(),
  )


def _scale_x(ax: Axes, x: Axis, values: Sequence[Any]) -> None:
  labels = [plain(label[:16]) for label in tick_labels(values)]
  if not x.numeric:
    ax.set_xticks(range(len(values)), labels)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.grid(False, axis='x')
    return
  numbers = np.asarray(values, float)
  if numbers[0] > 0 and _closest(np.log(numbers)) > _closest(numbers):
    ax.set_xscale('log')
    numbers = np.log(numbers)
  places = (numbers - numbers[0]) / max(np.ptp(numbers), 1e-12)
  gap = _SPACE + _CHARACTER * max(map(len, labels))
  last, shown = -math.inf, []
  for i, place in enumerate(places):
    if place - last >= gap:
      shown.append(i)
      last = place
  ax.set_xticks([values[i] for i in shown], [labels[i] for i in shown])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.set_xmargin(0.05)


def _closest(numbers: np.ndarray) -> float:
  """Returns the smallest gap, as a part of the range."""
  gaps = np.diff(numbers)
  return float(gaps.min() / np.ptp(numbers)) if len(gaps) else 0.0


def _scale_y(ax: Axes) -> None:
  """Zooms in on the lines, but not on what is nothing."""
  low, high = ax.dataLim.intervaly
  if not (math.isfinite(low) and math.isfinite(high)):
    low, high = 0.0, 1.0
  pad = 0.08 * max(high - low, _MIN_SPAN)
  high = min(1 + pad / 4, high + pad)
  low = max(-pad / 4, min(low - pad, high - _MIN_SPAN))
  ax.set_ylim(low, high)
  ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
  ax.yaxis.set_major_formatter(format_percent)


def attack_curves(report: Report, settings: Sequence[Setting]) -> Figure:
  """Draws accuracy over the attack's epsilon, a panel per attack.

  Lines are means over the seeds, shades reach from the lowest seed to the
  highest; epsilon 0 is the clean accuracy.

  Args:
    report: the content of sweep.json, `curves` in particular.
    settings: a line each, at most six.

  Returns:
    The figure.

  Raises:
    ValueError: if none of them has curves.
  """
  members = {s.label: _as_member(report, s) for s in settings}
  return robustness_curves({'members': members})


def has_attack_curves(report: Report, setting: Setting) -> bool:
  """Returns whether any member of the setting has curves."""
  return any(row['member'] in report.get('curves', {}) for row in setting.rows)


def _as_member(report: Report, setting: Setting) -> dict[str, Any]:
  """Puts the curves of a setting's seeds together, as report.json has them."""
  curves = [
    report['curves'][row['member']]
    for row in setting.rows
    if row['member'] in report['curves']
  ]
  entries = {}
  for attack in report['attacks']:
    per_seed = [c for c in curves if c.get(attack)]
    if not per_seed:
      continue
    by_epsilon: dict[float, list[float]] = {}
    for curve in per_seed:
      for epsilon, value in zip(curve['epsilons'], curve[attack], strict=True):
        if finite(value) is not None:
          by_epsilon.setdefault(float(epsilon), []).append(value)
    entries[attack] = {
      'epsilon': report['epsilon'],
      'norm': report.get('norm', 'norm unknown'),
      'curve': [
        {'epsilon': epsilon} | _over_seeds('white_box', values)
        for epsilon, values in by_epsilon.items()
      ],
    }
  clean = [
    row['clean_accuracy']
    for row in setting.rows
    if finite(row.get('clean_accuracy')) is not None
  ]
  return _over_seeds('clean_accuracy', clean) | {'robust_accuracy': entries}


def _over_seeds(name: str, values: Sequence[float]) -> dict[str, Any]:
  """The ends of the shade are the lowest and the highest seed here."""
  if not values:
    return {}
  ends = [min(values), max(values)]
  return {name: statistics.fmean(values), f'{name}_ci': ends}
