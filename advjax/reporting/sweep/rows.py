"""The rows of a sweep as files: results.csv and results.jsonl."""

import csv
import io
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from advjax.files import replacing
from advjax.reporting.values import Report


def write_rows(workdir: pathlib.Path, report: Report) -> None:
  """Writes results.csv and results.jsonl, one line per member that is done.

  Both files hold every column that any row has, in the order of the rows.
  Numbers that are not finite, and columns that a row has not, are empty in the
  CSV and null in the JSON lines; lists, mappings and truth values are JSON in
  the CSV. Each file appears whole or not at all.

  Args:
    workdir: The sweep's folder.
    report: The content of sweep.json.
  """
  rows = [strict(row) for row in report.get('rows', ())]
  columns = columns_of(rows)
  lines = [
    json.dumps({name: row.get(name) for name in columns}) for row in rows
  ]
  text = ''.join(f'{line}\n' for line in lines)
  with replacing(workdir / 'results.jsonl') as file:
    file.write(text.encode())
  table = io.StringIO()
  writer = csv.writer(table, lineterminator='\n')
  writer.writerow(columns)
  for row in rows:
    writer.writerow(_cell(row.get(name)) for name in columns)
  with replacing(workdir / 'results.csv') as file:
    file.write(table.getvalue().encode())


def columns_of(rows: list[Mapping[str, Any]]) -> list[str]:
  """Returns the keys of all rows, each once, in the order they appear in.

  Example:
    >>> columns_of([{'a': 1, 'b': 2}, {'b': 3, 'c': 4}])
    ['a', 'b', 'c']
  """
  return list(dict.fromkeys(name for row in rows for name in row))


def strict(value: Any) -> Any:
  """Returns the value as strict JSON can hold it: no NaN, no infinity.

  Example:
    >>> strict({'loss': float('nan'), 'epsilons': (0.1, 0.2)})
    {'loss': None, 'epsilons': [0.1, 0.2]}
  """
  if isinstance(value, Mapping):
    return {str(name): strict(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [strict(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _cell(value: Any) -> Any:
  return json.dumps(value) if isinstance(value, bool | list | dict) else value
