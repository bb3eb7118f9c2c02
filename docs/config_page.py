"""Writes docs/config.md, the fields of a config, from the code.

.venv/bin/python docs/config_page.py docs/config.md
"""

import inspect
import pathlib
import sys
from typing import Any

from ml_collections import config_dict

from advjax.config import FIELDS
from advjax.fields import CHOICES, help_of, options
from advjax.training.objectives import hparams_of

INTRODUCTION = """# Fields of a config

Every field is a flag of every config, `--config.FIELD=VALUE`, also one that the
config file does not set. Fractions such as `8/255` are numbers, tuples are
written `'(3, 7)'`, a boolean is `--config.optimizer.nesterov`, and `None`
empties a field that may be empty. `./launch.sh train --config=FILE --help`
lists the fields of a config with their values. This page is written by

```bash
.venv/bin/python docs/config_page.py docs/config.md
```

In a config of several models, `--config.MEMBER.FIELD` sets a field of one of
them, except `seeds` and the fields of `dataset` and `evaluation`.

A section with a `name` has the fields of what is chosen there. A flag that
chooses another name, such as `--config.objective.name=trades`, keeps the fields
(and, of objectives, the hparams) that are read under the new name too, and
removes the others. A name may be `module:function` of your own:
[extend.md](extend.md).

`monitor.epsilon` follows `evaluation.epsilon`, and that, in the variants
`fgsm_at`, `pgd_at` and `trades`, `hparams.epsilon`, until they are set. Where a
model is trained at another epsilon than it is evaluated at, log and report say
so.
"""

HEADINGS = {
  'dataset': 'Data sets',
  'model': 'Networks',
  'objective': 'Objectives',
}


def shown(default: Any) -> str:
  """A default as a table shows it."""
  if isinstance(default, config_dict.FieldReference):
    default = default.get()
  if default is None or isinstance(default, type):
    return ''
  return f'`{default:.4g}`' if isinstance(default, float) else f'`{default!r}`'


def table(rows: list[tuple[str, str, str]]) -> str:
  """A table of fields, defaults and lines."""
  lines = [
    f'| `{field}` | {default} | {text} |' for field, default, text in rows
  ]
  return '\n'.join(['| field | default | |', '| --- | --- | --- |', *lines])


def page() -> str:
  """The whole page."""
  parts = [INTRODUCTION, '## Common fields\n']
  parts.append(
    table([(f, shown(d), text) for f, (d, text) in FIELDS.items()]) + '\n'
  )
  for section, heading in HEADINGS.items():
    parts.append(f'## {heading}\n')
    groups: dict[str, list[str]] = {}
    for name in CHOICES[section]:
      rows = [
        (f'{section}.{field}', shown(default), help_of(f'{section}.{field}'))
        for field, default in options(section, name).items()
      ]
      if section == 'objective':
        rows += hparam_rows(name)
      groups.setdefault(table(rows) if rows else 'No fields.', []).append(name)
    for text, names in groups.items():
      parts.append(f'{", ".join(f"`{name}`" for name in names)}\n\n{text}\n')
  return '\n'.join(parts)


def hparam_rows(name: str) -> list[tuple[str, str, str]]:
  """The hparams that an objective reads, required ones marked."""
  required = inspect.Parameter.empty
  return [
    (
      f'hparams.{hparam}',
      'required' if default is required else shown(default),
      help_of(f'hparams.{hparam}'),
    )
    for hparam, default in (hparams_of(name) or {}).items()
    if hparam != 'learning_rate'
  ]


if __name__ == '__main__':
  pathlib.Path(sys.argv[1]).write_text(page())
