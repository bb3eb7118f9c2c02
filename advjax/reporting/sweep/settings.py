"""The settings of a sweep: its members, those of several seeds put together."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax.reporting.values import Report, finite

SEED = 'seed'


class Score(NamedTuple):
  """An accuracy of a setting, over its seeds.

  Attributes:
    mean: the mean.
    std: the sample standard deviation, None for one seed.
    least: the lowest of the seeds.
    most: the highest.
    low: lower end of the 95 % interval over the test images: the mean of those
      of the seeds, as all are scored on the same images.
    high: its upper end.
  """

  mean: float
  std: float | None
  least: float
  most: float
  low: float
  high: float


class Setting(NamedTuple):
  """What the members have in common that differ in their seed alone.

  Attributes:
    label: what sets it apart, such as 'epsilon=0.1, multiplier=0.2'.
    values: field -> value, the seed left out; lists as tuples.
    rows: the rows of its members, in the order of the sweep.
    clean: clean accuracy over the members that have one, or None.
    robust: robust accuracy, likewise.
  """

  label: str
  values: Mapping[str, Any]
  rows: tuple[Mapping[str, Any], ...]
  clean: Score | None
  robust: Score | None

  @property
  def num_diverged(self) -> int:
    """How many of its members diverged."""
    return sum(row.get('status') == 'diverged' for row in self.rows)


class Axis(NamedTuple):
  """A swept field that takes several values.

  Attributes:
    field: its dotted name.
    label: the name for people, and those of fields that move with it.
    numeric: whether all its values are numbers.
  """

  field: str
  label: str
  numeric: bool


def read_settings(report: Report) -> list[Setting]:
  """Puts the rows together that differ in their seed alone.

  Args:
    report: the content of sweep.json.

  Returns:
    The settings, in the order in which their first members appear.
  """
  fields = [field for field in report['fields'] if field != SEED]
  groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
  for row in report['rows']:
    key = tuple(frozen(row.get(field)) for field in fields)
    groups.setdefault(key, []).append(row)
  ticks = [
    dict(zip(values, tick_labels(values), strict=True))
    for values in (
      list(dict.fromkeys(key[i] for key in groups)) for i in range(len(fields))
    )
  ]
  names = short_names(fields)
  shown = [i for i in range(len(fields)) if len(ticks[i]) > 1]
  settings = []
  for key, rows in groups.items():
    parts = [
      f'{names[fields[i]]}={ticks[i][key[i]]}'
      for i in shown or range(len(fields))
    ]
    settings.append(
      Setting(
        label=', '.join(parts) or 'the only setting',
        values=dict(zip(fields, key, strict=True)),
        rows=tuple(rows),
        clean=_score(rows, 'clean_accuracy'),
        robust=_score(rows, 'robust_accuracy'),
      )
    )
  return settings


def find_axes(settings: Sequence[Setting]) -> list[Axis]:
  """Returns the fields that span the sweep, those of numbers first.

  Left out are fields of one value, and those that move with an earlier one:
  each value of the one goes with one value of the other, and both rise
  together or against each other. The earlier one's label names them.

  Args:
    settings: from `read_settings`.

  Returns:
    The axes; any two settings differ in at least one of them.
  """
  fields = list(settings[0].values) if settings else []
  names = short_names(fields)
  columns = {field: [s.values[field] for s in settings] for field in fields}
  followers: dict[str, list[str]] = {}
  for field, column in columns.items():
    if len(set(column)) < 2:
      continue
    leader = next(
      (lead for lead in followers if _move_together(columns[lead], column)),
      None,
    )
    if leader is None:
      followers[field] = []
    else:
      followers[leader].append(names[field])
  axes = [
    Axis(
      field,
      names[field] + (f' (with it {", ".join(moving)})' if moving else ''),
      _numeric(columns[field]),
    )
    for field, moving in followers.items()
  ]
  return sorted(axes, key=lambda axis: not axis.numeric)


def axis_values(settings: Iterable[Setting], axis: Axis) -> list[Any]:
  """Returns the values on an axis: numbers sorted, others as they appear."""
  values = list(dict.fromkeys(s.values[axis.field] for s in settings))
  return sorted(values) if axis.numeric else values


def split_panels(
  settings: Sequence[Setting], axes: Sequence[Axis]
) -> list[tuple[str, list[Setting]]]:
  """Splits settings by their values on all axes but the first two.

  Args:
    settings: from `read_settings`.
    axes: from `find_axes`.

  Returns:
    (what the panel shows, its settings); one panel under the label '' where
    there are no more than two axes.
  """
  others = axes[2:]
  ticks = []
  for axis in others:
    values = axis_values(settings, axis)
    ticks.append(dict(zip(values, tick_labels(values), strict=True)))
  names = short_names([axis.field for axis in axes])
  panels = []
  for key in itertools.product(*ticks):
    inside = [
      s
      for s in settings
      if all(s.values[a.field] == v for a, v in zip(others, key, strict=True))
    ]
    label = ', '.join(
      f'{names[axis.field]}={tick[value]}'
      for axis, tick, value in zip(others, ticks, key, strict=True)
    )
    if inside:
      panels.append((label, inside))
  return panels


def rank(settings: Iterable[Setting]) -> list[Setting]:
  """Sorts by robust accuracy, then clean accuracy, then order of the sweep.

  Args:
    settings: those that have not both accuracies are left out.

  Returns:
    The best first.
  """
  scored = [s for s in settings if s.robust is not None and s.clean is not None]
  return sorted(
    scored,
    key=lambda s: (s.robust and -s.robust.mean, s.clean and -s.clean.mean),
  )


def is_apart(first: Score, second: Score) -> bool:
  """Returns whether the first is above the second by more than chance.

  Both must be clear: their 95 % intervals over the test images do not overlap,
  nor do their ranges over the seeds.
  """
  return first.low > second.high and first.least > second.most


def frozen(value: Any) -> Any:
  """Returns a field's value as one that can be a key: lists as tuples."""
  if isinstance(value, list | tuple):
    return tuple(frozen(item) for item in value)
  return value


def short_names(fields: Sequence[str]) -> dict[str, str]:
  """Returns the last part of each field, or all of it where that is not clear.

  Example:
    >>> short_names(['hparams.epsilon', 'objective.name'])
    {'hparams.epsilon': 'epsilon', 'objective.name': 'objective.name'}
    >>> short_names(['hparams.epsilon', 'evaluation.epsilon'])
    {'hparams.epsilon': 'hparams.epsilon',
     'evaluation.epsilon': 'evaluation.epsilon'}
  """
  ends = [field.rpartition('.')[2] for field in fields]
  return {
    field: end if ends.count(end) == 1 and end != 'name' else field
    for field, end in zip(fields, ends, strict=True)
  }


def tick_labels(values: Sequence[Any]) -> list[str]:
  """Writes values with as few digits as tell them apart, three at least.

  Example:
    >>> tick_labels([8 / 255, 0.1, 1.0])
    ['0.0314', '0.1', '1']
    >>> tick_labels([0.1, 0.1001])
    ['0.1', '0.1001']
  """
  for digits in range(3, 17):
    labels = [
      f'{value:.{digits}g}' if isinstance(value, float) else str(value)
      for value in values
    ]
    if len(set(labels)) == len(set(values)):
      break
  return labels if values else []


def _score(rows: Sequence[Mapping[str, Any]], name: str) -> Score | None:
  scored = [row for row in rows if finite(row.get(name)) is not None]
  if not scored:
    return None
  values = [float(row[name]) for row in scored]
  return Score(
    mean=statistics.fmean(values),
    std=statistics.stdev(values) if len(values) > 1 else None,
    least=min(values),
    most=max(values),
    low=statistics.fmean(float(row[f'{name}_low']) for row in scored),
    high=statistics.fmean(float(row[f'{name}_high']) for row in scored),
  )


def _numeric(values: Iterable[Any]) -> bool:
  return all(finite(value) is not None for value in values)


def _move_together(first: Sequence[Any], second: Sequence[Any]) -> bool:
  pairs = set(zip(first, second, strict=True))
  if not len(pairs) == len(set(first)) == len(set(second)):
    return False
  if not (_numeric(first) and _numeric(second)):
    return True
  rises = np.diff([value for _, value in sorted(pairs)])
  return bool(np.all(rises > 0) or np.all(rises < 0))
