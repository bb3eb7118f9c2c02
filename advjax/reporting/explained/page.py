"""The page of an explanation: one HTML file that opens offline."""

import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from advjax.evaluation.explanations import KINDS
from advjax.reporting import page
from advjax.reporting.explained.words import sentences, similarity_rows
from advjax.reporting.gallery import Picture
from advjax.reporting.tables import format_html
from advjax.reporting.values import Report, members_of, percent

_STYLE = """
.case { margin: 0 0 2.2rem; }
.case h4 { margin: 1.6rem 0 .5rem; font-size: 1rem; }
.tops { display: flex; flex-wrap: wrap; gap: .4rem 2.5rem; margin: .6rem 0; }
.tops table { font-size: .875rem; }
.tops caption { text-align: left; font-weight: 600; padding: .2rem 0; }
.tops th, .tops td { padding: .12rem .8rem .12rem 0; border: 0;
  text-align: left; }
.tops code { color: var(--soft); font-size: .8rem; }
.tops .true { font-weight: 600; }
.tops td.share { text-align: right; padding: .12rem .4rem; min-width: 7.5rem;
  background: linear-gradient(to right, var(--bar) var(--share),
  transparent var(--share)); }
:root { --bar: #c8e1f5; }
@media (prefers-color-scheme: dark) { :root { --bar: #1f4a6b; } }
"""
_HEADINGS = {
  'right': ('Right', 'Right on the clean and on the adversarial image.'),
  'wrong': ('Wrong', 'Wrong on the clean image already.'),
  'fooled': (
    'Fooled',
    'Right on the clean image, wrong on the adversarial one.',
  ),
}
_LEGEND = (
  'Red speaks for the class at the left edge of a line of maps, blue against '
  'it; where the class predicted is not the true one (red letters), a second '
  'line shows the maps for the true one. Saliency is the gradient of the '
  'logit, its largest positive and its largest negative value over the '
  'channels; of guided backprop and SmoothGrad the channel with the largest '
  'value is shown, of integrated gradients the sum. CAMs lie over the gray '
  'image. Each map has its own scale.'
)


def write_page(
  path: str | os.PathLike[str],
  report: Report,
  overview: Sequence[Picture],
  cases: Mapping[str, Picture],
  title: str,
) -> None:
  """Writes the page: self-contained, nothing loaded from elsewhere.

  Args:
    path: The file to write; its folder must be there. It appears whole or not
      at all.
    report: The content of report.json.
    overview: Pictures that come before those of single images.
    cases: Picture of each case by its `name` in the report.
    title: The heading.
  """
  sections = [
    *page.warnings_section(report.get('warnings', ())),
    *_meaning(report),
    *_similarity(report),
    *page.figures_section(overview),
    *_cases(report, cases),
    *page.origin_section(report),
  ]
  facts = page.dataset_facts(report)
  facts.append(report['attack']['label'])
  page.write_page(path, title, facts, sections, style=_STYLE)


def _meaning(report: Report) -> Iterator[str]:
  listed = [*sentences(report), *report['left_out']]
  yield (
    '<section id="meaning"><h2>What the maps say</h2>'
    f'{page.text_list(listed)}</section>'
  )


def _similarity(report: Report) -> Iterator[str]:
  names = {'cosine': 'Cosine', 'rank': "Spearman's rank correlation"}
  tables = {
    measure: page.scroll(format_html(similarity_rows(report, measure)), name)
    for measure, name in names.items()
  }
  yield (
    '<section id="similarity"><h2>How alike the maps are</h2>'
    f'{tables["cosine"]}'
    '<p class="facts"><small>Cosine between the map of a clean image that the '
    'network is right on, for its true class, and another map: of the image '
    'with random noise of the size of the attack; of the attacked image that '
    'is still classified right; of the attacked image that is not, for the '
    'true class; for the class predicted then; of another clean image for its '
    'own class, which is what chance gives. Means over the images; in brackets '
    "95 % intervals (Student's t).</small></p>"
    "<details><summary>The same by Spearman's rank correlation</summary>"
    f'{tables["rank"]}</details></section>'
  )


def _cases(report: Report, pictures: Mapping[str, Picture]) -> Iterator[str]:
  for number, (name, member) in enumerate(members_of(report).items()):
    parts = [
      f'<section id="member_{number}"><h2>Images, seen by {escape(name)}</h2>',
      f'<p class="facts"><small>{escape(_LEGEND)}</small></p>',
    ]
    for kind in KINDS:
      cases = [case for case in member['cases'] if case['kind'] == kind]
      heading, note = _HEADINGS[kind]
      parts.append(f'<h3>{heading}</h3><p class="facts">{note}</p>')
      if not cases:
        parts.append('<p>There is no such image of these classes.</p>')
      parts += [_case(case, pictures[case['name']]) for case in cases]
    yield '\n'.join([*parts, '</section>'])


def _case(case: Mapping[str, Any], picture: Picture) -> str:
  true = case['class']
  tables = '\n'.join(
    _predictions(version, entries, true['label'])
    for version, entries in case['predictions'].items()
  )
  identity = f' <code>{escape(true["id"])}</code>' if true['id'] else ''
  return (
    f'<div class="case"><h4>{escape(true["name"])}{identity}, test image '
    f'{case["index"]}</h4>\n{_image(picture)}\n'
    f'<div class="tops">{tables}</div></div>'
  )


def _image(picture: Picture) -> str:
  """The figure alone: its heading stands above it."""
  html = page.picture_html(picture)
  return html[html.index('<figure>') : html.index('</article>')]


def _predictions(
  version: str, entries: Sequence[Mapping[str, Any]], true: int
) -> str:
  rows = []
  for entry in entries:
    kind = ' class="true"' if entry['label'] == true else ''
    share = percent(entry['probability'])
    rows.append(
      f'<tr{kind}><td><code>{escape(entry["id"])}</code></td>'
      f'<td>{escape(entry["name"])}</td><td class="share" '
      f'style="--share:{100 * entry["probability"]:.1f}%">{share}</td></tr>'
    )
  return (
    f'<table><caption>{escape(version)}</caption><tbody>'
    + ''.join(rows)
    + '</tbody></table>'
  )
