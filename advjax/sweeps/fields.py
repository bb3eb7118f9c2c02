"""The fields that a sweep may set, and the values that they take."""

import math
import numbers
import re
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import config_dict

from advjax.config import choose
from advjax.fractions import parse_number
from advjax.training.objectives import OBJECTIVES

# Sections and fields that members have in common, and why.
SHARED = {
  'dataset': 'all members are trained and tested on the same data',
  'evaluation': 'all members meet the same attacks',
  'seeds': "sweep over 'seed' instead, a member for each",
  'log_every_steps': 'it changes nothing that is trained',
  'checkpoint_every_epochs': 'it changes nothing that is trained',
}
# Around a value in the text of a sweep.
QUOTES = ('"', "'")
_ALLOWED = {
  float: 'a finite number such as 0.031 or 8/255',
  int: 'an integer',
  bool: 'true or false',
  str: 'a text',
  tuple: 'a tuple of numbers, truth values or texts',
}


def check_base(config: config_dict.ConfigDict) -> None:
  """Raises a ValueError unless a config is one that a sweep can start from.

  Args:
    config: What the members are made from.

  Raises:
    ValueError: if it is a comparison, or has several seeds.

  Example:
    >>> from advjax.config import default_config
    >>> check_base(default_config())
  """
  if 'members' in config:
    raise ValueError(
      f'the config has members, {", ".join(config.members)}: it belongs to '
      "'compare'; a sweep takes a config of one network, such as "
      'configs/digits.py'
    )
  if config.seeds:
    raise ValueError(
      f'seeds = {config.seeds!r}; allowed in a sweep: none; {SHARED["seeds"]}'
    )


def flatten(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns all fields of a config by their dotted names, references resolved.

  Args:
    config: A config.

  Returns:
    Dotted name -> value.

  Example:
    >>> flatten(config_dict.create(model={'name': 'cnn'}))
    {'model.name': 'cnn'}
  """
  return flatten_dict(config.to_dict(), sep='.')


def _kinds(config: config_dict.ConfigDict) -> dict[str, type]:
  """The type of every field that may be swept."""
  kinds = {}
  for field in flatten(config):
    section, _, name = field.rpartition('.')
    kinds[field] = (config[section] if section else config).get_type(name)
  # Traced numbers; a config need not set those that its objective can do
  # without, and a sweep over objectives has those of several.
  for spec in OBJECTIVES.values():
    for name in (*spec.required, *spec.optional):
      kinds[f'hparams.{name}'] = float
  for field, kind in kinds.items():
    if field.startswith('hparams.'):
      kinds[field] = float
    elif kind is list:
      kinds[field] = tuple
  return {
    field: kind
    for field, kind in kinds.items()
    if field.partition('.')[0] not in SHARED
  }


def field_kind(config: config_dict.ConfigDict, field: str) -> type:
  """Returns the type of a field's values.

  Args:
    config: What the members are made from.
    field: Dotted name.

  Returns:
    float, int, bool, str or tuple.

  Raises:
    ValueError: if there is no such field or it may not be swept; it says what
      is allowed, and which field may have been meant.

  Example:
    >>> from advjax.config import default_config
    >>> field_kind(default_config(), 'hparams.epsilon')
    <class 'float'>
  """
  kinds = _kinds(config)
  first, _, _ = str(field).partition('.')
  if first in SHARED:
    raise ValueError(f'{field} cannot be swept: {SHARED[first]}')
  within = [name for name in kinds if name.startswith(f'{field}.')]
  if within:
    raise ValueError(
      f'{field} is a section; sweep over its fields: {", ".join(within)}'
    )
  if field not in kinds:
    section, _, last = str(field).rpartition('.')
    alike = [name for name in kinds if name.rpartition('.')[2] == last]
    if alike:
      raise ValueError(
        f'unknown field {field!r}; did you mean {" or ".join(sorted(alike))}?'
      )
    beside = [name for name in kinds if name.rpartition('.')[0] == section]
    choose('field', field, beside or kinds)
  if kinds[field] not in _ALLOWED:
    raise ValueError(
      f'{field} is {config[field]!r} in the config, so that the type of its '
      'values is not known; give it a value there first'
    )
  return kinds[field]


def convert_value(field: str, value: Any, kind: type) -> Any:
  """Returns a value as its field takes it.

  Args:
    field: Dotted name, for the message.
    value: The value; for a number also a text such as '8/255'.
    kind: From `field_kind`.

  Returns:
    The value, of that type.

  Raises:
    ValueError: if it is of another type, or no finite number.

  Example:
    >>> convert_value('hparams.epsilon', '1/8', float)
    0.125
  """
  is_bool = isinstance(value, bool)
  if kind is float and isinstance(value, str):
    try:
      return parse_number(value)
    except ValueError as error:
      raise ValueError(f'{field}: {error}') from error
  if kind is float and isinstance(value, numbers.Real) and not is_bool:
    if math.isfinite(value):
      return float(value)
  elif kind is int and isinstance(value, numbers.Integral) and not is_bool:
    return int(value)
  elif kind is tuple and isinstance(value, (tuple, list)):
    if all(isinstance(item, (bool, int, float, str)) for item in value):
      return tuple(value)
  elif kind in (bool, str) and isinstance(value, kind):
    return value
  raise ValueError(f'{field} = {value!r}; allowed: {_ALLOWED[kind]}')


def parse_value(field: str, text: str, kind: type) -> Any:
  """Reads a value as it is written in the text of a sweep.

  Args:
    field: Dotted name, for the message.
    text: What is written; quotes around it do not belong to the value.
    kind: From `field_kind`.

  Returns:
    The value, of that type.

  Raises:
    ValueError: if the text is empty or says no such value.

  Example:
    >>> parse_value('seed', ' 3 ', int)
    3
    >>> parse_value('init_from', "'runs/epsilon=0.1,seed=0'", str)
    'runs/epsilon=0.1,seed=0'
  """
  text = text.strip()
  if text.startswith(QUOTES):
    text, quote = text[1:], text[0]
    if text.find(quote) != len(text) - 1:
      raise ValueError(
        f'{field} = {quote}{text}; allowed: quotes around the whole value'
      )
    text = text[:-1]
    if kind is str:
      return text
  if not text.strip():
    raise ValueError(f'{field} has an empty value; allowed: {_ALLOWED[kind]}')
  if kind is tuple:
    raise ValueError(
      f'{field} = {text!r}: tuples cannot be written in the text of a sweep; '
      'write a file with sweep(add) for them'
    )
  value: Any = text
  if kind is int and re.fullmatch(r'[-+]?\d+', text):
    value = int(text)
  if kind is bool:
    value = {'true': True, 'false': False}.get(text.lower(), text)
  return convert_value(field, value, kind)
