"""The language of sweeps: text or a config file to trials, all of them checked.

  SWEEP = PART;PART;...                        all combinations of the parts,
                                               the last part fastest
  PART  = FIELD=V1,V2,...                      one value after the other
        | zip(FIELD=V1,V2;FIELD=V1,V2;...)     fields that vary together
        | list(FIELD=V,FIELD=V;FIELD=V,...)    trials written out

FIELD is a field of the config with its dots, such as `hparams.epsilon`, and a
value has the type that the field has there.
"""

import copy
import hashlib
import inspect
import itertools
import math
import numbers
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax._extras import flax, ml_collections  # noqa: F401  # isort: skip
from flax.traverse_util import flatten_dict
from ml_collections import config_dict

from advjax.config import (
  check_config,
  check_one_network,
  choose,
  default_config,
)
from advjax.fields import all_fields
from advjax.fractions import parse_number
from advjax.models import create_model
from advjax.training.objectives import (
  OBJECTIVES,
  create_objective,
  hparams_of,
  read_hparams,
)
from advjax.training.optimizers import (
  DECAYS,
  OPTIMIZERS,
  create_decay,
  create_optimizer,
  create_schedule,
)

# What a trial sets: dotted field of the config -> value.
Row = dict[str, Any]

# Sections and fields that trials have in common, and why.
_COMMON = {
  'dataset': 'since all trials have the same data',
  'evaluation': 'since all trials are evaluated with the same attacks',
  'seeds': "since a sweep over 'seed' has one trial per seed",
  'log_every_steps': 'since it does not change the training',
  'checkpoint_every_epochs': 'since it does not change the training',
}
# Fields that are read only under some values of another field. Under the
# others, trials that differ in them would be duplicates.
READ_UNDER: dict[str, tuple[str, tuple[str, ...]]] = {
  'multiplier_decay.decay_steps': ('multiplier_decay.name', DECAYS[1:]),
  'multiplier_decay.decay_rate': ('multiplier_decay.name', DECAYS[1:]),
  'multiplier_decay.min_value': ('multiplier_decay.name', DECAYS[1:]),
  'optimizer.b1': ('optimizer.name', OPTIMIZERS[1:]),
  'optimizer.b2': ('optimizer.name', OPTIMIZERS[1:]),
  'optimizer.eps': ('optimizer.name', OPTIMIZERS[1:]),
  'optimizer.momentum': ('optimizer.name', ('sgd',)),
  'optimizer.nesterov': ('optimizer.name', ('sgd',)),
  'schedule.warmup': ('schedule.name', ('cosine', 'one_cycle')),
  'schedule.boundaries': ('schedule.name', ('piecewise',)),
  'schedule.factor': ('schedule.name', ('piecewise',)),
  **dict.fromkeys(
    [f'monitor.{name}' for name in default_config().monitor],
    ('report_checkpoint', ('best',)),
  ),
}
_QUOTES = ('"', "'")
_ALLOWED = {
  float: 'a finite number such as 0.031 or 8/255',
  int: 'an integer',
  bool: 'true or false',
  str: 'a string',
  tuple: 'a tuple of numbers, booleans or strings, in sweep(add)',
}
# File systems take 255 bytes, and a suffix or two has to fit in as well.
_MAX_NAME_LENGTH = 200


# ---------- fields and values


def _field_kind(config: config_dict.ConfigDict, field: str) -> type:
  """The type of a field's values; a ValueError if it cannot be swept."""
  field = str(field)
  section, _, last = field.rpartition('.')
  first = field.partition('.')[0]
  if first in _COMMON:
    raise ValueError(
      f'field = {field!r}; allowed: fields other than {first}, {_COMMON[first]}'
    )
  # Traced numbers: a sweep over objectives has those of several.
  kinds: dict[str, type] = {
    f'hparams.{hparam}': float
    for name in {*OBJECTIVES, config.objective.name}
    for hparam in hparams_of(name) or config.hparams
  }
  for name, value in all_fields(config):
    if name.partition('.')[0] not in _COMMON and name not in kinds:
      is_reference = isinstance(value, config_dict.FieldReference)
      kinds[name] = value.get_type() if is_reference else type(value)
  if field not in kinds:
    near = [
      name
      for name in kinds
      if name.rpartition('.')[2] == last
      or name.rpartition('.')[0] in ({section, field} - {''})
    ]
    choose('field', field, near or kinds)
  kind = tuple if kinds[field] is list else kinds[field]
  if kind not in _ALLOWED:
    raise ValueError(
      f'{field} = None in the config; allowed: a value, of the type that those '
      'of the sweep have'
    )
  return kind


def _convert_value(field: str, value: Any, kind: type) -> Any:
  """A value as its field takes it; a ValueError if it is of another type."""
  is_bool = isinstance(value, bool)
  if kind is float and isinstance(value, str):
    return parse_number(value, field)
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


def _parse_value(field: str, text: str, kind: type) -> Any:
  """A value as it is written in the text of a sweep, perhaps in quotes."""
  text = text.strip()
  if text.startswith(_QUOTES):
    text, quote = text[1:], text[0]
    if text.find(quote) != len(text) - 1:
      raise ValueError(
        f'{field} = {quote}{text}; allowed: quotes around the whole value'
      )
    text = text[:-1]
    if kind is str:
      return text
  if not text.strip():
    raise ValueError(f"{field} = ''; allowed: {_ALLOWED[kind]}")
  value: Any = text
  if kind is int and re.fullmatch(r'[-+]?\d+', text):
    value = int(text)
  if kind is bool:
    value = {'true': True, 'false': False}.get(text.lower(), text)
  return _convert_value(field, value, kind)


# ---------- text and files


def parse_sweep(text: str, config: config_dict.ConfigDict) -> list[Row]:
  """Parses a sweep, as above, to what each trial sets.

  A value with commas or semicolons in it needs quotes, ' or ". The fields of
  the config determine the types of the values; one of `hparams` that it lacks
  is a number. A ValueError names the part that is wrong.

  Example:
    >>> config = default_config()
    >>> parse_sweep('hparams.epsilon=1/10,0.2;seed=0', config)
    [{'hparams.epsilon': 0.1, 'seed': 0}, {'hparams.epsilon': 0.2, 'seed': 0}]
    >>> len(parse_sweep('zip(hparams.epsilon=0.1,0.2;seed=0,1)', config))
    2
  """
  if not text.strip():
    raise ValueError(
      f'sweep = {text!r}; allowed: FIELD=VALUE,VALUE;..., such as '
      "'hparams.epsilon=0.1,8/255;seed=0,1,2'"
    )
  parts: list[list[Row]] = []
  for number, part in enumerate(_split(text.rstrip('; \n'), ';'), 1):
    try:
      parts.append(_parse_part(part, config))
      _check_once([f for each in parts for f in each[0]], 'the sweep')
    except ValueError as error:
      raise ValueError(
        f'part {number} of the sweep, {part!r}: {error}'
      ) from error
  return [
    dict(itertools.chain.from_iterable(row.items() for row in rows))
    for rows in itertools.product(*parts)
  ]


def _split(text: str, separator: str) -> list[str]:
  """Splits at separators outside of parentheses and quotes."""
  pieces, depth, quote, before = [''], 0, '', ''
  for character in text:
    if quote:
      quote = '' if character == quote else quote
    elif character in _QUOTES and before in ('', '=', ','):
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
      f'not {"opened" if depth < 0 else "closed"}; allowed: pairs'
    )
  return [piece.strip() for piece in pieces]


def _parse_part(part: str, config: config_dict.ConfigDict) -> list[Row]:
  """The choices of a part."""
  if not part:
    raise ValueError("''; allowed: FIELD=VALUE,VALUE,...")
  form = re.fullmatch(r'(\w*)\s*\((.*)\)', part, re.DOTALL)
  forms = ('zip', 'list')
  name = choose('form of a sweep', form[1], forms) if form else 'values'
  pieces = _split(form[2], ';') if form else [part]
  if name == 'list':
    choices = []
    for piece in pieces:
      pairs = [_parse_values(pair, config) for pair in _split(piece, ',')]
      _check_once([field for field, _ in pairs], 'a trial')
      choices.append({field: value for field, (value,) in pairs})
  else:
    columns = [_parse_values(piece, config) for piece in pieces]
    fields = [field for field, _ in columns]
    _check_once(fields, name)
    lengths = [len(values) for _, values in columns]
    if len(set(lengths)) > 1:
      counted = ', '.join(
        f'{field} has {n}' for field, n in zip(fields, lengths, strict=True)
      )
      raise ValueError(f'{counted} values; allowed: lists of one length')
    choices = [
      dict(zip(fields, values, strict=True))
      for values in zip(*(values for _, values in columns), strict=True)
    ]
  return choices


def _parse_values(
  piece: str, config: config_dict.ConfigDict
) -> tuple[str, list[Any]]:
  """Parses `FIELD=V1,V2,...`."""
  name, equals, text = piece.partition('=')
  field = name.strip()
  if not equals:
    raise ValueError(f'{piece.strip()!r}; allowed: FIELD=VALUE,VALUE,...')
  kind = _field_kind(config, field)
  if not text.strip():
    raise ValueError(f"{field} = ''; allowed: VALUE,VALUE,...")
  values = _split(text.rstrip(', \n'), ',')
  return field, [_parse_value(field, value, kind) for value in values]


def _check_once(fields: list[str], where: str) -> None:
  for field, count in Counter(fields).items():
    if count > 1:
      raise ValueError(f'{where} sets {field} twice; allowed: each field once')


def collect_sweep(
  sweep: Callable[..., None], variant: str | None = None
) -> list[Row]:
  """Calls the `sweep` of a config file and returns what it adds.

  Args:
    sweep: `sweep(add)`, or `sweep(add, variant)`; it calls `add` once for
      each trial, with a mapping from dotted fields to values.
    variant: The variant of the config file; None: its default.

  Returns:
    What each trial sets, in the order of the calls; `create_trials` checks it.

  Raises:
    ValueError: if something else is added, or nothing at all.

  Example:
    >>> def sweep(add):
    ...   for epsilon in (0.1, 0.2):
    ...     add({'hparams.epsilon': epsilon, 'seed': 0})
    >>> collect_sweep(sweep)[1]
    {'hparams.epsilon': 0.2, 'seed': 0}
  """
  rows: list[Row] = []

  def add(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields, Mapping):
      raise ValueError(
        f'add({fields!r}) is call {len(rows) + 1}; allowed: a mapping '
        "from fields to values, such as {'hparams.epsilon': 0.1, 'seed': 0}"
      )
    rows.append(dict(fields))

  # A sweep whose trials are the same for all variants need not take one.
  takes_variant = len(inspect.signature(sweep).parameters) > 1
  sweep(*[add, variant] if variant is not None and takes_variant else [add])
  if not rows:
    raise ValueError('sweep(add) adds no trial; allowed: one or more')
  return rows


# ---------- trials


class Trial(NamedTuple):
  """One training run of a sweep; its config has references resolved.

  The name, 'epsilon=0.05,seed=0', is unique in the sweep, and a folder's.
  """

  name: str
  fields: Row
  config: config_dict.ConfigDict


def create_trials(
  config: config_dict.ConfigDict, rows: Sequence[Mapping[str, Any]]
) -> list[Trial]:
  """Creates the trials of a sweep, and checks all that can be without data.

  Fields that the config derives from others by references follow each trial's
  values; a derived field that is swept itself has the given values.

  Args:
    config: A training config of one network; not changed.
    rows: What each trial sets, from `parse_sweep` or `collect_sweep`.

  Returns:
    The trials, in the same order.

  Raises:
    ValueError: for an unknown or a shared field, a value of a wrong type or
      out of range, a field that the objective (or any other part) of a trial
      does not read, trials that set different fields, and trials that are
      trained alike; naming trial, field, value and what is allowed.

  Example:
    >>> trials = create_trials(default_config(), [{'seed': 0}, {'seed': 1}])
    >>> [trial.name for trial in trials], trials[1].config.seed
    (['seed=0', 'seed=1'], 1)
  """
  check_one_network(config, 'sweep')
  if config.seeds:
    raise ValueError(
      f'seeds = {config.seeds!r}; allowed: (), {_COMMON["seeds"]}'
    )
  rows = _convert(config, rows)
  trials: list[Trial] = []
  for name, row in zip(trial_names(rows), rows, strict=True):
    try:
      trials.append(Trial(name, row, _configure(config, row)))
    except (ArithmeticError, ValueError) as error:
      raise ValueError(f'trial {name!r} of the sweep: {error}') from error
  first: dict[str, int] = {}
  for number, made in enumerate(trials, 1):
    other = first.setdefault(_training_key(made.config), number)
    if other != number:
      raise ValueError(
        f'trials {other} ({trials[other - 1].name}) and {number} ({made.name}) '
        'of the sweep are equivalent, in float32; allowed: each trial once'
      )
  return trials


def shard_trials(
  trials: Sequence[Trial],
  shard: str,
  process_id: int = 0,
  num_processes: int = 1,
) -> list[Trial]:
  """Returns `trials[i::n][p::m]`: what process p of m takes of the shard i/n.

  The shard is that of one of n jobs.
  """
  found = re.fullmatch(r'\s*(\d+)\s*/\s*(\d+)\s*', shard)
  index, count = (int(found[1]), int(found[2])) if found else (0, 0)
  if index >= count:
    raise ValueError(
      f"shard = {shard!r}; allowed: i/n with 0 <= i < n, such as '0/4', the "
      'first of four'
    )
  return list(trials[index::count][process_id::num_processes])


def trial_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns a name for each trial of a sweep: what it sets.

  A name has the last part of each field (the whole name where two would end
  alike) and a short form of the value, the fields in alphabetical order but for
  the seed, which comes last. It depends neither on the order of the fields nor
  on the other trials, so that a larger sweep finds the trials it had; only
  values whose short forms look alike are written in full. Names are unique also
  where a file system ignores case.
  """
  fields = sorted(rows[0], key=lambda field: (field == 'seed', field))
  ends = Counter(field.rpartition('.')[2] for field in fields)
  parts = []
  for field in fields:
    end = field.rpartition('.')[2]
    label = end if ends[end] == 1 else field
    values = [row[field] for row in rows]
    different = {repr(value): _short(value).casefold() for value in values}
    counts = Counter(different.values())
    texts = [
      _short(v) if counts[_short(v).casefold()] == 1 else _full(v)
      for v in values
    ]
    parts.append([f'{label}={text}' for text in texts])
  names = [','.join(each) for each in zip(*parts, strict=True)]
  most = _MAX_NAME_LENGTH
  return [
    name if len(name) <= most else _with_digest(name[:most], name)
    for name in names
  ]


def _short(value: Any) -> str:
  if isinstance(value, tuple):
    return '-'.join(_short(item) for item in value) or 'none'
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f'{value:.6g}'
  return re.sub(r'[^A-Za-z0-9_.+-]', '-', str(value))


def _full(value: Any) -> str:
  is_float = isinstance(value, float)
  return repr(value) if is_float else _with_digest(_short(value), repr(value))


def _with_digest(name: str, text: str) -> str:
  return f'{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'


def _convert(
  config: config_dict.ConfigDict, rows: Sequence[Mapping[str, Any]]
) -> list[Row]:
  """Values of the right types, the fields in the order of the first trial."""
  if not rows or not rows[0]:
    raise ValueError(f'rows = {rows!r}; allowed: one or more, with fields')
  kinds = {field: _field_kind(config, field) for field in rows[0]}
  converted = []
  for number, row in enumerate(rows, 1):
    if set(row) != set(rows[0]):
      raise ValueError(
        f'trial {number} of the sweep sets {", ".join(row) or "nothing"}; '
        f'allowed: {", ".join(rows[0])}, as the first one'
      )
    try:
      converted.append({f: _convert_value(f, row[f], kinds[f]) for f in kinds})
    except ValueError as error:
      raise ValueError(f'trial {number} of the sweep: {error}') from error
  return converted


def _configure(
  config: config_dict.ConfigDict, row: Mapping[str, Any]
) -> config_dict.ConfigDict:
  """The config of a trial, references resolved, all of it checked."""
  # Trap: ConfigDict(config) would share the references; a deep copy has its
  # own.
  changed = copy.deepcopy(config)
  # All trials are watched and evaluated at the epsilon of the config, also if
  # it is derived from one that is swept.
  changed.evaluation = config.evaluation.copy_and_resolve_references()
  changed.monitor = config.monitor.copy_and_resolve_references()
  # The types are right; the config may write a traced number as an integer.
  with changed.unlocked(), changed.ignore_type():
    for field, value in row.items():
      section, _, name = field.rpartition('.')
      (changed[section] if section else changed)[name] = value
  for field, value in row.items():
    if changed[field] != value:
      raise ValueError(
        f'{field} = {value!r} became {changed[field]!r}; allowed: one of the '
        'fields that refer to the same value in the config'
      )
  resolved = changed.copy_and_resolve_references()
  check_trial(resolved, row)
  base = flatten_dict(config.to_dict(), sep='.')
  for field, value in flatten_dict(resolved.to_dict(), sep='.').items():
    first = field.partition('.')[0]
    if first in _COMMON and value != base[field]:
      raise ValueError(
        f'{field} = {value!r}, derived from a swept field; allowed: '
        f'{base[field]!r}, {_COMMON[first]}'
      )
  return resolved


def _training_key(config: config_dict.ConfigDict) -> str:
  """The same text for configs that train the same network."""
  # Not the fields that others are derived from; nothing reads those.
  fields = {field: config[field] for field in default_config()}
  # The traced numbers reach the device as float32.
  fields['hparams'] = {
    name: None if value is None else float(np.float32(value))
    for name, value in config.hparams.items()
  }
  return config_dict.ConfigDict(fields).to_json(sort_keys=True)


def check_trial(config: config_dict.ConfigDict, fields: Iterable[str]) -> None:
  """Checks all of a trial's config that can be checked without the data.

  Also a ValueError if nothing reads one of `fields`, which the sweep sets.
  """
  check_config(config)
  reads = hparams_of(config.objective.name) or config.hparams
  read_hparams(config.hparams, config.objective.name)
  create_objective(config.objective)
  # How many classes and steps there are is known when the data is loaded.
  create_model(config.model, num_classes=2)
  create_optimizer(config.optimizer)
  create_schedule(config.schedule, num_steps=100)
  create_decay(config.multiplier_decay)
  for field in fields:
    other, values = READ_UNDER.get(field, ('', ()))
    if field.startswith('multiplier_decay.') and 'multiplier' not in reads:
      other = 'objective.name'
      values = tuple(
        n for n in OBJECTIVES if 'multiplier' in (hparams_of(n) or ())
      )
    if other and config[other] not in values:
      raise ValueError(
        f'{field} = {config[field]!r} has no effect with {other} = '
        f'{config[other]!r}; allowed: {other} = '
        f'{" or ".join(repr(value) for value in values)}'
      )
