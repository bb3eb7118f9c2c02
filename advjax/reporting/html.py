"""Pages: templates filled in by Jinja, one HTML file that opens offline.

  write_page(path, 'run.html.j2', title=..., facts=[...], ...)

A template of a page lies in `templates/`, begins with
`{% extends 'base.html.j2' %}` and `{% import 'macros.html.j2' as m %}`, and
fills the block `main` with sections:

  {% call m.section('noise', 'Random noise') %}
  {{ m.table(noise) }}                a `formatting.Table`
  {{ m.figure(picture) }}             a `plots.Picture`, with its caption
  {{ m.note('What the columns are.') }}
  {% endcall %}

Others are `m.gallery(pictures)`, `m.folded(summary)` (a call block),
`m.warnings(texts)`, `m.bullets(texts)`, `m.command(text)`, `m.findings(list)`
and `m.origin(command, environment, config)`. The blocks `style` and `script`
take CSS and JavaScript of a page. Pages of five sections and more have a table
of contents. Everything is escaped; filters: `percent`, `epsilon`, `anchor`.
"""

import functools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from advjax.files import replacing
from advjax.reporting.formatting import format_epsilon, percent
from advjax.results import DatasetSummary

_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
_SECTION = re.compile(r'<section id="([^"]+)"[^>]*>\s*<h2>(.*?)</h2>', re.S)


def write_page(
  path: str | os.PathLike[str],
  template: str,
  *,
  title: str,
  facts: list[str],
  **context: Any,
) -> None:
  """Writes a page; the file appears whole or not at all."""
  page = _environment().get_template(template)
  text = page.render(title=title, facts=facts, **context)
  with replacing(pathlib.Path(path)) as file:
    file.write(text.encode())


def dataset_facts(dataset: DatasetSummary) -> list[str]:
  """Returns the name of the data set and its numbers of images."""
  return [
    dataset.name,
    f'{dataset.num_train:,} training images',
    f'{dataset.num_test:,} test images',
  ]


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'percent': percent,
    'epsilon': format_epsilon,
    'anchor': lambda text: re.sub(r'[^\w.-]', '_', text),
    'sections': _SECTION.findall,
    'fields': lambda fields: list(_flat(fields)),
  }
  return environment


def _flat(
  fields: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, str]]:
  """Yields ('model.name', 'cnn') for nested fields."""
  for key, value in fields.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f'{prefix}{key}.')
    elif isinstance(value, list | tuple):
      yield f'{prefix}{key}', ', '.join(map(str, value))
    else:
      yield f'{prefix}{key}', str(value)
