"""Numbers as text: fractions such as 8/255, and counts of things."""

import math
import re
from collections.abc import Sequence

_NUMBER = r'[-+]?[\d.]+(?:e[-+]?\d+)?'
_FRACTION = re.compile(rf'{_NUMBER}\s*/\s*{_NUMBER}', re.I)
_ONLY_NUMBERS = re.compile(r'[\d\s.,/()\[\]+\-eE]*')


def parse_number(text: str | float, name: str = 'number') -> float:
  """Reads a finite number written as `8/255`, `0.031` or `1e-3`."""
  if isinstance(text, (int, float)):
    return float(text)
  numerator, slash, denominator = text.partition('/')
  try:
    value = float(numerator) / (float(denominator) if slash else 1.0)
  except (ValueError, ZeroDivisionError):
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(
      f'{name} = {text!r}; allowed: finite numbers such as 0.031 or 8/255'
    )
  return value


def count_of(number: int, noun: str) -> str:
  """Returns a number with its noun: '1 run', '3 runs'."""
  return f'{number} {noun}{"" if number == 1 else "s"}'


def _expand(text: str, name: str) -> str:
  return _FRACTION.sub(lambda match: repr(parse_number(match[0], name)), text)


def expand_fractions(arguments: Sequence[str]) -> list[str]:
  """Replaces fractions in `--config.field=...` by decimal numbers.

  Only values that consist of numbers change: `runs/8/255` stays a path.
  """
  expanded = []
  for previous, argument in zip(['', *arguments], arguments, strict=False):
    field = re.match(r'--?config\.[^=]*=', argument)
    start = field.end() if field else 0
    is_value = field or re.fullmatch(r'--?config\.[^=]*', previous)
    if is_value and _ONLY_NUMBERS.fullmatch(argument, start):
      name = (argument[:start] or previous).removesuffix('=')
      argument = argument[:start] + _expand(argument[start:], name)
    expanded.append(argument)
  return expanded
