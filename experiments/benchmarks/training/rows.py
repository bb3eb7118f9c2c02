"""Rows of the table of training steps, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.floor import Rates, Work
from experiments.benchmarks.tables import markdown
from experiments.benchmarks.turns import compared, spread

OURS = 'advjax'
FLOOR = 'floor'


def make_rows(
  seconds: Mapping[str, Sequence[float]],
  objective: str,
  batch_size: int,
  work: Work,
  rates: Rates,
) -> list[dict[str, Any]]:
  """Makes a row per variant, and one of the floor.

  Args:
    seconds: Of a step, of every round by variant; ours is named OURS.
    objective: For the rows.
    batch_size: Images of a step.
    work: The least of a step.
    rates: Of the machine.

  Returns:
    Dicts of JSON. `times_as_fast` is how many of our steps go into one of
    theirs: the median over rounds of the ratio within a round.

  Example:
    >>> rows = make_rows(
    ...   {'advjax': [0.001, 0.002], 'other': [0.004, 0.008]},
    ...   'standard',
    ...   32,
    ...   Work(1e8, 1e6),
    ...   Rates(2e11, 1e10),
    ... )
    >>> [(row['name'], row['times_as_fast']) for row in rows]
    [('advjax', 1.0), ('other', 4.0), ('floor', 0.333)]
  """
  ours = seconds[OURS]
  rows = []
  for name, values in seconds.items():
    rows.append(
      {
        'objective': objective,
        'batch_size': batch_size,
        'name': name,
        **compared(values, ours, batch_size),
      }
    )
  floor = work.seconds(rates)
  rows.append(
    {
      'objective': objective,
      'batch_size': batch_size,
      'name': FLOOR,
      'milliseconds': 1e3 * floor,
      'images_per_second': batch_size / floor,
      'times_as_fast': floor / spread(ours).median,
      'flops': work.flops,
      'bytes': work.bytes,
      'bound': 'operations'
      if work.flops / rates.flops >= work.bytes / rates.bytes
      else 'bytes',
    }
  )
  return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the rows as a table in Markdown.

  Args:
    rows: Of `make_rows`.

  Returns:
    The lines.
  """
  header = ['objective', 'batch', '', 'ms per step', 'quartiles', 'images/s']
  header += ['ours is times as fast']
  return markdown(
    header,
    [
      [
        row['objective'],
        row['batch_size'],
        row['name'],
        f'{row["milliseconds"]:.2f}',
        ' to '.join(f'{x:.2f}' for x in row['quartiles'])
        if 'quartiles' in row
        else None,
        f'{row["images_per_second"]:.0f}',
        f'{row["times_as_fast"]:.2f}',
      ]
      for row in rows
    ],
  )
