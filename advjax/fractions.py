"""Numbers written as fractions, such as 8/255."""

import math
import re
from collections.abc import Sequence

_NUMBER = r'[-+]?[\d.]+(?:e[-+]?\d+)?'
_FRACTION = re.compile(rf'{_NUMBER}\s*/\s*{_NUMBER}', re.I)
_ONLY_NUMBERS = re.compile(r'[\d\s.,/()\[\]+\-eE]*')


def parse_number(text: str | float) -> float:
  """Reads a number written as `8/255`, `0.031` or `1e-3`.

  Args:
    text: The text, or a number, which is returned as it is.

  Returns:
    The number as a float.

  Raises:
    ValueError: if the text is not a number or a fraction of two.

  Example:
    >>> parse_number('8/255') == 8 / 255
    True
    >>> parse_number('0.031')
    0.031
  """
  if isinstance(text, (int, float)):
    return float(text)
  numerator, slash, denominator = text.partition('/')
  try:
    value = float(numerator) / (float(denominator) if slash else 1.0)
  except (ValueError, ZeroDivisionError):
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(
      f'not a number: {text!r}; write a finite number such as 0.031 or 8/255'
    )
  return value


def expand_fractions(arguments: Sequence[str]) -> list[str]:
  """Writes out fractions in `--config.field=...` and leaves the rest alone.

  Only values made of numbers alone are touched, so that a path such as
  `runs/8/255` stays a path.

  Args:
    arguments: Command-line arguments.

  Returns:
    The arguments, with `8/255` in config values as a decimal number.

  Example:
    >>> expand_fractions(['--config.hparams.epsilon=1/8', '--workdir=1/8'])
    ['--config.hparams.epsilon=0.125', '--workdir=1/8']
  """

  def expand(value: str) -> str:
    if not _ONLY_NUMBERS.fullmatch(value):
      return value
    return _FRACTION.sub(lambda match: repr(parse_number(match[0])), value)

  expanded = []
  value_follows = False
  for argument in arguments:
    name, equals, value = argument.partition('=')
    is_field = name.startswith(('--config.', '-config.'))
    if value_follows and not argument.startswith('--'):
      argument = expand(argument)
    elif is_field and equals:
      argument = f'{name}={expand(value)}'
    value_follows = is_field and not equals
    expanded.append(argument)
  return expanded
