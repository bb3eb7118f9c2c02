"""Noise beside attacks, minimal perturbations, rounding, gradients, classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from advjax.reporting.tables import Row, accuracy_text
from advjax.reporting.values import (
  Report,
  attack_label,
  attacks_of,
  entry_of,
  finite,
  members_of,
  percent,
  short,
  top_k_of,
)

# Accuracies in a report, and those of the top k.
_ACCURACY = ('accuracy', 'top_k_accuracy')
_CLEAN = ('clean_accuracy', 'clean_top_k_accuracy')
_WHITE_BOX = ('white_box', 'white_box_top_k')


def noise_rows(report: Report) -> list[Row]:
  """Returns noise beside the attacks in the same ball, a column per member.

  Below each accuracy stands that of the top k, where it was measured.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the names first; none where no noise was measured.
  """
  members = members_of(report)
  noises: dict[tuple[str, float], list[str]] = {}
  for member in members.values():
    for kind, entry in member.get('noise', {}).items():
      kinds = noises.setdefault(_ball(entry), [])
      if kind not in kinds:
        kinds.append(kind)
  if not noises:
    return []
  k = top_k_of(report)
  rows = [
    Row('', tuple(members)),
    *_with_top_k('no perturbation', list(members.values()), _CLEAN, k),
  ]
  for ball, kinds in noises.items():
    rows.append(Row(f'epsilon {short(ball[1])}, {ball[0]}'))
    for kind in kinds:
      entries = [
        entry
        if _ball(entry := member.get('noise', {}).get(kind, {})) == ball
        else {}
        for member in members.values()
      ]
      label = kind.replace('_', '-').replace('gaussian', 'Gaussian')
      rows += _with_top_k(f'  {label} noise', entries, _ACCURACY, k)
    for attack, sample in attacks_of(report).items():
      if _ball(sample) == ball:
        entries = [entry_of(report, name, attack) or {} for name in members]
        label = f'  {attack_label(attack, sample)}'
        rows += _with_top_k(label, entries, _WHITE_BOX, k)
  return rows


def pasted_rows(report: Report) -> list[Row]:
  """Returns accuracy by the severity of pasted objects, a column per member.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the names first; none where no objects were pasted.
  """
  members = members_of(report)
  pasted = [member.get('pasted_objects', {}) for member in members.values()]
  k = top_k_of(report)
  rows = [Row('', tuple(members))]
  for severity in dict.fromkeys(key for entries in pasted for key in entries):
    entries = [each.get(severity, {}) for each in pasted]
    rows += _with_top_k(f'severity {severity}', entries, _ACCURACY, k)
  return rows if len(rows) > 1 else []


def _with_top_k(
  label: str,
  entries: Sequence[Mapping[str, Any]],
  keys: tuple[str, str],
  k: int | None,
) -> list[Row]:
  """A row of accuracies, and one of the top k below it where there are any."""
  first, top = keys
  rows = [Row(label, tuple(accuracy_text(entry, first) for entry in entries))]
  if k and any(finite(entry.get(top)) is not None for entry in entries):
    indent = ' ' * (len(label) - len(label.lstrip()) + 2)
    cells = tuple(accuracy_text(entry, top) for entry in entries)
    rows.append(Row(f'{indent}top-{k}', cells))
  return rows


def _ball(entry: Mapping[str, Any]) -> tuple[str, float]:
  epsilon = finite(entry.get('epsilon'))
  return str(entry.get('norm', 'norm unknown')), epsilon or 0.0


def minimal_rows(report: Report) -> list[Row]:
  """Returns the median of the smallest perturbations, a column per member.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the names first; none where none was looked for.
  """
  members = members_of(report)
  attacks: dict[str, str] = {}
  for member in members.values():
    for attack, entry in member.get('minimal', {}).items():
      attacks.setdefault(attack, str(entry.get('norm', 'norm unknown')))
  if not attacks:
    return []
  rows = [Row('', tuple(members))]
  for attack, norm in attacks.items():
    entries = [m.get('minimal', {}).get(attack, {}) for m in members.values()]
    label = f'{attack_label(attack, {})}, {norm}'
    rows.append(Row(label, tuple(_median(entry) for entry in entries)))
  return rows


def _median(entry: Mapping[str, Any]) -> str:
  median, found = finite(entry.get('median_epsilon')), entry.get('found')
  text = 'n/a' if median is None else short(median)
  return text if finite(found) is None else f'{text} ({percent(found)} found)'


def rounding_rows(report: Report) -> list[Row]:
  """Returns accuracy before and after rounding to 8 bits.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the names first; none where nothing was rounded.
  """
  members = members_of(report)
  rows = [Row('', tuple(members))]
  for attack, sample in attacks_of(report).items():
    after = [
      member.get('rounded', {}).get(attack) for member in members.values()
    ]
    if all(finite(value) is None for value in after):
      continue
    cells = []
    for name, value in zip(members, after, strict=True):
      entry = entry_of(report, name, attack) or {}
      before = finite(entry.get('white_box'))
      text = f'{percent(before)} to {percent(value)}'
      cells.append('n/a' if before is None or finite(value) is None else text)
    rows.append(Row(attack_label(attack, sample), tuple(cells)))
  return rows if len(rows) > 1 else []


def gradient_rows(report: Report) -> list[Row]:
  """Returns the shares of images whose gradients are zero or not finite.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the names first; none where none was counted.
  """
  members = members_of(report)
  rows = [Row('', tuple(members))]
  for key, heading in (
    ('zero_gradients', 'exactly zero'),
    ('not_finite_gradients', 'not finite'),
  ):
    shares: dict[str, tuple[str, ...]] = {}
    for attack, sample in attacks_of(report).items():
      values = [
        finite(member.get('traces', {}).get(attack, {}).get(key))
        for member in members.values()
      ]
      if any(value is not None for value in values):
        cells = tuple(percent(value, 2) for value in values)
        shares[attack_label(attack, sample)] = cells
    if len(set(shares.values())) == 1:  # Attacks that ascend the same loss.
      rows.append(Row(heading, next(iter(shares.values()))))
    elif shares:
      rows.append(Row(heading))
      rows += [Row(f'  {label}', cells) for label, cells in shares.items()]
  return rows if len(rows) > 1 else []


def class_rows(report: Report) -> list[Row]:
  """Returns the accuracy of every class, clean and under the worst attack.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the heads first; none where classes were not counted apart.
  """
  members = {
    name: member['per_class']
    for name, member in members_of(report).items()
    if member.get('per_class')
  }
  heads, columns = [], []
  for name, classes in members.items():
    for attack in ('clean', worst_attack(classes)):
      if attack in classes:
        heads.append(f'{name}, {_label(report, name, attack)}')
        columns.append(classes[attack])
  if not columns:
    return []
  rows = [Row('', tuple(heads))]
  for number, label in enumerate(class_names(report)):
    cells = (c[number] if number < len(c) else None for c in columns)
    rows.append(Row(label, tuple(percent(cell) for cell in cells)))
  return rows


def worst_attack(classes: Mapping[str, Any]) -> str:
  """Returns the attack with the lowest mean over the classes, '' if none.

  Example:
    >>> worst_attack({'clean': [1.0], 'fgsm': [0.5], 'pgd': [0.2]})
    'pgd'
  """
  means = {}
  for attack, values in classes.items():
    numbers = [n for value in values if (n := finite(value)) is not None]
    if attack != 'clean' and numbers:
      means[attack] = sum(numbers) / len(numbers)
  return min(means, key=lambda attack: means[attack], default='')


def class_names(report: Report) -> list[str]:
  """Returns the names of the classes, numbers where the report has none."""
  count = max(
    (
      len(values)
      for member in members_of(report).values()
      for values in member.get('per_class', {}).values()
    ),
    default=0,
  )
  names = [str(name) for name in report.get('classes', ())]
  return [*names[:count], *(str(i) for i in range(len(names), count))]


def _label(report: Report, name: str, attack: str) -> str:
  if attack == 'clean':
    return attack
  return attack_label(attack, entry_of(report, name, attack) or {})
