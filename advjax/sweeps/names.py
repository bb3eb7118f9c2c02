"""Names of members: short, the same in every sweep, and good for folders."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# File systems take 255 bytes, and a suffix or two has to fit in as well.
_MAX_LENGTH = 200


def member_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns a name for each member of a sweep: what it sets.

  A name says the last part of each field (the whole name where two would end
  alike) and a short form of the value, the fields in alphabetical order but
  for the seed, which comes last. It depends neither on the order in which the
  sweep has the fields nor on the other members, so that a sweep with more
  values or turned round finds those it had; only values whose short forms look
  alike are written in full.

  Args:
    rows: What each member sets; the same fields in all, no two rows alike.

  Returns:
    The names, unique also where a file system takes A for a.

  Example:
    >>> member_names([{'seed': 0, 'hparams.epsilon': 0.1}])
    ['epsilon=0.1,seed=0']
  """
  fields = sorted(rows[0], key=lambda field: (field == 'seed', field))
  ends = Counter(field.rpartition('.')[2] for field in fields)
  labels = {field: field.rpartition('.')[2] for field in fields}
  labels |= {f: f for f, label in labels.items() if ends[label] > 1}
  texts = {field: _texts([row[field] for row in rows]) for field in fields}
  return [
    _cut(','.join(f'{labels[f]}={texts[f][index]}' for f in fields))
    for index in range(len(rows))
  ]


def _texts(values: Sequence[Any]) -> list[str]:
  """Short forms of a field's values; full ones where two look alike."""
  different = {repr(value): _short(value).casefold() for value in values}
  counts = Counter(different.values())
  return [
    _short(value) if counts[_short(value).casefold()] == 1 else _full(value)
    for value in values
  ]


def _short(value: Any) -> str:
  if isinstance(value, tuple):
    return '-'.join(_short(item) for item in value) or 'none'
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f'{value:.6g}'
  return re.sub(r'[^A-Za-z0-9_.+-]', '-', str(value))


def _full(value: Any) -> str:
  if isinstance(value, float):
    return repr(value)
  return f'{_short(value)}-{_digest(repr(value))}'


def _cut(name: str) -> str:
  if len(name) <= _MAX_LENGTH:
    return name
  return f'{name[:_MAX_LENGTH]}-{_digest(name)}'


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:8]
