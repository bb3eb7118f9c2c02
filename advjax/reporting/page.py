"""The parts that every page has: its frame, its style, figures, origin.

A page is one HTML file that opens offline; whatever goes into it is escaped.
"""

import base64
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from advjax.files import replacing
from advjax.reporting.gallery import Picture
from advjax.reporting.values import Report, finite

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e;
  --paper: #ffffff; --panel: #f6f8fa; --line: #d1d9e0; --alarm: #9a3412;
  --alarm-paper: #fff4ed; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9ba6b2;
  --paper: #0d1117; --panel: #161b22; --line: #30363d; --alarm: #ffb68a;
  --alarm-paper: #2b1a10; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.facts, figcaption, small { color: var(--soft); }
.facts { margin: 0; }
.warnings { margin: 1.5rem 0; padding: .2rem 1.2rem .6rem;
  border-left: 4px solid var(--alarm); background: var(--alarm-paper); }
.warnings h2 { margin: .7rem 0 .2rem; color: var(--alarm); }
ul { padding-left: 1.2rem; } li { margin: .35rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-weight: normal; }
th[scope=row], th[scope=rowgroup] { text-align: left; padding-left: 0; }
thead th, .group th { font-weight: 600; }
.group th { padding-top: .9rem; }
th.nested[scope=row] { padding-left: 1.2rem; }
.gallery { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; }
.picture { grid-column: 1 / -1; min-width: 0; }
.picture.half { grid-column: auto; }
@media (max-width: 40rem) { .picture.half { grid-column: 1 / -1; } }
figure { margin: 0; }
figure img { display: block; width: auto; max-width: 100%; height: auto;
  background: #ffffff; border: 1px solid var(--line); border-radius: 6px; }
figcaption { margin-top: .5rem; max-width: 46rem; }
pre { padding: .8rem 1rem; overflow-x: auto; background: var(--panel);
  border-radius: 6px; font: .875rem/1.5 ui-monospace, 'DejaVu Sans Mono',
  monospace; }
details { margin: 1rem 0; } summary { cursor: pointer; }
.fields th[scope=row] { white-space: nowrap; }
.fields td { text-align: left; white-space: normal;
  overflow-wrap: anywhere; }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="facts">$facts</p>
</header>
<main>
$main
</main>$script
</body>
</html>
""")


def write_page(
  path: str | os.PathLike[str],
  title: str,
  facts: Sequence[str],
  sections: Iterable[str],
  style: str = '',
  script: str = '',
) -> None:
  """Writes a page; the file appears whole or not at all.

  Args:
    path: the file to write; its folder must be there.
    title: the heading, a text.
    facts: what stands in one line below it, texts.
    sections: the parts of the page, HTML.
    style: rules of this page that come after those of every page.
    script: JavaScript to run once the page is there.
  """
  page = _PAGE.substitute(
    title=escape(title),
    style=_STYLE + style,
    facts=escape(' · '.join(facts)),
    main='\n'.join(sections),
    script=f'\n<script>{script}</script>' if script else '',
  )
  with replacing(Path(path)) as file:
    file.write(page.encode())


def dataset_facts(report: Report) -> list[str]:
  """Returns the name of the data set and its numbers of images, as texts."""
  dataset = report.get('dataset', {})
  facts = [str(dataset['name'])] if dataset.get('name') else []
  for key, what in (('num_train', 'training'), ('num_test', 'test')):
    number = finite(dataset.get(key))
    if number is not None:
      facts.append(f'{number:,.0f} {what} images')
  return facts


def warnings_section(warnings: Sequence[str]) -> Iterator[str]:
  """Yields the section of the warnings, if there are any."""
  if warnings:
    yield (
      '<section class="warnings" id="warnings"><h2>Warnings</h2>'
      f'{text_list(warnings)}</section>'
    )


def figures_section(pictures: Sequence[Picture]) -> Iterator[str]:
  """Yields the section of the figures, if there are any."""
  if not pictures:
    return
  articles = '\n'.join(picture_html(picture) for picture in pictures)
  yield (
    '<section id="figures"><h2>Figures</h2>\n<div class="gallery">\n'
    f'{articles}\n</div></section>'
  )


def picture_html(picture: Picture) -> str:
  """Returns a figure with its title and caption, the image inside the page."""
  data = base64.b64encode(picture.png).decode()
  width, height = struct.unpack('>II', picture.png[16:24])
  name, title = escape(picture.name), escape(picture.title)
  half = ' half' if picture.half else ''
  return (
    f'<article class="picture{half}" id="{name}"><h3>{title}</h3>\n'
    f'<figure><img src="data:image/png;base64,{data}" alt="{title}" '
    f'width="{width}" height="{height}">'
    f'<figcaption>{escape(picture.caption)}</figcaption></figure></article>'
  )


def origin_section(report: Report, work: str = '') -> Iterator[str]:
  """Yields the section on the command, the versions and the configuration.

  Args:
    report: any of `command`, `environment` and `config` is shown.
    work: what is said of the work itself, HTML.
  """
  parts = []
  if report.get('command'):
    parts.append(f'<pre><code>{escape(str(report["command"]))}</code></pre>')
  if work:
    parts.append(work)
  if report.get('environment'):
    fields = list(_flat(report['environment']))
    parts.append(scroll(_fields_table(fields), 'Environment'))
  if report.get('config'):
    fields = list(_flat(report['config']))
    table = scroll(_fields_table(fields), 'Configuration')
    parts.append(
      f'<details><summary>Configuration, {len(fields)} fields</summary>'
      f'{table}</details>'
    )
  if parts:
    yield (
      '<section id="origin"><h2>How it was made</h2>\n'
      + '\n'.join(parts)
      + '</section>'
    )


def _flat(
  fields: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, str]]:
  """Yields ('model.name', 'cnn') for nested fields."""
  for key, value in fields.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f'{prefix}{key}.')
    elif isinstance(value, list | tuple):
      yield f'{prefix}{key}', ', '.join(str(item) for item in value)
    else:
      yield f'{prefix}{key}', str(value)


def _fields_table(fields: Sequence[tuple[str, str]]) -> str:
  rows = '\n'.join(
    f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
    for name, value in fields
  )
  return f'<table class="fields"><tbody>\n{rows}\n</tbody></table>'


def text_list(texts: Sequence[str]) -> str:
  """Returns a list of texts, HTML."""
  return (
    '<ul>' + '\n'.join(f'<li>{escape(text)}</li>' for text in texts) + '</ul>'
  )


def scroll(table: str, label: str) -> str:
  """Lets a wide table scroll by itself, with the keyboard too."""
  return (
    f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
    f'{table}</div>'
  )
