"""Sweeps written as text, on the command line."""

import re
from typing import Any

from ml_collections import config_dict

from advjax.config import choose
from advjax.sweeps.fields import QUOTES, check_base, field_kind, parse_value

# Dotted field of the config -> value
Settings = dict[str, Any]


def parse_sweep(text: str, config: config_dict.ConfigDict) -> list[Settings]:
  """Reads a sweep: all combinations of its parts, the last part fastest.

  Args:
    text: Parts between ';'. A part is `FIELD=V1,V2,...`; or
      `zip(FIELD=V1,V2;FIELD=V1,V2)`, fields that move together; or
      `list(FIELD=V,FIELD=V;FIELD=V,FIELD=V)`, members written out. A value
      that has commas or semicolons in it stands in quotes, ' or ".
    config: What the members are made from; its fields say which type their
      values have. A field of `hparams` that it lacks is a number.

  Returns:
    What each member sets.

  Raises:
    ValueError: naming the part that is wrong.

  Example:
    >>> from advjax.config import default_config
    >>> config = default_config()
    >>> parse_sweep('hparams.epsilon=1/10,0.2;seed=0', config)
    [{'hparams.epsilon': 0.1, 'seed': 0}, {'hparams.epsilon': 0.2, 'seed': 0}]
    >>> len(parse_sweep('zip(hparams.epsilon=0.1,0.2;seed=0,1)', config))
    2
  """
  check_base(config)
  if not text.strip():
    raise ValueError(
      'the sweep is empty: there is nothing to sweep; write, say, '
      "'hparams.epsilon=0.1,8/255;seed=0,1,2'"
    )
  combined: list[Settings] = [{}]
  for number, part in enumerate(_split(text, ';'), 1):
    try:
      choices = _parse_part(part, config)
      _check_twice([*combined[0], *choices[0]], 'the sweep')
    except ValueError as error:
      raise ValueError(
        f'part {number} of the sweep, {part!r}: {error}'
      ) from error
    combined = [{**one, **other} for one in combined for other in choices]
  return combined


def _split(text: str, separator: str) -> list[str]:
  """What is between separators that are in no parentheses and no quotes."""
  pieces, depth, quote, before = [''], 0, '', ''
  for character in text:
    if quote:
      quote = '' if character == quote else quote
    elif character in QUOTES and before in ('', '=', ','):
      # Elsewhere it is an apostrophe.
      quote = character
    else:
      depth += {'(': 1, ')': -1}.get(character, 0)
    if depth < 0:
      break
    if character == separator and not depth and not quote:
      pieces.append('')
    else:
      pieces[-1] += character
    before = character.strip() or before
  if quote or depth:
    what = 'quote' if quote else 'parenthesis'
    raise ValueError(
      f'part {len(pieces)} of the sweep, {pieces[-1].strip()!r}: a {what} is '
      f'not {"opened" if depth < 0 else "closed"}'
    )
  return [piece.strip() for piece in pieces]


def _parse_part(part: str, config: config_dict.ConfigDict) -> list[Settings]:
  """What a part sets, one choice after the other; no two of them alike."""
  if not part:
    raise ValueError('it is empty; allowed: FIELD=VALUE,VALUE,...')
  form = re.fullmatch(r'(\w*)\s*\((.*)\)', part, re.DOTALL)
  name = choose('form', form[1], ('zip', 'list')) if form else 'values'
  pieces = _split(form[2], ';') if form else [part]
  if name == 'list':
    choices = [_parse_member(piece, config) for piece in pieces]
    for choice in choices:
      if set(choice) != set(choices[0]):
        raise ValueError(
          f'a member sets {", ".join(choice)}, the first one sets '
          f'{", ".join(choices[0])}; allowed: the same fields in all'
        )
    choices = [{field: c[field] for field in choices[0]} for c in choices]
  else:
    columns = [_parse_values(piece, config) for piece in pieces]
    _check_twice([field for field, _ in columns], name)
    lengths = {field: len(values) for field, values in columns}
    if len(set(lengths.values())) > 1:
      counted = ', '.join(f'{f} has {count}' for f, count in lengths.items())
      raise ValueError(f'{counted} values; allowed: lists of one length')
    choices = [
      dict(zip(lengths, values, strict=True))
      for values in zip(*(values for _, values in columns), strict=True)
    ]
  for index, choice in enumerate(choices):
    if choice in choices[:index]:
      shown = ', '.join(f'{f} = {value!r}' for f, value in choice.items())
      raise ValueError(f'{shown} is there twice; allowed: each member once')
  return choices


def _parse_values(
  piece: str, config: config_dict.ConfigDict
) -> tuple[str, list[Any]]:
  """Reads `FIELD=V1,V2,...`."""
  name, equals, text = piece.partition('=')
  field = name.strip()
  if not equals:
    raise ValueError(f'{piece.strip()!r}; allowed: FIELD=VALUE,VALUE,...')
  kind = field_kind(config, field)
  if not text.strip():
    raise ValueError(f'{field} has an empty list of values')
  return field, [parse_value(field, v, kind) for v in _split(text, ',')]


def _parse_member(piece: str, config: config_dict.ConfigDict) -> Settings:
  """Reads `FIELD=V,FIELD=V,...`."""
  pairs = [_parse_values(pair, config) for pair in _split(piece, ',')]
  _check_twice([field for field, _ in pairs], 'a member')
  return {field: value for field, (value,) in pairs}


def _check_twice(fields: list[str], where: str) -> None:
  """Raises a ValueError if a field is set twice."""
  for index, field in enumerate(fields):
    if field in fields[:index]:
      raise ValueError(f'{where} sets {field} twice; allowed: each field once')
