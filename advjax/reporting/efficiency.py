"""The picture of what parameters buy: accuracy over the number of them."""

import math
from collections.abc import Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from advjax.reporting.charts import INK, STYLE, own_style, percent_axis, plain
from advjax.reporting.summary import robust_of
from advjax.reporting.values import (
  Report,
  entry_of,
  finite,
  interval_of,
  members_of,
)

_APART = 0.05  # Of the width, between names.
_SIDE = 1.03  # Times the parameters, of the next member of the same size.


def efficiency_chart(report: Report) -> Figure:
  """Draws each member's clean and lowest white-box accuracy over its size.

  Args:
    report: the content of report.json.

  Returns:
    The figure; parameters on a logarithmic axis, hollow marks clean, filled
    ones attacked, both with 95 % intervals.

  Raises:
    ValueError: if no member has a number of parameters and an accuracy.
  """
  points = {
    name: (count, value)
    for name, member in members_of(report).items()
    if (count := finite(member.get('num_params')))
    and (value := finite(member.get('clean_accuracy'))) is not None
  }
  if not points:
    raise ValueError('report has no member with num_params and clean_accuracy')
  sizes: list[float] = []
  for count, _ in points.values():
    while count in sizes:
      count *= _SIDE  # Else marks of one size would hide each other.
    sizes.append(count)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(9, 5.6), layout='constrained')
    ax = figure.add_subplot()
    ax.set_xscale('log')
    ax.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    for size, name in zip(sizes, points, strict=True):
      _member(ax, report, name, size)
    _names(ax, dict(zip(points, sizes, strict=True)))
    percent_axis(ax)
    ax.set_ylabel('accuracy')
    ax.set_xlabel('parameters')
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=''))
    ax.xaxis.set_minor_locator(NullLocator())
    handles = [
      Line2D([], [], ls='', marker='o', ms=7, mfc='white', mec=INK, mew=1.6),
      Line2D([], [], ls='', marker='o', ms=7, color=INK),
    ]
    labels = ['clean', 'white box, under the attack that leaves it the least']
    figure.legend(handles, labels, loc='outside lower left', ncols=2)
  return figure


def _member(ax: Axes, report: Report, name: str, count: float) -> None:
  """Draws both accuracies of a member, and a line that joins them."""
  member = members_of(report)[name]
  clean = float(member['clean_accuracy'])
  color = own_style(list(members_of(report)).index(name))['color']
  marks = [(clean, interval_of(member, 'clean_accuracy'), 'white')]
  found = robust_of(report, name)
  if found:
    entry = entry_of(report, name, found[1]) or {}
    marks.append((found[0], interval_of(entry, 'white_box'), color))
    ax.plot([count] * 2, [found[0], clean], color=color, alpha=0.35, lw=3)
  for value, ends, face in marks:
    low, high = ends or (value, value)
    ax.errorbar(
      count,
      value,
      [[max(0.0, value - low)], [max(0.0, high - value)]],
      color=color,
      fmt='o',
      markersize=8,
      markerfacecolor=face,
      markeredgewidth=1.6,
      capsize=3,
      linewidth=1.2,
    )


def _names(ax: Axes, sizes: Mapping[str, float]) -> None:
  """Writes the names above the axes, apart, and leads each to its mark."""
  low, high = (math.log(end) for end in ax.get_xlim())
  ordered = sorted(sizes, key=lambda name: sizes[name])
  places = [(math.log(sizes[name]) - low) / (high - low) for name in ordered]
  for index in range(1, len(places)):
    places[index] = max(places[index], places[index - 1] + _APART)
  for name, place in zip(ordered, places, strict=True):
    ax.plot(
      [sizes[name], math.exp(low + place * (high - low))],
      [1.02, 1.06],
      color='#bbbbbb',
      lw=0.8,
      clip_on=False,
    )
    ax.axvline(sizes[name], color='#bbbbbb', lw=0.8, ls=(0, (1, 3)), zorder=0)
    ax.annotate(
      plain(name),
      (place, 1.045),
      xycoords='axes fraction',
      rotation=35,
      rotation_mode='anchor',
      ha='left',
      va='bottom',
      fontsize=10,
    )
