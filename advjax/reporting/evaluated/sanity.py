"""What was checked, as a table: what is suspicious first."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from advjax.reporting import page

STYLE = """
.sanity td, .sanity th[scope=row] { text-align: left; vertical-align: top;
  white-space: normal; }
.sanity thead th { text-align: left; }
.sanity thead th:first-child { padding-left: 0; }
.sanity td:last-child { min-width: 22rem; }
.sanity th[scope=row] { min-width: 9rem; }
.sanity .verdict { white-space: nowrap; }
.sanity .suspicious { color: var(--alarm); font-weight: 600; }
@media (max-width: 40rem) {
  .sanity th, .sanity td { padding: .3rem .4rem; }
  .sanity th[scope=row] { min-width: 6rem; }
  .sanity td:last-child { min-width: 14rem; } }
"""

_MAX_ROWS = 16
_VERDICTS = {False: 'suspicious', None: 'not decided', True: 'passed'}
_ORDER = (False, None, True)

Finding = Mapping[str, Any]


def sanity_html(findings: Sequence[Finding], *, fold: bool = False) -> str:
  """Returns all findings; where they are many, those that passed folded.

  Args:
    findings: From `sanity_findings`.
    fold: Whether to fold them even if they are few.

  Returns:
    A sentence and one table or more, every text escaped; '' for no findings.
  """
  if not findings:
    return ''
  groups = {
    passed: [each for each in findings if each['passed'] is passed]
    for passed in _ORDER
  }
  parts = [f'<p>{escape(sanity_line(findings))}</p>']
  if len(findings) <= _MAX_ROWS and not fold:
    ranked = [each for passed in _ORDER for each in groups[passed]]
    return '\n'.join([*parts, _table(ranked, 'Checks')])
  if groups[False]:
    parts.append(_table(groups[False], 'Suspicious'))
  for passed in (None, True):
    count = len(groups[passed])
    if count:
      many = f'{count} check{"" if count == 1 else "s"}'
      could = 'could not be decided' if passed is None else 'passed'
      table = _table(groups[passed], _VERDICTS[passed].capitalize())
      parts.append(
        f'<details><summary>{many} {could}</summary>{table}</details>'
      )
  return '\n'.join(parts)


def sanity_line(findings: Sequence[Finding]) -> str:
  """Returns what came of all checks, in a sentence.

  Example:
    >>> sanity_line([{'passed': True}, {'passed': None}])
    'Nothing is suspicious in 2 checks; 1 could not be decided.'
  """
  counts = [
    sum(each['passed'] is passed for each in findings) for passed in _ORDER
  ]
  suspicious, undecided, _ = counts
  total = f'{len(findings)} check{"" if len(findings) == 1 else "s"}'
  text = f'Nothing is suspicious in {total}'
  if suspicious:
    text = f'{suspicious} of {total} found something suspicious'
  return (
    f'{text}; {undecided} could not be decided.' if undecided else f'{text}.'
  )


def _table(findings: Sequence[Finding], label: str) -> str:
  lines = []
  for each in findings:
    verdict = _VERDICTS[each['passed']]
    mark = ' suspicious' if each['passed'] is False else ''
    lines.append(
      f'<tr><th scope="row">{escape(str(each["check"]))}</th>'
      f'<td>{escape(str(each["member"]))}</td>'
      f'<td class="verdict{mark}">{verdict}</td>'
      f'<td>{escape(str(each["detail"]))}</td></tr>'
    )
  heads = ''.join(
    f'<th scope="col">{head}</th>'
    for head in ('check', 'member', 'verdict', 'what was seen')
  )
  listed = '\n'.join(lines)
  table = (
    f'<table class="sanity"><thead><tr>{heads}</tr></thead>\n<tbody>\n{listed}'
    '\n</tbody></table>'
  )
  return page.scroll(table, label)
