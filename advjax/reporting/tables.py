"""Tables for the terminal and for the page."""

import html
from collections.abc import Sequence
from typing import NamedTuple

_MAX_WIDTH = 100


class Row(NamedTuple):
  """A line of the table.

  Attributes:
    label: what the line shows; indented by two spaces under a heading.
    cells: one text per member; empty for a heading.
  """

  label: str
  cells: tuple[str, ...] = ()


def format_text(rows: Sequence[Row]) -> str:
  """Returns the table for a terminal, in blocks of at most 100 columns.

  Members that do not fit beside each other follow in a block below.

  Args:
    rows: what `results_table` returns.

  Returns:
    Lines without a newline at the end.

  Example:
    >>> print(format_text([Row('', ('base',)), Row('clean', ('98.6 %',))]))
             base
    -------------
    clean  98.6 %
  """
  first = max(len(row.label) for row in rows if row.cells)
  widest = max(len(cell) for row in rows for cell in row.cells)
  count = max(1, (_MAX_WIDTH - first) // (widest + 2))
  blocks = []
  for start in range(0, len(rows[0].cells), count):
    columns = slice(start, start + count)
    block = [Row(row.label, row.cells[columns]) for row in rows]
    blocks.append(_text_block(block, first))
  return '\n\n'.join(blocks)


def _text_block(rows: Sequence[Row], first: int) -> str:
  widths = [
    max(len(row.cells[i]) for row in rows if row.cells)
    for i in range(len(rows[0].cells))
  ]
  lines = []
  for row in rows:
    line = row.label.ljust(first)
    for cell, width in zip(row.cells, widths, strict=False):
      line += '  ' + cell.rjust(width)
    lines.append(line.rstrip())
  lines.insert(1, '-' * (first + sum(widths) + 2 * len(widths)))
  return '\n'.join(lines)


def format_html(rows: Sequence[Row]) -> str:
  """Returns the table as an HTML fragment, every text escaped.

  Args:
    rows: what `results_table` returns.

  Returns:
    A `<table>` element whose first row and column are headers.
  """
  names = ''.join(
    f'<th scope="col">{html.escape(name)}</th>' for name in rows[0].cells
  )
  lines = [f'<thead><tr><td></td>{names}</tr></thead>', '<tbody>']
  for row in rows[1:]:
    label = html.escape(row.label.strip())
    if not row.cells:
      span = len(rows[0].cells) + 1
      lines.append(
        f'<tr class="group"><th scope="rowgroup" colspan="{span}">{label}</th>'
        '</tr>'
      )
      continue
    nested = ' class="nested"' if row.label.startswith(' ') else ''
    cells = ''.join(f'<td>{_cell_html(cell)}</td>' for cell in row.cells)
    lines.append(f'<tr><th scope="row"{nested}>{label}</th>{cells}</tr>')
  return '\n'.join(['<table>', *lines, '</tbody>', '</table>'])


def _cell_html(cell: str) -> str:
  """Sets the interval of a cell in smaller print."""
  value, bracket, ends = html.escape(cell).partition(' [')
  return f'{value} <small>[{ends}</small>' if bracket else value
