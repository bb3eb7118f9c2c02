"""Numbers and tables as people read them, in the terminal and on pages."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from advjax.results import Estimate, ReportedCheckpoint

_NAMES = {
  'mifgsm': 'MI-FGSM',
  'autoattack': 'AutoAttack',
  'deepfool': 'DeepFool',
  'square': 'Square',
}
_MAX_WIDTH = 100  # Characters.


def format_epsilon(value: float) -> str:
  """Writes an epsilon, a step size or another length as it was given."""
  text = f'{value:.3g}'
  k = round(255 * value)
  exact = math.isclose(float(text), value, rel_tol=1e-6)
  if not exact and 1 <= k <= 255 and math.isclose(k / 255, value, rel_tol=1e-6):
    return f'{k}/255'
  return text


def at_epsilon(epsilon: float, norm: str) -> str:
  """Writes 'epsilon 8/255 (linf)'."""
  return f'epsilon {format_epsilon(epsilon)} ({norm})'


def percent(value: float | None, digits: int = 1) -> str:
  """Writes a fraction in per cent, one that is absent or not finite as n/a."""
  if value is None or not math.isfinite(value):
    return 'n/a'
  return f'{100 * value:.{digits}f} %'


def points(difference: float) -> str:
  """Writes a difference of fractions in percentage points."""
  text = f'{100 * difference:.1f}'.removesuffix('.0')
  return f'{text} point{"" if text == "1" else "s"}'


def format_estimate(estimate: Estimate | None) -> str:
  """Writes an accuracy with its deviation over seeds and its interval."""
  if estimate is None:
    return '-'
  text = percent(estimate.value)
  if estimate.std is not None:
    text = f'{text.removesuffix(" %")} ± {100 * estimate.std:.1f} %'
  if estimate.ci is not None:
    low, high = (100 * end for end in estimate.ci)
    text += f' [{low:.1f}, {high:.1f}]'
  return text


def format_checkpoint(checkpoint: ReportedCheckpoint) -> str:
  """Writes 'best, step 120', of several seeds the step of each."""
  return f'{checkpoint.name}, step {" / ".join(map(str, checkpoint.steps))}'


def of_checkpoint(checkpoint: ReportedCheckpoint | None) -> str:
  """Writes ' (best, step 120)' behind a name; nothing if it is not known."""
  return f' ({format_checkpoint(checkpoint)})' if checkpoint else ''


def attack_label(key: str, num_steps: int | None = None) -> str:
  """Returns the name of an attack as papers write it."""
  if ':' in key:  # The user's own, module:function.
    return key
  stem, _, rest = key.partition('-')
  name = _NAMES.get(stem.lower(), stem.upper())
  kind, _, numbers = rest.partition('-')
  if kind.isalpha():  # 'ce' of 'apgd-ce', 't' of 'fab-t-100'
    name, rest = f'{name}-{kind.upper()}', numbers
  if num_steps is not None and num_steps > 1 and not rest:
    rest = str(num_steps)
  return f'{name}-{rest}' if rest else name


def join(parts: Iterable[str]) -> str:
  """Joins parts of a sentence."""
  *first, last = parts
  return f'{", ".join(first)} and {last}' if first else last


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of a table; without cells a heading, for indented labels below."""

  label: str
  cells: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of texts."""

  label: str  # What it shows, for those who cannot see it.
  columns: Sequence[str]
  rows: Sequence[Row]

  def text(self) -> str:
    """Returns the table for a terminal, in blocks of at most 100 characters."""
    rows = [Row('', self.columns), *self.rows]
    first = max(len(row.label) for row in rows if row.cells)
    widths = [
      max(map(len, cells))
      for cells in zip(*(row.cells for row in rows if row.cells), strict=True)
    ]
    count = max(1, (_MAX_WIDTH - first) // (max(widths) + 2))
    blocks = []
    for start in range(0, len(widths), count):
      block = slice(start, start + count)
      lines = [
        row.label.ljust(first)
        + ''.join(
          '  ' + cell.rjust(width)
          for cell, width in zip(row.cells[block], widths[block], strict=False)
        )
        for row in rows
      ]
      lines.insert(
        1, '-' * (first + sum(widths[block]) + 2 * len(widths[block]))
      )
      blocks.append('\n'.join(line.rstrip() for line in lines))
    return '\n\n'.join(blocks)
