"""Tables in Markdown, as every comparison prints them."""

import statistics
from collections.abc import Sequence
from typing import Any


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Returns a table in Markdown.

  Args:
    header: Titles of the columns.
    rows: Cells: text, numbers, or None for what there is not.

  Returns:
    The lines of the table.

  Example:
    >>> print(markdown(['option', 'loss'], [['l2', 1.25e-7], ['l1', None]]))
    | option | loss |
    | --- | --- |
    | l2 | 1.2e-07 |
    | l1 | |
  """

  def line(cells: Sequence[Any]) -> str:
    texts = [_cell(cell) for cell in cells]
    return '|' + '|'.join(f' {text} ' if text else ' ' for text in texts) + '|'

  return '\n'.join(
    [line(header), line(['---'] * len(header)), *map(line, rows)]
  )


def _cell(value: Any) -> str:
  if value is None:
    return ''
  if isinstance(value, float):
    return '0' if value == 0 else f'{value:.1e}'
  return str(value)


def mean_and_std(values: Sequence[float], digits: int = 4) -> str:
  """Writes a mean and the sample standard deviation.

  Args:
    values: One number per seed.
    digits: After the point.

  Returns:
    The text; of one number, the number.

  Example:
    >>> mean_and_std([0.5, 0.7])
    '0.6000 ± 0.1414'
  """
  mean = f'{statistics.fmean(values):.{digits}f}'
  if len(values) == 1:
    return mean
  return f'{mean} ± {statistics.stdev(values):.{digits}f}'
