"""Costs and accuracies of several seeds as a table in Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def markdown(
  rows: Sequence[Mapping[str, Any]], attacks: Sequence[str], target: float
) -> str:
  """Returns the rows of all seeds, their mean and standard deviation.

  Args:
    rows: Costs and accuracies of every seed.
    attacks: Their names; the first is compared with the target.
    target: The accuracy to reach.

  Returns:
    A table in Markdown.

  Example:
    >>> costs = dict.fromkeys(('train_seconds', 'compile_seconds'), 2.0)
    >>> costs |= {'step_milliseconds': 4.0, 'images_per_second': 5.0}
    >>> row = {**costs, 'seed': 0, 'clean': 0.75, 'pgd': 0.5}
    >>> row |= {'teraflops_per_second': None, 'peak_mib': None}
    >>> print(markdown([row], ['pgd'], 0.45).splitlines()[-1])
    | 0 | 2.00 | 4.000 | 5 | n/a | n/a | 2.0 | 75.00 % | 50.00 % | yes |
  """
  columns = {
    's': ('train_seconds', '{:.2f}'),
    'ms per step': ('step_milliseconds', '{:.3f}'),
    'images/s': ('images_per_second', '{:,.0f}'),
    'TFLOP/s': ('teraflops_per_second', '{:.2f}'),
    'peak MiB': ('peak_mib', '{:,.0f}'),
    'compiling, s': ('compile_seconds', '{:.1f}'),
    'clean': ('clean', '{:.2%}'),
    **{name: (name, '{:.2%}') for name in attacks},
  }
  lines = []
  for row in rows:
    cells = [_write(row[key], form) for key, form in columns.values()]
    reached = 'yes' if row[attacks[0]] >= target else 'no'
    lines.append([str(row['seed']), *cells, reached])
  if len(rows) > 1:
    for name, summary in (
      ('mean', statistics.fmean),
      ('std', statistics.stdev),
    ):
      cells = []
      for key, form in columns.values():
        values = [row[key] for row in rows]
        known = None not in values
        cells.append(_write(summary(values) if known else None, form))
      lines.append([name, *cells, ''])
  header = ['seed', *columns, f'{100 * target:g} % reached']
  lines = [header, ['---'] * len(header), *lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _write(value: float | None, form: str) -> str:
  text = 'n/a' if value is None else form.format(value)
  return text.replace('%', ' %')
