"""Tables whose cells are coloured by accuracy, readable without colours."""

from collections.abc import Sequence
from html import escape

from matplotlib import colormaps
from matplotlib.colors import to_hex

from advjax.reporting.values import finite

STYLE = """
.maps { display: flex; flex-wrap: wrap; gap: .5rem 2rem; }
.maps .scroll { max-width: 100%; }
.shaded caption { text-align: left; font-weight: 600; padding: .3rem 0; }
.shaded th { font-weight: normal; border: 0; padding: .2rem .5rem; }
.shaded th[scope=row] { padding-left: 0; }
.shaded thead th, .shaded thead td { font-weight: normal;
  color: var(--soft); text-align: center; }
.shaded thead td { border: 0; padding: .2rem .5rem .2rem 0;
  text-align: left; }
.shaded tbody td { min-width: 3rem; padding: .25rem .3rem;
  text-align: center; border: 2px solid var(--paper); }
.shaded .mark { outline: 2px solid; outline-offset: -4px; }
.shaded td.apart { border-left: 1rem solid var(--paper); }
.shaded th.apart { padding-left: 1.6rem; }
"""

_COLOURS = colormaps['viridis']


def shaded_table(
  caption: str,
  rows: Sequence[str],
  columns: Sequence[str],
  values: Sequence[Sequence[object]],
  *,
  corner: str = '',
  marked: Sequence[tuple[int, int]] = (),
  apart: int | None = None,
) -> str:
  """Returns a table of accuracies in per cent, its cells coloured by them.

  The colours go from 0 to 100 % in every table, so that tables compare.

  Args:
    caption: What the table shows.
    rows: Heads of the rows.
    columns: Heads of the columns.
    values: Fractions, a sequence per row; what is no number becomes a dash.
    corner: What the rows and columns are.
    marked: (row, column) of the cells to frame.
    apart: The column that is set apart from those before it.

  Returns:
    A `<table>` element, every text escaped.

  Example:
    >>> table = shaded_table('Accuracy', ['base'], ['clean'], [[1.0]])
    >>> '<td style="background:#fde725;color:#000">100.0</td>' in table
    True
  """
  heads = ''.join(
    f'<th scope="col"{_apart(i, apart)}>{escape(column)}</th>'
    for i, column in enumerate(columns)
  )
  lines = [
    '<table class="shaded">',
    f'<caption>{escape(caption)}</caption>',
    f'<thead><tr><td>{escape(corner)}</td>{heads}</tr></thead>',
    '<tbody>',
  ]
  for i, (row, cells) in enumerate(zip(rows, values, strict=True)):
    written = ''.join(
      _cell(cell, (i, j) in marked, _apart(j, apart))
      for j, cell in enumerate(cells)
    )
    lines.append(f'<tr><th scope="row">{escape(row)}</th>{written}</tr>')
  return '\n'.join([*lines, '</tbody>', '</table>'])


def _apart(column: int, apart: int | None) -> str:
  return ' class="apart"' if column == apart else ''


def _cell(value: object, marked: bool, kind: str) -> str:
  number = finite(value)
  kind = ' class="mark"' if marked else kind
  if number is None:
    return f'<td{kind}>-</td>'
  red, green, blue, _ = _COLOURS(min(1.0, max(0.0, number)))
  # Black on bright cells, white on dark ones.
  ink = '#000' if 0.299 * red + 0.587 * green + 0.114 * blue > 0.4 else '#fff'
  style = f'background:{to_hex((red, green, blue))};color:{ink}'
  return f'<td{kind} style="{style}">{100 * number:.1f}</td>'


def side_by_side(tables: Sequence[str], label: str) -> str:
  """Returns tables beside each other as far as the page is wide.

  Args:
    tables: `<table>` elements.
    label: What they are, for those who cannot see it.
  """
  scrolled = '\n'.join(
    f'<div class="scroll" role="region" tabindex="0" '
    f'aria-label="{escape(label)} {number}">{table}</div>'
    for number, table in enumerate(tables, 1)
  )
  return f'<div class="maps">\n{scrolled}\n</div>'
