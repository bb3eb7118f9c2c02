"""Bars of accuracies: clean, attacked, shifted; a colour per member.

Where labels were looked for in the top k as well, that accuracy is a pale bar
behind the one of the top 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from advjax.reporting.charts import INK, STYLE, own_style, percent_axis, plain
from advjax.reporting.shifted import FAMILIES, family_accuracy, seen_of
from advjax.reporting.values import (
  Interval,
  Report,
  attack_label,
  attacks_of,
  entry_of,
  finite,
  interval_of,
  members_of,
  short,
  top_k_of,
  transfer_of,
)

_PALE = 0.3  # Opacity of the top k.
_MAX_LABELLED = 20  # Bars; the numbers of more would not be readable.
_LABEL = 0.06  # Height of a number.
_GAP = 0.015  # Between a bar and its number.


class Bar(NamedTuple):
  """An accuracy and its interval; beside it that of the top k, if there."""

  value: float
  low: float
  high: float
  top_k: tuple[float, float, float] | None = None


class Group(NamedTuple):
  """Bars that stand side by side.

  Attributes:
    label: What they show.
    transfer: Whether the images were perturbed on another member.
    bars: Member -> its bar.
  """

  label: str
  transfer: bool
  bars: dict[str, Bar]


def accuracy_bars(report: Report) -> Figure:
  """Draws clean, white-box and transfer accuracy at the headline epsilon.

  Bars carry 95 % intervals. Transfer bars are hatched: the accuracy of a member
  on images perturbed on another one; where there are several others, on those
  that fool it most.

  Args:
    report: the content of report.json.

  Returns:
    The figure.

  Raises:
    ValueError: if the report has no members.
  """
  names = list(members_of(report))
  if not names:
    raise ValueError('report has no members')
  return _draw(report, [_clean(report), *_attacked(report, names)])


def shift_bars(report: Report) -> Figure:
  """Draws accuracy on clean, corrupted and pasted-over images.

  Args:
    report: the content of report.json.

  Returns:
    The figure: a group for each family of corruptions, one for the kinds that
    no member has seen in training, one for pasted objects.

  Raises:
    ValueError: if no shift was measured.
  """
  groups = [_clean(report), *_corrupted(report), *_pasted(report)]
  if len(groups) < 2:
    raise ValueError('report has no member with corruptions or pasted_objects')
  return _draw(report, groups)


def has_shifts(report: Report) -> bool:
  """Returns whether `shift_bars` has anything to draw."""
  return bool(_corrupted(report) or _pasted(report))


def _draw(report: Report, groups: Sequence[Group]) -> Figure:
  names = list(members_of(report))
  num_bars = len(groups) * len(names)
  with matplotlib.rc_context(STYLE | {'axes.grid.axis': 'y'}):
    figure = Figure(
      figsize=(min(16, max(6, 1.5 + 0.62 * num_bars)), 4.2),
      layout='constrained',
    )
    ax = figure.add_subplot()
    width = min(0.8 / len(names), 0.4)
    for j, group in enumerate(groups):
      for i, name in enumerate(names):
        if group.bars.get(name) is not None:
          x = j + (i - (len(names) - 1) / 2) * width
          _bar(ax, x, width * 0.94, group.bars[name], i, group.transfer)
          if num_bars <= _MAX_LABELLED:
            _numbers(ax, x, group.bars[name])
    ax.set_xticks(range(len(groups)), [group.label for group in groups])
    ax.tick_params(axis='x', length=0)
    ax.set_xlim(-0.55, len(groups) - 0.45)
    percent_axis(ax)
    ax.set_ylim(0, 1.17 if top_k_of(report) else 1.1)
    ax.set_ylabel('accuracy')
    _legend(figure, report, groups)
  return figure


def _legend(figure: Figure, report: Report, groups: Sequence[Group]) -> None:
  names = list(members_of(report))
  handles = [Patch(color=own_style(i)['color']) for i in range(len(names))]
  labels = [plain(name) for name in names]
  if any(bar.top_k for group in groups for bar in group.bars.values()):
    handles.append(Patch(facecolor=INK, alpha=_PALE))
    labels.append(f'pale: top-{top_k_of(report)}')
  if any(group.transfer for group in groups):
    handles.append(Patch(facecolor='white', edgecolor=INK, hatch='////'))
    labels.append('on images perturbed on another member')
  figure.legend(handles, labels, loc='outside upper left', ncols=4, fontsize=10)


def _read(entry: Mapping[str, Any], name: str, top_k_name: str) -> Bar | None:
  """Returns the bar of an accuracy that stands in an entry, None if absent."""
  value = finite(entry.get(name))
  if value is None:
    return None
  found = finite(entry.get(top_k_name))
  ends = interval_of(entry, top_k_name)
  return _make_bar(value, interval_of(entry, name), found, ends)


def _make_bar(
  value: float,
  ends: Interval | None,
  top_k: float | None = None,
  top_k_ends: Interval | None = None,
) -> Bar:
  pale = None
  if top_k is not None:
    pale = (top_k, *(top_k_ends or (top_k, top_k)))
  return Bar(value, *(ends or (value, value)), pale)


def _clean(report: Report) -> Group:
  bars = {
    name: bar
    for name, member in members_of(report).items()
    if (bar := _read(member, 'clean_accuracy', 'clean_top_k_accuracy'))
  }
  return Group('clean', False, bars)


def _attacked(report: Report, names: Sequence[str]) -> list[Group]:
  """Returns white box and transfer of every attack, in the order drawn."""
  groups = []
  for attack, sample in attacks_of(report).items():
    own: dict[str, Bar] = {}
    transfer: dict[str, Bar] = {}
    for name in names:
      entry = entry_of(report, name, attack) or {}
      bar = _read(entry, 'white_box', 'white_box_top_k')
      if bar is not None:
        own[name] = bar
      for source in names:
        at = entry_of(report, source, attack) or {}
        value, ends = transfer_of(at, name)
        if source == name or value is None:
          continue
        bar = _make_bar(value, ends, *transfer_of(at, name, '_top_k'))
        transfer[name] = min(
          bar, transfer.get(name, bar), key=lambda bar: bar.value
        )
    label = plain(attack_label(attack, sample))
    epsilon = finite(sample.get('epsilon'))
    at_epsilon = '' if epsilon is None else f'\nepsilon {short(epsilon)}'
    groups.append(Group(f'{label}\nwhite box{at_epsilon}', False, own))
    if transfer:
      groups.append(Group(f'{label}\ntransfer{at_epsilon}', True, transfer))
  return groups


def _corrupted(report: Report) -> list[Group]:
  """Returns a group per family, and one of what nobody has been trained on."""
  members = members_of(report)
  seen = seen_of(report)
  groups = []
  for family, kinds in FAMILIES.items():
    bars = {}
    for name, member in members.items():
      value = family_accuracy(member.get('corruptions', {}), kinds)
      if value is not None:
        found = family_accuracy(member.get('corruptions_top_k', {}), kinds)
        bars[name] = _make_bar(value, None, found)
    partly = '\n(partly seen)' if seen & set(kinds) else ''
    groups.append(Group(f'{family}{partly}', False, bars))
  if seen:
    bars = {
      name: bar
      for name, member in members.items()
      if (
        bar := _read(
          member,
          'unseen_corruption_accuracy',
          'unseen_corruption_top_k_accuracy',
        )
      )
    }
    groups.append(Group('all unseen\ncorruptions', False, bars))
  return [group for group in groups if group.bars]


def _pasted(report: Report) -> list[Group]:
  """Returns a group per severity of pasted objects."""
  members = members_of(report)
  severities = dict.fromkeys(
    severity
    for member in members.values()
    for severity in member.get('pasted_objects', {})
  )
  return [
    Group(
      f'pasted objects\nseverity {severity}',
      False,
      {
        name: bar
        for name, member in members.items()
        if (
          bar := _read(
            member.get('pasted_objects', {}).get(severity, {}),
            'accuracy',
            'top_k_accuracy',
          )
        )
      },
    )
    for severity in severities
  ]


def _bar(
  ax: Axes, x: float, width: float, bar: Bar, index: int, transfer: bool
) -> None:
  color = own_style(index)['color']
  if bar.top_k:
    ax.bar(x, bar.top_k[0], width, facecolor=color, alpha=_PALE, linewidth=0)
    _interval(ax, x, *bar.top_k, color=INK, linewidth=0.9)
  ax.bar(
    x,
    bar.value,
    width,
    facecolor='white' if transfer else color,
    edgecolor=color,
    hatch='////' if transfer else None,
    linewidth=1,
  )
  _interval(ax, x, *bar[:3], color='black', linewidth=1.2)


def _interval(
  ax: Axes, x: float, value: float, low: float, high: float, **style: Any
) -> None:
  if low < high:
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    ax.errorbar(x, value, error, capsize=3, **style)


def _numbers(ax: Axes, x: float, bar: Bar) -> None:
  """Writes what a bar stands for above it, and that of the top k in grey.

  Where the two are close, both stand above the higher one, in their order.
  """
  place = max(bar.value, bar.high) + _GAP
  if bar.top_k:
    found, low, high = bar.top_k
    above = max(found, high) + _GAP
    if min(low, found) < place + _LABEL:
      place, above = above, above + _LABEL
    _number(ax, x, above, found, INK)
  _number(ax, x, place, bar.value, 'black')


def _number(ax: Axes, x: float, y: float, value: float, color: str) -> None:
  text = f'{100 * value:.1f}'
  ax.text(x, y, text, ha='center', va='bottom', fontsize=9, color=color)
