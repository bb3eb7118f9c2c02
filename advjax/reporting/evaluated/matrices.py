"""Accuracies over two things: member by member, corruption by severity."""

from collections.abc import Mapping, Sequence
from typing import Any

from advjax.reporting.evaluated.shading import shaded_table
from advjax.reporting.shifted import seen_of
from advjax.reporting.values import (
  Report,
  attack_label,
  attacks_of,
  entry_of,
  finite,
  members_of,
  short,
  transfer_of,
)


def transfer_tables(report: Report) -> list[str]:
  """Returns a table per attack: made on (rows), evaluated on (columns).

  The framed diagonal is white box, all other cells are transfer.

  Args:
    report: The content of report.json.

  Returns:
    `<table>` elements; none where nothing was transferred.
  """
  names = list(members_of(report))
  tables = []
  for attack, sample in attacks_of(report).items():
    entries = {name: entry_of(report, name, attack) or {} for name in names}
    if not any(entry.get('transfer') for entry in entries.values()):
      continue
    sources = [name for name in names if entries[name]]
    epsilon = finite(sample.get('epsilon'))
    where = '' if epsilon is None else f', epsilon {short(epsilon)}'
    if sample.get('norm'):
      where += f' ({sample["norm"]})'
    values = [
      [
        entries[source].get('white_box')
        if source == target
        else transfer_of(entries[source], target)[0]
        for target in names
      ]
      for source in sources
    ]
    tables.append(
      shaded_table(
        f'{attack_label(attack, sample)}{where}',
        sources,
        names,
        values,
        corner='made on / scored',
        marked=[(i, names.index(name)) for i, name in enumerate(sources)],
      )
    )
  return tables


def corruption_tables(report: Report) -> list[str]:
  """Returns a table per member: kinds of corruption by severity, and means.

  Where several members have them, one of their means comes first. Framed are
  the kinds that a member has seen in training.

  Args:
    report: The content of report.json.

  Returns:
    `<table>` elements; none where no corruption was measured.
  """
  members = {
    name: member
    for name, member in members_of(report).items()
    if member.get('corruptions')
  }
  tables = [_severities(name, member) for name, member in members.items()]
  if len(members) > 1:
    tables.insert(0, _means(report, members))
  return tables


def _severities(name: str, member: Mapping[str, Any]) -> str:
  kinds = member['corruptions']
  count = max(len(values) for values in kinds.values())
  values = [list(row) + [None] * (count - len(row)) for row in kinds.values()]
  rows = [*(_kind(kind) for kind in kinds), 'mean']
  values.append([_mean(column) for column in zip(*values, strict=True)])
  seen = member.get('seen_corruptions', ())
  return shaded_table(
    name,
    rows,
    [*(str(severity) for severity in range(1, count + 1)), 'mean'],
    [[*row, _mean(row)] for row in values],
    corner='severity',
    marked=[
      (row, column)
      for row, kind in enumerate(kinds)
      for column in range(count)
      if kind in seen
    ],
    apart=count,
  )


def _means(report: Report, members: Mapping[str, Mapping[str, Any]]) -> str:
  kinds = list(
    dict.fromkeys(kind for m in members.values() for kind in m['corruptions'])
  )
  values = [
    [_mean(member['corruptions'].get(kind, ())) for member in members.values()]
    for kind in kinds
  ]
  rows = [*(_kind(kind) for kind in kinds), 'mean']
  seen = seen_of(report)
  unseen = [
    row for row, kind in zip(values, kinds, strict=True) if kind not in seen
  ]
  values.append([_mean(column) for column in zip(*values, strict=True)])
  if seen and unseen:
    rows.append('mean, unseen by all')
    values.append([_mean(column) for column in zip(*unseen, strict=True)])
  return shaded_table(
    'Mean over the severities',
    rows,
    list(members),
    values,
    corner='corruption',
    marked=[
      (row, column)
      for row, kind in enumerate(kinds)
      for column, member in enumerate(members.values())
      if kind in member.get('seen_corruptions', ())
    ],
  )


def _mean(values: Sequence[Any]) -> float | None:
  numbers = [n for value in values if (n := finite(value)) is not None]
  return sum(numbers) / len(numbers) if numbers else None


def _kind(name: str) -> str:
  words = name.replace('_', ' ').replace('gaussian', 'Gaussian')
  return words.replace('jpeg', 'JPEG')
