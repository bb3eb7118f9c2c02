"""Charts of an evaluation: classes apart, and what an attack does by steps."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from advjax.reporting.charts import INK, STYLE, own_color, plain
from advjax.reporting.evaluated.tables import class_names, worst_attack
from advjax.reporting.values import (
  Report,
  attack_label,
  attacks_of,
  entry_of,
  finite,
  members_of,
)

MAX_CLASSES = 20  # In the chart; more would need a page of their own.
_MAX_COLUMNS = 4
_MAX_NAME = 24  # Characters.
_APART = 30  # Times another member's loss from which on the scale is log.
_DASHES = ('-', (0, (5, 2)), (0, (1.5, 1.5)), '-.', (0, (8, 2)), ':')


def class_chart(report: Report) -> Figure:
  """Draws the accuracy of each class, clean and under the worst attack.

  With more than 20 classes those that the attacks break most.

  Args:
    report: The content of report.json.

  Returns:
    The figure, a panel per member.

  Raises:
    ValueError: if no member has classes apart.
  """
  members = {
    name: member['per_class']
    for name, member in members_of(report).items()
    if member.get('per_class')
  }
  if not members:
    raise ValueError('report has no member with per_class')
  shown = shown_classes(report)
  labels = class_names(report)
  columns = min(len(members), 3)
  rows = math.ceil(len(members) / columns)
  with matplotlib.rc_context(STYLE | {'axes.grid.axis': 'x'}):
    figure = Figure(
      figsize=(max(6.5, 3.7 * columns), rows * (1.3 + 0.27 * len(shown))),
      layout='constrained',
    )
    axes = figure.subplots(
      rows, columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    for number, (name, classes) in enumerate(members.items()):
      ax, worst = axes[number], worst_attack(classes)
      color = own_color(list(members_of(report)).index(name))
      clean = _values(classes.get('clean', ()), shown)
      attacked = _values(classes.get(worst, ()), shown)
      places = np.arange(len(shown))
      ax.hlines(places, attacked, clean, color=color, alpha=0.35, linewidth=3)
      ax.plot(clean, places, 'o', mfc='white', mec=color, mew=1.6, ms=6)
      ax.plot(attacked, places, 'o', color=color, ms=6)
      label = attack_label(worst, entry_of(report, name, worst) or {})
      ax.set_title(plain(f'{name}, {label}' if worst else name))
      ax.set_xlim(-0.03, 1.03)
      ax.xaxis.set_major_formatter(PercentFormatter(1.0, 0, symbol=' %'))
      ax.tick_params(axis='y', length=0)
    axes[0].set_yticks(
      range(len(shown)), [_short_name(labels[place]) for place in shown]
    )
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    for ax in axes[len(members) :]:
      ax.set_axis_off()
    handles = [
      Line2D([], [], ls='', marker='o', ms=6, mfc='white', mec=INK, mew=1.6),
      Line2D([], [], ls='', marker='o', ms=6, color=INK),
    ]
    figure.legend(
      handles,
      ['clean', 'under the attack that breaks most'],
      loc='outside lower left',
      ncols=2,
      fontsize=10,
    )
  return figure


def shown_classes(report: Report) -> list[int]:
  """Returns the classes that the chart shows: 20 at most, the most broken."""
  count = len(class_names(report))
  if count <= MAX_CLASSES:
    return list(range(count))
  lowest = np.full(count, np.inf)
  for member in members_of(report).values():
    classes = member.get('per_class', {})
    worst = _values(classes.get(worst_attack(classes), ()), range(count))
    lowest = np.fmin(lowest, worst)
  return np.argsort(lowest, kind='stable')[:MAX_CLASSES].tolist()


def _values(values: Sequence[object], shown: Sequence[int]) -> np.ndarray:
  """Returns the values of the classes shown, NaN for what is absent."""
  numbers = [finite(value) for value in values]
  return np.array(
    [
      math.nan if i >= len(numbers) or numbers[i] is None else numbers[i]
      for i in shown
    ],
    np.float64,
  )


def _short_name(name: str) -> str:
  return plain(
    name if len(name) <= _MAX_NAME else f'{name[: _MAX_NAME - 3]}...'
  )


def trace_chart(report: Report) -> Figure:
  """Draws loss and accuracy over the steps of each attack.

  Args:
    report: The content of report.json.

  Returns:
    The figure: a column per attack, the loss above the accuracy.

  Raises:
    ValueError: if no attack was traced.
  """
  attacks = traced_attacks(report)
  if not attacks:
    raise ValueError('report has no member with traces')
  columns = min(len(attacks), _MAX_COLUMNS)
  blocks = math.ceil(len(attacks) / columns)
  with matplotlib.rc_context(STYLE):
    figure = Figure(
      figsize=(max(6.5, 3.3 * columns), 4.6 * blocks), layout='constrained'
    )
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for number, attack in enumerate(attacks):
      row, column = divmod(number, columns)
      pair = axes[2 * row, column], axes[2 * row + 1, column]
      for ax, what in zip(pair, ('loss', 'accuracy'), strict=True):
        _trace_panel(ax, report, attack, what)
        if column == 0:
          ax.set_ylabel(what)
      sample = attacks_of(report).get(attack, {})
      pair[0].set_title(plain(attack_label(attack, sample)))
    for number in range(len(attacks), blocks * columns):
      row, column = divmod(number, columns)
      axes[2 * row, column].set_axis_off()
      axes[2 * row + 1, column].set_axis_off()
    names = list(members_of(report))
    handles = [
      Line2D([], [], color=own_color(i), ls=_DASHES[i % len(_DASHES)])
      for i in range(len(names))
    ]
    figure.legend(
      handles,
      [plain(name) for name in names],
      loc='outside lower left',
      ncols=min(6, len(names)),
      fontsize=10,
    )
  return figure


def traced_attacks(report: Report) -> list[str]:
  """Returns the attacks that any member has a loss per step of."""
  return list(
    dict.fromkeys(
      attack
      for member in members_of(report).values()
      for attack, trace in member.get('traces', {}).items()
      if len(trace.get('loss', ())) > 1
    )
  )


def _trace_panel(ax: Axes, report: Report, attack: str, what: str) -> None:
  longest, lines = 1, []
  for i, member in enumerate(members_of(report).values()):
    values = member.get('traces', {}).get(attack, {}).get(what, ())
    if not len(values):
      continue
    longest = max(longest, len(values) - 1)
    lines.append(_values(values, range(len(values))))
    ax.plot(
      lines[-1],
      color=own_color(i),
      linestyle=_DASHES[i % len(_DASHES)],
      linewidth=1.8,
      marker='o' if len(values) <= 3 else None,
      markersize=5,
    )
  ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
  ax.set_xlim(-0.03 * longest, 1.03 * longest)
  if what == 'accuracy':
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, 0, symbol=' %'))
    ax.set_xlabel('step')
    return
  highest = [line[line > 0].max() for line in lines if (line > 0).any()]
  if highest and max(highest) > _APART * min(highest):
    # Large logits make large losses, beside which others would be flat.
    ax.set_yscale('log')
    ax.set_ylim(bottom=min(highest) / 100)
