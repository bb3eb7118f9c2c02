"""The members of a sweep: their names and configs."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import config_dict

from advjax.config import default_config
from advjax.sweeps.checks import check_member
from advjax.sweeps.fields import (
  SHARED,
  check_base,
  convert_value,
  field_kind,
  flatten,
)
from advjax.sweeps.names import member_names


class Member(NamedTuple):
  """One training run of a sweep.

  Attributes:
    name: What it sets, 'epsilon=0.05,seed=0': unique in the sweep, and good
      as the name of a folder.
    fields: Dotted field of the config -> value, in the order of the sweep.
    config: A whole training config, references resolved.
  """

  name: str
  fields: dict[str, Any]
  config: config_dict.ConfigDict


def create_members(
  config: config_dict.ConfigDict, settings: Sequence[Mapping[str, Any]]
) -> list[Member]:
  """Makes the members of a sweep, and checks all that can be without data.

  Fields that the config derives from others by references follow each
  member's values; a derived field that is swept itself is as given.

  Args:
    config: A training config of one network; not changed.
    settings: What each member sets, from `parse_sweep` or `collect_sweep`.

  Returns:
    The members, in the same order.

  Raises:
    ValueError: for an unknown or a shared field, a value of a wrong type or
      out of range, a field that the objective (or any other part) of a member
      does not read, members that set different fields, and members that are
      trained alike; naming member, field, value and what is allowed.

  Example:
    >>> config = default_config()
    >>> members = create_members(config, [{'seed': 0}, {'seed': 1}])
    >>> [member.name for member in members]
    ['seed=0', 'seed=1']
    >>> members[1].config.seed
    1
  """
  check_base(config)
  rows = _convert(config, settings)
  _check_different(
    [f'{number} ({_show(row)})' for number, row in enumerate(rows, 1)],
    [repr(list(row.values())) for row in rows],
    'set the same',
  )
  names = member_names(rows)
  base = flatten(config)
  members = []
  for name, row in zip(names, rows, strict=True):
    try:
      members.append(Member(name, row, _configure(config, row, base)))
    except (ArithmeticError, ValueError) as error:
      part = _part_at_fault(config, row, base, str(error))
      member = f'member {name!r}'
      where = f'{part} ({member})' if part else f'{member} of the sweep'
      raise ValueError(f'{where}: {error}') from error
  _check_different(
    [repr(name) for name in names],
    [_training_key(member.config) for member in members],
    'are trained alike: what they differ in makes no difference in float32',
  )
  return members


def shard_members(members: Sequence[Member], shard: str) -> list[Member]:
  """Returns the share of the members that falls to one of several jobs.

  The shards of all jobs together hold every member once: `members[i::n]`.

  Args:
    members: All members of a sweep.
    shard: 'i/n' with 0 <= i < n, such as '0/4', the first of four.

  Returns:
    The members of that shard, in their order; none where there are more jobs
    than members.

  Raises:
    ValueError: if `shard` is something else.

  Example:
    >>> settings = [{'seed': seed} for seed in range(5)]
    >>> members = create_members(default_config(), settings)
    >>> [member.name for member in shard_members(members, '1/2')]
    ['seed=1', 'seed=3']
  """
  found = re.fullmatch(r'\s*(\d+)\s*/\s*(\d+)\s*', shard)
  index, count = (int(found[1]), int(found[2])) if found else (0, 0)
  if index >= count:
    raise ValueError(
      f"shard = {shard!r}; allowed: i/n with 0 <= i < n, such as '0/4', the "
      'first of four'
    )
  return list(members[index::count])


def cut_shard(shard: str, process_id: int, num_processes: int) -> str:
  """Cuts a shard further, for several processes: members[i::n][p::m].

  Args:
    shard: 'i/n', as `shard_members` takes it; that one finds what is wrong.
    process_id: Which of the processes, from 0.
    num_processes: How many there are.

  Returns:
    The shard of that process.

  Example:
    >>> cut_shard('1/3', 0, 2), cut_shard('1/3', 1, 2)
    ('1/6', '4/6')
  """
  index, _, count = shard.partition('/')
  if num_processes == 1 or not (index.isdigit() and count.isdigit()):
    return shard
  place = int(index) + int(count) * process_id
  return f'{place}/{int(count) * num_processes}'


def _show(row: Mapping[str, Any]) -> str:
  return ', '.join(f'{field} = {value!r}' for field, value in row.items())


def _convert(
  config: config_dict.ConfigDict, settings: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Values of the right types, the fields in the order of the first member."""
  fields = list(settings[0]) if settings else []
  if not fields:
    raise ValueError('the sweep is empty: there is nothing to sweep')
  kinds = {field: field_kind(config, field) for field in fields}
  rows = []
  for number, setting in enumerate(settings, 1):
    if set(setting) != set(fields):
      raise ValueError(
        f'member {number} of the sweep sets {", ".join(setting) or "nothing"}, '
        f'the first one sets {", ".join(fields)}; allowed: the same fields in '
        'all'
      )
    try:
      rows.append({f: convert_value(f, setting[f], kinds[f]) for f in fields})
    except ValueError as error:
      raise ValueError(f'member {number} of the sweep: {error}') from error
  return rows


def _configure(
  config: config_dict.ConfigDict,
  row: Mapping[str, Any],
  base: Mapping[str, Any],
) -> config_dict.ConfigDict:
  """The config of a member, references resolved, all of it checked."""
  # Trap: ConfigDict(config) would share the references, a deep copy has its
  # own.
  changed = copy.deepcopy(config)
  # Types have been checked; and a traced number that the config writes as an
  # integer is no integer.
  with changed.unlocked(), changed.ignore_type():
    for field, value in row.items():
      section, _, name = field.rpartition('.')
      (changed[section] if section else changed)[name] = value
  for field, value in row.items():
    if changed[field] != value:
      raise ValueError(
        f'{field} = {value!r} became {changed[field]!r}: in the config it is '
        'one with another field that is swept; sweep over one of them'
      )
  resolved = changed.copy_and_resolve_references()
  check_member(resolved, row)
  _check_shared(resolved, base)
  return resolved


def _part_at_fault(
  config: config_dict.ConfigDict,
  row: Mapping[str, Any],
  base: Mapping[str, Any],
  message: str,
) -> str:
  """What a member sets without which it would be right; '' if no one thing."""
  # Where there are several, one that the error names.
  named = [f for f in row if re.search(rf'(?<![\w.]){re.escape(f)}\b', message)]
  for field in [*named, *row]:
    others = {other: row[other] for other in row if other != field}
    try:
      _configure(config, others, base)
    except (ArithmeticError, ValueError):
      continue
    value = row[field]
    short = f'{value:.6g}' if isinstance(value, float) else value
    return f'{field}={short}'
  return ''


def _check_shared(
  config: config_dict.ConfigDict, base: Mapping[str, Any]
) -> None:
  """Raises a ValueError if a shared field follows a swept one."""
  for field, value in flatten(config).items():
    first, _, _ = field.partition('.')
    if first in SHARED and value != base[field]:
      raise ValueError(
        f'{field} = {value!r} follows a field that is swept, but members have '
        f'it in common: {SHARED[first]}'
      )


def _training_key(config: config_dict.ConfigDict) -> str:
  """The same text for configs that train the same network."""
  # A field that only others are derived from is read by nothing itself.
  fields = {field: config[field] for field in default_config()}
  # The traced numbers reach the device as float32.
  fields['hparams'] = {
    name: None if value is None else float(np.float32(value))
    for name, value in config.hparams.items()
  }
  return config_dict.ConfigDict(fields).to_json(sort_keys=True)


def _check_different(
  names: Sequence[str], keys: Sequence[str], what: str
) -> None:
  """Raises a ValueError that names two members of the same key."""
  first: dict[str, str] = {}
  for name, key in zip(names, keys, strict=True):
    if key in first:
      raise ValueError(
        f'members {first[key]} and {name} of the sweep {what}; allowed: each '
        'member once'
      )
    first[key] = name
