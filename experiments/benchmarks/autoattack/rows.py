"""Rounds of attacks, ours and theirs in turns, and who stands them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.tables import markdown

# (norm, attack) -> which images stand it, bool [N], and the seconds it took.
RunAttack = Callable[[str, str], tuple[np.ndarray, float]]


def compare_attacks(
  ours: RunAttack,
  theirs: RunAttack,
  norms: Sequence[str],
  attacks: Sequence[str],
  rounds: int,
) -> list[dict[str, Any]]:
  """Runs each attack on its own on all images, both sides in turns.

  Args:
    ours: Our side; a first call of each attack compiles and is not counted.
    theirs: The other side.
    norms: Of the attacks.
    attacks: Their names.
    rounds: How often each side runs each attack.

  Returns:
    A row per norm and attack, and one per norm for all attacks.
  """
  rows: list[dict[str, Any]] = []
  for norm in norms:
    own = []
    for attack in attacks:
      _, first = ours(norm, attack)
      stand: dict[str, np.ndarray] = {}
      seconds: dict[str, list[float]] = {'ours': [], 'theirs': []}
      for _ in range(rounds):
        for side, run in (('ours', ours), ('theirs', theirs)):
          stand[side], spent = run(norm, attack)
          seconds[side].append(spent)
      row: dict[str, Any] = {'norm': norm, 'attack': attack, 'stand': stand}
      for side, values in seconds.items():
        row[side] = {'seconds': statistics.median(values), 'rounds': values}
      row['compile_seconds'] = first - row['ours']['seconds']
      own.append(row)
    rows += [*own, together(own)]
  return [finished(row) for row in rows]


def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """All attacks of one norm, one after the other, each on all images.

  Args:
    rows: Their rows.

  Returns:
    A row with the sum of the seconds, and who stands all of them.
  """
  return {
    'norm': rows[0]['norm'],
    'attack': 'all',
    'stand': {
      side: np.all([row['stand'][side] for row in rows], axis=0)
      for side in ('ours', 'theirs')
    },
    'ours': {'seconds': sum(row['ours']['seconds'] for row in rows)},
    'theirs': {'seconds': sum(row['theirs']['seconds'] for row in rows)},
    'compile_seconds': sum(row['compile_seconds'] for row in rows),
  }


def finished(row: Mapping[str, Any]) -> dict[str, Any]:
  """Counts who stands, and how many times as fast we are; JSON from here on."""
  stand = row['stand']
  return {
    **row,
    'stand': {side: int(each.sum()) for side, each in stand.items()},
    'only_ours_stand': int((stand['ours'] & ~stand['theirs']).sum()),
    'times_as_fast': row['theirs']['seconds'] / row['ours']['seconds'],
  }


def attacks_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the attacks' rows as a table in Markdown.

  Args:
    rows: Of `compare_attacks`.

  Returns:
    The lines of the table.
  """
  header = ['norm', 'attack', 'standing: ours', 'theirs', 'only under ours']
  header += ['s: ours', 'theirs', 'times as fast', 's to compile']
  return markdown(
    header,
    [
      [
        row['norm'],
        row['attack'],
        row['stand']['ours'],
        row['stand']['theirs'],
        row['only_ours_stand'],
        f'{row["ours"]["seconds"]:.2f}',
        f'{row["theirs"]["seconds"]:.2f}',
        f'{row["times_as_fast"]:.2f}',
        f'{row["compile_seconds"]:.1f}',
      ]
      for row in rows
    ],
  )
