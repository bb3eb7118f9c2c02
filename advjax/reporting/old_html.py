"""The page of a run: one HTML file that opens offline."""

import os
from collections.abc import Iterator, Sequence

from advjax.reporting import page
from advjax.reporting.evaluated.parts import STYLE, Part, section
from advjax.reporting.gallery import Picture
from advjax.reporting.sanity.findings import suspicions
from advjax.reporting.sentences import explain
from advjax.reporting.tables import format_html, results_table
from advjax.reporting.values import Report, is_evaluated, members_of


def write_report(
  path: str | os.PathLike[str],
  report: Report,
  pictures: Sequence[Picture] = (),
  title: str = 'Robustness report',
  parts: Sequence[Part] = (),
) -> None:
  """Writes the page of a run: self-contained, nothing loaded from elsewhere.

  Every part is left out that the report has nothing for: warnings, sentences,
  table, figures, how it was made (`command`, `config`) and where
  (`environment`). The file appears whole or not at all.

  Args:
    path: the file to write; its folder must be there.
    report: the content of report.json.
    pictures: the figures, in the order of the page.
    title: the heading.
    parts: what only an evaluation has, from `evaluated_parts`.
  """
  sections = [
    *_warnings(report),
    *_sentences(report),
    *_results(report),
    *(section(part) for part in parts),
    *page.figures_section(pictures),
    *page.origin_section(report),
  ]
  page.write_page(
    path, title, _facts(report), sections, style=STYLE if parts else ''
  )


def _facts(report: Report) -> list[str]:
  """One line under the title: data, seeds, date."""
  facts = page.dataset_facts(report)
  seeds = list(report.get('seeds', ()))
  if seeds:
    listed = ', '.join(str(seed) for seed in seeds)
    facts.append(f'seed{"s" if len(seeds) > 1 else ""} {listed}')
  date = report.get('environment', {}).get('date')
  if date:
    facts.append(str(date))
  return facts


def _warnings(report: Report) -> Iterator[str]:
  warnings = [str(text) for text in report.get('warnings', ())]
  for name, member in members_of(report).items():
    warnings += [f'{name}: {text}' for text in member.get('warnings', ())]
  warnings += suspicions(report.get('sanity', ()))
  yield from page.warnings_section(warnings)


def _sentences(report: Report) -> Iterator[str]:
  sentences = explain(report)
  if sentences:
    yield (
      '<section id="meaning"><h2>What the numbers mean</h2>'
      f'{page.text_list(sentences)}</section>'
    )


def _results(report: Report) -> Iterator[str]:
  if not members_of(report):
    return
  table = format_html(results_table(report))
  note = 'White box: images made with its own gradients.'
  if not is_evaluated(report):
    note += ' Transfer: images made for another member.'
  yield (
    '<section id="results"><h2>Results</h2>'
    f'{page.scroll(table, "Results")}'
    f'<p class="facts"><small>A column is the member that is scored. {note} In '
    'brackets: 95 % intervals (Wilson).</small></p></section>'
  )
