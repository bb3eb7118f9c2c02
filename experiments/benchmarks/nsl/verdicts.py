"""What counts as agreement between NSL and us, and what does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.nsl.table import over

TOLERANCE = 1e-5
# Rounding may decide the sign where a gradient is next to nothing, and there
# alone: so many pixels, and so much of the example's largest gradient.
_FLIPS = {'share': 1e-3, 'gradient': 1e-4}
_STANDARD_ERRORS = 5.0


def judge(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """The quantities over the tolerance, and those that are NSL's own rounding.

  These are within the tolerance of NSL's results in float64.
  """
  judged = {
    name: value
    for name, value in row['quantities'].items()
    if name not in row.get('not_judged', ())
  }
  to_float64 = row.get('to_float64', {})
  bad: list[str] = []
  rounding: list[str] = []
  for name in over(judged, TOLERANCE):
    explained = to_float64.get(name, np.inf) <= TOLERANCE
    (rounding if explained else bad).append(name)
  return bad, rounding


def failures(
  rows: Sequence[Mapping[str, Any]], draws: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
  """Returns a line for everything that does not agree.

  In float32 a quantity also passes that is within the tolerance of what NSL
  gives in float64: what is apart then is NSL's rounding.

  Args:
    rows: From `compare_case` and `compare_decay`.
    draws: From `compare_draws`.

  Returns:
    Lines that name the option, the dtype and the quantities.

  Example:
    >>> row = {'name': 'a', 'dtype': 'float32', 'quantities': {'loss': 1e-3}}
    >>> failures([row])
    ['over 1e-05: a (float32): loss 1.0e-03']
    >>> failures([row | {'to_float64': {'loss': 1e-7}}])
    []
  """
  lines = []
  for row in rows:
    bad, _ = judge(row)
    label = f'{row["name"]} ({row["dtype"]})'
    if bad:
      named = ', '.join(f'{name} {row["quantities"][name]:.1e}' for name in bad)
      lines.append(f'over {TOLERANCE:g}: {label}: {named}')
    flips = row.get('flips') or {}
    if any(not flips[what] <= most for what, most in _FLIPS.items() if flips):
      lines.append(
        f'flips: {label}: {flips["share"]:.1e} of the pixels, with gradients '
        f'up to {flips["gradient"]:.1e} of the largest'
      )
  lines += [
    f'random start, {draw["norm"]}: the mean {draw["mean"]} is '
    f'{draw["standard_errors"]:.1f} standard errors apart'
    for draw in draws
    if not draw['standard_errors'] <= _STANDARD_ERRORS
  ]
  return lines
