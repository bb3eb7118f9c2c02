"""AutoAttack: what each of its attacks leaves, and what it costs."""

from collections.abc import Iterator
from typing import Any

from advjax.reporting.tables import Row
from advjax.reporting.values import (
  Report,
  attack_label,
  autoattack_runs,
  finite,
  percent,
)


def autoattack_steps(report: Report) -> list[Row]:
  """Returns what each attack of AutoAttack did, run by run.

  Args:
    report: The content of report.json.

  Returns:
    Rows, the heads first; none where AutoAttack was not run.
  """
  heads = ('accuracy after it', 'fooled', 'seconds', 'forward', 'backward')
  rows = [Row('', heads)]
  for where, found in autoattack_runs(report).items():
    for name, entry in found.items():
      rows.append(Row(f'{name}: {where}'))
      clean = percent(entry.get('clean_accuracy'))
      rows.append(Row('  no attack', (clean, '', '', '', '')))
      attacks = entry.get('attacks', ())
      rows += [
        Row(
          f'  {attack_label(str(attack.get("name")), {})}',
          (
            percent(attack.get('accuracy')),
            _number(attack.get('fooled')),
            _number(attack.get('seconds'), 1),
            _number(attack.get('forward')),
            _number(attack.get('backward')),
          ),
        )
        for attack in attacks
      ]
      if len(attacks) > 1:
        sums = (_sum(attacks, key) for key in ('fooled', 'seconds'))
        passes = (_sum(attacks, key) for key in ('forward', 'backward'))
        fooled, seconds = sums
        cells = (
          percent(entry.get('accuracy')),
          _number(fooled),
          _number(seconds, 1),
          *(_number(count) for count in passes),
        )
        rows.append(Row('  together', cells))
  return rows if len(rows) > 1 else []


def autoattack_lines(report: Report) -> Iterator[str]:
  """Yields a line for the terminal per ball, with all members in it."""
  for where, found in autoattack_runs(report).items():
    listed = []
    for name, entry in found.items():
      seconds = _sum(entry.get('attacks', ()), 'seconds')
      took = '' if seconds is None else f' in {seconds:,.1f} s'
      listed.append(f'{name} {percent(entry.get("accuracy"))}{took}')
    yield f'AutoAttack {where}: {", ".join(listed)}'


def _sum(attacks: Any, key: str) -> float | None:
  numbers = [finite(attack.get(key)) for attack in attacks]
  known = [number for number in numbers if number is not None]
  return sum(known) if known else None


def _number(value: object, digits: int = 0) -> str:
  number = finite(value)
  return 'n/a' if number is None else f'{number:,.{digits}f}'
