"""What a sweep leaves in its folder, written in one place."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from advjax.files import write_json
from advjax.reporting import page
from advjax.reporting.gallery import save_figures
from advjax.reporting.sweep import table, words
from advjax.reporting.sweep.figures import sweep_pictures
from advjax.reporting.sweep.rows import strict, write_rows
from advjax.reporting.sweep.settings import Setting, read_settings
from advjax.reporting.values import Report, finite


def write_sweep(workdir: pathlib.Path, report: Report) -> str:
  """Writes sweep.json, results.csv, results.jsonl, figures and report.html.

  Each file appears whole or not at all. The report may be of a sweep that is
  not done: the page then says what is pending.

  Args:
    workdir: The sweep's folder; it must be there.
    report: The content of sweep.json; numbers that are not finite become null.

  Returns:
    The text for the terminal: the members, the best one with the command that
    trains it alone, what the numbers mean, and the warnings.
  """
  report = strict(report)
  write_json(workdir / 'sweep.json', report)
  write_rows(workdir, report)
  settings = read_settings(report)
  pictures = sweep_pictures(report, settings)
  save_figures(pictures, workdir / 'figures')
  best = words.best_member(settings)
  sentences = words.explain_sweep(report, settings)
  warnings = words.sweep_warnings(report)
  sections = [
    *page.warnings_section(warnings),
    *_meaning(sentences, best, settings),
    *page.figures_section(pictures),
    *_members(report, best),
    *page.origin_section(report, _work(report)),
  ]
  date = report.get('environment', {}).get('date')
  facts = [*page.dataset_facts(report), *words.sweep_facts(report)]
  page.write_page(
    workdir / 'report.html',
    str(report.get('title') or 'Sweep'),
    [*facts, str(date)] if date else facts,
    sections,
    style=table.STYLE,
    script=table.SCRIPT,
  )
  return '\n'.join(_terminal(report, best, settings, sentences, warnings))


def _meaning(
  sentences: Sequence[str],
  best: Mapping[str, Any] | None,
  settings: Sequence[Setting],
) -> Iterator[str]:
  command = ''
  if best is not None and best.get('command'):
    command = (
      f'<p>To train the {_best_member(best, settings)} alone, '
      f'{escape(str(best["member"]))}:</p>\n'
      f'<pre id="best"><code>{escape(str(best["command"]))}</code></pre>'
    )
  yield (
    '<section id="meaning"><h2>What came of it</h2>'
    f'{page.text_list(sentences)}{command}</section>'
  )


def _best_member(best: Mapping[str, Any], settings: Sequence[Setting]) -> str:
  setting = next(each for each in settings if best in each.rows)
  if len(setting.rows) == 1:
    return 'best member'
  # Another seed of it may have done better, by luck.
  return 'best member (the first seed of the best setting)'


def _members(report: Report, best: Mapping[str, Any] | None) -> Iterator[str]:
  if not report['rows']:
    return
  listed = page.scroll(table.members_html(report, best), 'Members')
  yield (
    f'<section id="members"><h2>Members</h2>{listed}'
    '<p class="facts"><small>Click a head to sort by it, again to turn the '
    'order round. Robust: worst case over the attacks, image by image; beside '
    'it each attack alone, white box. In brackets: 95 % intervals (Wilson). '
    'The same rows are in results.csv and results.jsonl.</small></p></section>'
  )


def _work(report: Report) -> str:
  """Returns the groups that ran one after the other, HTML."""
  groups = report.get('groups', ())
  if not groups:
    return ''
  heads = ('group', 'members', 'how', 'chunks', 'seconds', 'compiles')
  lines = []
  for number, group in enumerate(groups):
    seconds = finite(group.get('seconds'))
    cells = (
      group.get('members', ''),
      group.get('how', ''),
      ', '.join(map(str, group.get('chunks', ()))),
      '' if seconds is None else f'{seconds:,.1f}',
      group.get('compiles', ''),
    )
    written = ''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)
    lines.append(f'<tr><th scope="row">{number}</th>{written}</tr>')
  head = ''.join(f'<th scope="col">{name}</th>' for name in heads)
  listed = '\n'.join(lines)
  return page.scroll(
    f'<table><thead><tr>{head}</tr></thead>\n<tbody>\n{listed}\n</tbody>'
    '</table>',
    'Groups',
  )


def _terminal(
  report: Report,
  best: Mapping[str, Any] | None,
  settings: Sequence[Setting],
  sentences: Sequence[str],
  warnings: Sequence[str],
) -> Iterator[str]:
  if report['rows']:
    yield table.members_text(report)
    yield ''
  if best is not None:
    yield f'{_best_member(best, settings)}: {best["member"]}'
    if best.get('command'):
      yield f'to train it alone: {best["command"]}'
    yield ''
  yield from sentences
  for warning in warnings:
    yield f'warning: {warning}'
