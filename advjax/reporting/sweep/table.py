"""The members of a sweep as a table: one to sort on the page, one to print."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from advjax.reporting.sweep.settings import frozen, short_names, tick_labels
from advjax.reporting.values import Report, attack_label, finite, percent

_MAX_LINES = 20
_MAX_CELL = 28  # Characters, in the terminal.

STYLE = """
.members th button { all: unset; font-weight: 600; }
.members th button:not(:disabled) { cursor: pointer; }
.members th button:focus-visible { outline: 2px solid currentColor; }
.members th[aria-sort=ascending] button::after { content: ' \\2191'; }
.members th[aria-sort=descending] button::after { content: ' \\2193'; }
.members th, .members td { padding: .25rem .6rem; }
.members .text { text-align: left; }
.members .best th, .members .best td { background: var(--panel);
  font-weight: 600; }
#best { white-space: pre-wrap; overflow-wrap: anywhere; }
"""

# A cell's own value is in data-value, so that what is shown may be longer. An
# empty one comes last, upwards and downwards.
SCRIPT = """
for (const table of document.querySelectorAll('table.members')) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const valueOf = (row, i) => row.cells[i].dataset.value;
  heads.forEach((head, i) => {
    const button = head.querySelector('button');
    button.disabled = false;
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rows = [...body.rows];
      const full = rows.filter((row) => valueOf(row, i) !== '');
      const empty = rows.filter((row) => valueOf(row, i) === '');
      const numbers = full.every((row) => !isNaN(Number(valueOf(row, i))));
      full.sort((a, b) => {
        const [x, y] = [valueOf(a, i), valueOf(b, i)];
        const order = numbers ? x - y : x.localeCompare(y);
        return up ? order : -order;
      });
      body.append(...full, ...empty);
    });
  });
}
"""

Row = Mapping[str, Any]


class _Column(NamedTuple):
  """A column of the page's table; `write` returns HTML."""

  head: str
  value: Callable[[Row], Any]
  write: Callable[[Row], str]
  text: bool = False


def members_html(report: Report, best: Row | None = None) -> str:
  """Returns all rows as a table whose heads are buttons that sort it.

  Without `SCRIPT` it is a plain table and its buttons do nothing.

  Args:
    report: the content of sweep.json.
    best: the row to set off, or None.

  Returns:
    A `<table>` element, every text escaped.
  """
  columns = list(_columns(report))
  heads = ''.join(
    f'<th scope="col"{_text_class(column)}><button type="button" disabled>'
    f'{escape(column.head)}</button></th>'
    for column in columns
  )
  lines = []
  for number, row in enumerate(report['rows'], 1):
    cells = f'<th scope="row" data-value="{number}">{number}</th>' + ''.join(
      f'<td{_text_class(column)} data-value="{_key(column.value(row))}">'
      f'{column.write(row)}</td>'
      for column in columns
    )
    mark = ' class="best"' if row is best else ''
    lines.append(f'<tr{mark}>{cells}</tr>')
  return '\n'.join(
    [
      '<table class="members">',
      '<thead><tr><th scope="col"><button type="button" disabled>#</button>'
      f'</th>{heads}</tr></thead>',
      '<tbody>',
      *lines,
      '</tbody>',
      '</table>',
    ]
  )


def members_text(report: Report) -> str:
  """Returns the members as an aligned table for a terminal, the best first.

  Args:
    report: the content of sweep.json.

  Returns:
    At most 20 members, those without a robust accuracy last, and a line that
    counts the others.
  """
  ranked = sorted(report['rows'], key=_rank)
  shown = ranked[:_MAX_LINES]
  fields = _field_texts(report)
  attacks = list(report['attacks'])
  heads = [attack_label(attack, {}) for attack in attacks]
  lines = [[*fields, 'clean', 'robust', *heads, 'train']]
  for row in shown:
    at = next(i for i, each in enumerate(report['rows']) if each is row)
    cells = [_cut(texts[at]) for texts in fields.values()]
    if finite(row.get('robust_accuracy')) is None:
      cells += ['', str(row.get('status') or 'n/a'), *([''] * len(attacks))]
    else:
      cells += [
        percent(row.get(name))
        for name in ('clean_accuracy', 'robust_accuracy', *attacks)
      ]
    seconds = finite(row.get('train_seconds'))
    lines.append([*cells, '' if seconds is None else f'{seconds:.1f} s'])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  texts = [
    '  '.join(
      cell.rjust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in lines
  ]
  texts.insert(1, '-' * (sum(widths) + 2 * (len(widths) - 1)))
  more = len(ranked) - len(shown)
  if more:
    texts.append(
      f'and {more} more member{"s" if more > 1 else ""} in results.csv'
    )
  return '\n'.join(texts)


def _columns(report: Report) -> Iterator[_Column]:
  """Yields the columns after the number; those that nobody fills are left out.

  A row's command is not among them: it is long, and stands in results.csv.
  """
  rows = report['rows']
  names = short_names(report['fields'])
  for field in report['fields']:
    yield _field_column(field, names[field], rows)
  yield _accuracy_column('clean_accuracy', 'clean')
  yield _accuracy_column('robust_accuracy', 'robust')
  for attack in report['attacks']:
    yield _accuracy_column(attack, attack_label(attack, {}))
  columns = [
    _number_column('loss', 'loss', '.4f'),
    _number_column('train_seconds', 'training s', ',.1f'),
    _number_column('step_milliseconds', 'step ms', ',.2f'),
    _number_column('group', 'group', '.0f'),
    _text_column('status', _status),
    _text_column('warnings', _warnings),
    _text_column('member', lambda row: str(row['member'])),
    _text_column('folder', lambda row: str(row.get('folder') or '')),
  ]
  for column in columns:
    if any(column.write(row) for row in rows):
      yield column


def _field_column(field: str, head: str, rows: Sequence[Row]) -> _Column:
  values = [frozen(row.get(field)) for row in rows]
  ticks = dict(zip(values, tick_labels(values), strict=True))
  return _Column(
    head,
    lambda row: row.get(field),
    lambda row: escape(ticks[frozen(row.get(field))]),
    text=any(finite(value) is None for value in values),
  )


def _accuracy_column(name: str, head: str) -> _Column:
  return _Column(
    head, lambda row: finite(row.get(name)), lambda row: _accuracy(row, name)
  )


def _number_column(name: str, head: str, form: str) -> _Column:
  def write(row: Row) -> str:
    number = finite(row.get(name))
    return '' if number is None else f'{number:{form}}'

  return _Column(head, lambda row: finite(row.get(name)), write)


def _text_column(head: str, text_of: Callable[[Row], str]) -> _Column:
  return _Column(head, text_of, lambda row: escape(text_of(row)), text=True)


def _field_texts(report: Report) -> dict[str, list[str]]:
  """Returns the short name of each swept field, and its value in each row."""
  names = short_names(report['fields'])
  return {
    names[field]: tick_labels(
      [frozen(row.get(field)) for row in report['rows']]
    )
    for field in report['fields']
  }


def _rank(row: Row) -> tuple[bool, float, float]:
  robust = finite(row.get('robust_accuracy'))
  clean = finite(row.get('clean_accuracy'))
  return robust is None, -(robust or 0.0), -(clean or 0.0)


def _status(row: Row) -> str:
  status = str(row.get('status') or '')
  return f'{status}: {row["reason"]}' if row.get('reason') else status


def _warnings(row: Row) -> str:
  return '; '.join(map(str, row.get('warnings') or ()))


def _accuracy(row: Row, name: str) -> str:
  value = finite(row.get(name))
  if value is None:
    return ''
  text = f'{100 * value:.1f} %'
  low, high = finite(row.get(f'{name}_low')), finite(row.get(f'{name}_high'))
  if low is not None and high is not None:
    text += f' <small>[{100 * low:.1f}, {100 * high:.1f}]</small>'
  return text


def _key(value: Any) -> str:
  """Writes what a cell is sorted by, for an attribute."""
  return '' if value is None else escape(str(value))


def _cut(text: str) -> str:
  return text if len(text) <= _MAX_CELL else f'{text[: _MAX_CELL - 3]}...'


def _text_class(column: _Column) -> str:
  return ' class="text"' if column.text else ''
