"""The results table of a report, for the terminal and for the page."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from advjax.reporting.sanity.scores import score_of
from advjax.reporting.values import (
  Interval,
  Report,
  attack_label,
  attacks_of,
  autoattack_runs,
  entry_of,
  finite,
  interval_of,
  is_evaluated,
  members_of,
  percent,
  short,
  top_k_of,
  transfer_of,
)

_MAX_WIDTH = 100


class Row(NamedTuple):
  """A line of the table.

  Attributes:
    label: what the line shows; indented by two spaces under a heading.
    cells: one text per member; empty for a heading.
  """

  label: str
  cells: tuple[str, ...] = ()


def results_table(report: Report) -> tuple[Row, ...]:
  """Returns the results as rows, a column per member, the names first.

  A column belongs to the member that is scored; under each attack the lines say
  on whose gradients the images were made: its own (white box) or those of
  another member (transfer). An evaluation has AutoAttack, and transfer apart.

  Args:
    report: the content of report.json.

  Returns:
    The rows; the first holds the names of the members.
  """
  members = members_of(report)
  rows = [Row('', tuple(members))]
  rows += _simple_row('parameters', members, 'num_params', _integer)
  k = top_k_of(report)
  rows += [
    Row(label, tuple(accuracy_text(member, key) for member in members.values()))
    for label, key in (
      ('clean accuracy', 'clean_accuracy'),
      *([(f'  top-{k}', 'clean_top_k_accuracy')] if k else ()),
    )
  ]
  rows += _test_losses(members)
  rows += _evaluated(report) if is_evaluated(report) else _attacked(report)
  if any(finite(m.get('train_seconds')) is not None for m in members.values()):
    rows.append(Row('time'))
  rows += _simple_row('  training', members, 'train_seconds', _seconds)
  rows += _simple_row(
    '  per training step', members, 'step_milliseconds', _milliseconds
  )
  return tuple(rows)


def _attacked(report: Report) -> Iterator[Row]:
  """Yields white box and transfer under each attack, also of the top k."""
  members = members_of(report)
  k = top_k_of(report)
  endings = {'': '', **({'_top_k': f', top-{k}'} if k else {})}
  for attack, sample in attacks_of(report).items():
    yield Row(_attack_heading(attack, sample))
    entries = [entry_of(report, name, attack) or {} for name in members]
    for ending, top in endings.items():
      own = (accuracy_text(entry, f'white_box{ending}') for entry in entries)
      yield Row(f'  white box{top}', tuple(own))
      for source, entry in zip(members, entries, strict=True):
        if entry.get('transfer'):
          cells = (transfer_text(entry, source, t, ending) for t in members)
          yield Row(f'  transfer from {source}{top}', tuple(cells))


def _evaluated(report: Report) -> Iterator[Row]:
  """Yields white box alone, a line per attack, and AutoAttack."""
  members = members_of(report)
  runs = autoattack_runs(report)
  attacks = {
    attack: sample
    for attack, sample in attacks_of(report).items()
    if not (runs and attack.startswith('autoattack'))  # It follows.
  }
  if attacks:
    yield Row('white box')
  for attack, sample in attacks.items():
    entries = [entry_of(report, name, attack) or {} for name in members]
    cells = tuple(accuracy_text(entry, 'white_box') for entry in entries)
    heading = _attack_heading(attack, {**sample, 'step_size': None})
    yield Row(f'  {heading}', cells)
  if runs:
    yield Row('AutoAttack')
  for where, found in runs.items():
    scores = (
      score_of(report, found.get(name, {}), 'accuracy') for name in members
    )
    cells = tuple(
      _with_interval(score and score.value, score and score[1:], None)
      for score in scores
    )
    yield Row(f'  {where}', cells)


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


def _attack_heading(attack: str, sample: Mapping[str, Any]) -> str:
  parts = [attack_label(attack, sample)]
  epsilon = finite(sample.get('epsilon'))
  if epsilon is not None:
    parts.append(f'epsilon {short(epsilon)}')
  step_size = finite(sample.get('step_size'))
  if step_size is not None and step_size != epsilon:
    parts.append(f'step size {short(step_size)}')
  if sample.get('norm'):
    parts.append(str(sample['norm']))
  if 'bounds' in sample and sample['bounds'] is None:
    parts.append('not clipped to the pixel range')
  return ', '.join(parts)


def accuracy_text(entry: Mapping[str, Any], name: str) -> str:
  """Writes `entry[name]` as '98.6 ± 0.4 % [96.8, 99.4]'."""
  std = finite(entry.get(f'{name}_std'))
  return _with_interval(entry.get(name), interval_of(entry, name), std)


def transfer_text(
  entry: Mapping[str, Any], source: str, target: str, ending: str = ''
) -> str:
  """Writes the target's accuracy on the images of source, a dash for its own.

  Args:
    entry: Of the attack on source.
    source: The member that the images were made on.
    target: The member that is scored.
    ending: '_top_k' for the accuracy in the top k.
  """
  if source == target:
    return '-'
  value, ends = transfer_of(entry, target, ending)
  std = finite(entry.get(f'transfer{ending}_std', {}).get(target))
  return _with_interval(value, ends, std)


def _with_interval(
  value: object, ends: Interval | None, std: float | None
) -> str:
  text = percent(value)
  if finite(value) is None:
    return text
  if std is not None:
    text = f'{text.removesuffix(" %")} ± {100 * std:.1f} %'
  if ends is not None:
    text += f' [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]'
  return text


def _test_losses(members: Mapping[str, Mapping[str, Any]]) -> list[Row]:
  """Returns the test loss and its parts, for the members that have them."""
  tests = [member.get('test', {}) for member in members.values()]
  if all(finite(test.get('loss')) is None for test in tests):
    return []
  rows = [Row('test loss', tuple(_loss(test, 'loss') for test in tests))]
  # Objectives that add a second term to the clean loss say what it is scaled.
  for term in ('adversarial_loss', 'virtual_adversarial_loss'):
    has_term = [
      finite(test.get(f'scaled_{term}')) is not None for test in tests
    ]
    if not any(has_term):
      continue
    name = term.removesuffix('_loss').replace('_', ' ')
    for label, key in (
      ('  clean', 'clean_loss'),
      (f'  {name}', term),
      (f'  {name} x multiplier', f'scaled_{term}'),
    ):
      cells = [
        _loss(test, key) if has else '-'
        for test, has in zip(tests, has_term, strict=True)
      ]
      rows.append(Row(label, tuple(cells)))
  return rows


def _loss(test: Mapping[str, Any], key: str) -> str:
  value, std = finite(test.get(key)), finite(test.get(f'{key}_std'))
  if value is None:
    return 'n/a'
  return f'{value:.4f}' if std is None else f'{value:.4f} ± {std:.4f}'


def _simple_row(
  label: str,
  members: Mapping[str, Mapping[str, Any]],
  key: str,
  write: Any,
) -> list[Row]:
  """Returns one row, or none if no member has the key."""
  values = [finite(member.get(key)) for member in members.values()]
  if all(value is None for value in values):
    return []
  return [Row(label, tuple('n/a' if v is None else write(v) for v in values))]


def _integer(value: float) -> str:
  return f'{value:,.0f}'


def _seconds(value: float) -> str:
  return f'{value:,.1f} s'


def _milliseconds(value: float) -> str:
  return f'{value:,.2f} ms'
