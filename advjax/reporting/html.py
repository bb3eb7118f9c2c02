"""Pages: templates filled in by Jinja, one HTML file that opens offline.

A template in `templates/` extends `base.html.j2` and fills its block `main` by
sections from the macros of `macros.html.j2`, which show a `formatting.Table`, a
picture with its caption, notes, warnings, findings, and the origin of a run.
Pages of five sections and more have a table of contents. Everything is escaped.
"""

import functools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from advjax._extras import jinja2  # isort: skip

from advjax.files import replacing
from advjax.reporting.formatting import percent
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
  """Writes a page; the file is written atomically."""
  page = _environment().get_template(template)
  text = page.render(title=title, facts=facts, **context)
  with replacing(pathlib.Path(path)) as file:
    # A path may hold bytes that are no UTF-8.
    file.write(text.encode(errors='backslashreplace'))


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
