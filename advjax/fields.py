"""The fields that a config may have, which flags set and `--help` lists.

The sections `dataset`, `model` and `objective` have the parameters of what
their `name` chooses, `hparams` those that the objective reads. A config lists
some of them; a flag may set any other.
"""

import collections
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from advjax._extras import flax, ml_collections  # noqa: F401  # isort: skip
from flax.traverse_util import flatten_dict
from ml_collections import config_dict

from advjax.config import (
  FIELDS,
  SHARED,
  choose,
  default_config,
  find,
  member_config,
  member_names,
  parameters_of,
)
from advjax.data import LOADERS
from advjax.models.create import ARCHITECTURES
from advjax.training.objectives import OBJECTIVES, hparams_of

# Section -> what its `name` chooses from.
CHOICES: dict[str, Mapping[str, Callable[..., Any]]] = {
  'dataset': LOADERS,
  'model': ARCHITECTURES,
  'objective': OBJECTIVES,
}
# What the parameters of these are, and the hparams.
HELP = {
  'model.conv_filters': 'Filters of each convolution.',
  'model.kernel_size': 'Height and width of the kernels.',
  'model.pool_size': 'Window and stride of max-pooling between convolutions.',
  'model.num_fc_units': 'Units of the dense layers before the last.',
  'model.hidden_units': 'Units of the dense layers before the last.',
  'model.batch_norm': 'BatchNorm before each ReLU of a convolution.',
  'model.zero_init': 'Initial weights of the last layer are 0.',
  'model.widths': 'Channels of the stages.',
  'model.stem': 'cifar (3 x 3), strided (stride 2) or imagenet (and a pool).',
  'model.normalization': 'batch or group.',
  'model.dtype': 'Of the activations: float32 or bfloat16.',
  'model.architecture': 'A function of keras.applications.',
  'model.weights': 'random, imagenet or a file.',
  'objective.norm': "Of the perturbations: linf (NSL's infinity), l2 or l1.",
  'objective.num_steps': 'Steps of the attack.',
  'objective.random_start': 'Whether the attack starts at a random point.',
  'objective.bounds': 'Clip of perturbed pixels; None: no clip.',
  'objective.mask': "NSL's feature_mask, in [0, 1].",
  'objective.adversarial_batch_stats': (
    'Whether adversarial images update BatchNorm statistics.'
  ),
  'objective.attack_batch_norm': 'Mode of BatchNorm in attacks: eval or train.',
  'objective.attack_loss': (
    'Ascended by the attack: cross_entropy, margin, dlr or module:function.'
  ),
  'objective.clean_metrics': 'Whether clean accuracy is measured every step.',
  'objective.distance': (
    'l2, l1, cosine, kl, jensen_shannon or module:function, of two logits.'
  ),
  'objective.transform': 'Of the logits before the distance: none or softmax.',
  'hparams.epsilon': 'Radius to train on; None: no projection, where allowed.',
  'hparams.step_size': 'Length of a step of the attack.',
  'hparams.noise_size': 'Radius of the uniform noise before the step.',
  'hparams.beta': 'Weight of the divergence.',
  'hparams.multiplier': 'Weight of the regularization.',
  'hparams.approx_difference': "NSL's finite difference.",
}
_KINDS = (bool, int, float, str, tuple)


def help_of(field: str) -> str:
  """The line about a field; '' for one of a user's own."""
  return FIELDS[field][1] if field in FIELDS else HELP.get(field, '')


def options(section: str, name: str) -> dict[str, Any]:
  """The defaults of what a name chooses, as a config holds them."""
  chosen = find(f'{section}.name', name, CHOICES[section])
  skip = section == 'model'  # Its first parameter is the number of classes.
  parameters = [*parameters_of(chosen).items()][skip:]
  found = {
    field: _default(each)
    for field, each in parameters
    if isinstance(each.default, (*_KINDS, type(None)))
    or each.default is each.empty
  }
  if section == 'dataset':
    found['classes'] = config_dict.placeholder(tuple)
  return found


def _default(parameter: inspect.Parameter) -> Any:
  """The default of a parameter; a placeholder where that has no type."""
  default, annotation = parameter.default, parameter.annotation
  if default is not inspect.Parameter.empty and default is not None:
    return default
  kinds = (annotation, *typing.get_args(annotation))
  return config_dict.placeholder(
    next((kind for kind in _KINDS if kind in kinds), object)
  )


def _number() -> Any:
  return config_dict.placeholder(float)


def allowed_fields(
  config: config_dict.ConfigDict, section: str
) -> dict[str, Any]:
  """Field -> value, of all that a section ('' is the top) may have.

  Fields that the config lacks have their defaults, or placeholders.
  """
  first, _, inner = section.partition('.')
  common = default_config()
  if 'members' in config and first in member_names(config):
    own = member_config(config, first)
    if inner:
      return allowed_fields(own, inner)
    return {name: own[name] for name in common if name not in SHARED}
  found = dict((config[section] if section else config).items())
  if section in CHOICES:
    return {**options(section, found['name']), **found}
  if section == 'hparams':
    reads = hparams_of(config.objective.name)
    if reads is None:  # Not declared: any number.
      return collections.defaultdict(_number, found)
    empty = inspect.Parameter.empty
    return {
      **{n: _number() if d in (empty, None) else d for n, d in reads.items()},
      **found,
    }
  known = common if not section else common.get(section, {})
  return {**dict(known.items()), **found}


def add_fields(
  config: config_dict.ConfigDict, given: Mapping[str, str]
) -> dict[str, str]:
  """Adds the fields that flags set and a config lacks; in place.

  A name that differs changes its section: fields that are not read under it are
  removed, for an objective also hparams.

  Args:
    config: A config, references included.
    given: Dotted field -> its text.

  Returns:
    Those left to flags, which cannot say None and ().

  Raises:
    ValueError: for a field or a name that is unknown.
  """
  members = member_names(config) if 'members' in config else ()
  left = dict(given)
  for field in sorted(given, key=lambda f: f.rpartition('.')[2] != 'name'):
    if '' in field.split('.'):
      raise ValueError(f'{_flag(field)}; allowed: names between the dots')
    section, _, last = field.rpartition('.')
    first, _, inner = field.partition('.')
    if first in members and inner.partition('.')[0] in SHARED:
      raise ValueError(
        f'{_flag(field)} = {given[field]}; allowed: {_flag(inner)}, since '
        f'{", ".join(sorted(SHARED))} are common to all members'
      )
    if field in ('model.name', 'objective.name') and members:
      own = [config.get(f'{name}.{section}', {}) for name in members]
      if all('name' in each for each in own):
        raise ValueError(
          f'{_flag(field)}: each member has its own; allowed: '
          f'--config.MEMBER.{field}'
        )
    owner = _section(config, section)
    if last not in owner:
      allowed = allowed_fields(config, section)
      if not isinstance(allowed, collections.defaultdict):
        choose(f'field of {_flag(section)}', last, allowed)
      owner[last] = allowed[last]
    kind = section.rpartition('.')[2]
    if last == 'name' and kind in CHOICES and given[field] != owner.name:
      _switch(config, section, given[field])
    text, kind = left[field], owner.get_type(last)
    is_section = kind is config_dict.ConfigDict and text[:1] != '{'
    if text == 'None' or is_section or (not text and kind is not str):
      fits = _may_be_none(config, section, last)
      if not fits and (text or kind is not tuple):
        one = f'of {_flag(field)}.FIELD' if is_section else f'({kind.__name__})'
        raise ValueError(f'{_flag(field)} = {text}; allowed: a value {one}')
      with config.ignore_type():
        owner[last] = None if fits else ()
      del left[field]
    elif kind is tuple:
      left[field] = text.rstrip(', ')
  return left


def _flag(field: str) -> str:
  return f'--config.{field}'.removesuffix('.')


def _may_be_none(
  config: config_dict.ConfigDict, section: str, field: str
) -> bool:
  kind = section.rpartition('.')[2]
  if kind == 'hparams' or field == 'bounds':
    return True
  default = FIELDS.get(f'{kind}.{field}', (None,))[0]
  if default is None and kind in CHOICES:
    name = allowed_fields(config, section)['name']
    default = options(kind, name).get(field)
    function = find(f'{kind}.name', name, CHOICES[kind])
    annotation = getattr(parameters_of(function).get(field), 'annotation', None)
    if type(None) in typing.get_args(annotation):
      return True
  return isinstance(default, config_dict.FieldReference | type)


def _section(config: config_dict.ConfigDict, path: str) -> Any:
  """The section at a path, of a model perhaps a new one, without fields."""
  owner, above = config, ''
  for name in filter(None, path.split('.')):
    if name not in owner:
      choose(f'field of {_flag(above)}', name, allowed_fields(config, above))
      owner[name] = {}
    owner, above = owner[name], f'{above}.{name}'.removeprefix('.')
    if not isinstance(owner, config_dict.ConfigDict):
      raise ValueError(
        f'{_flag(above)} = {owner!r} has no fields; allowed: {_flag(above)}=...'
      )
  return owner


def _switch(config: config_dict.ConfigDict, section: str, name: str) -> None:
  """Keeps those fields of a section that are read under another name."""
  above, _, kind = section.rpartition('.')
  config[section].name = name
  for field in {*config[section]} - {'name', *options(kind, name)}:
    del config[section][field]
  reads = hparams_of(name) if kind == 'objective' else None
  if reads is None or ('members' in config and not above):
    return  # Members read hparams of the common section.
  hparams = _section(config, f'{above}.hparams'.removeprefix('.'))
  for field in {*allowed_fields(config, above)['hparams']} - {*reads}:
    if field in hparams:
      del hparams[field]
    if above and field in config.hparams:
      hparams[field] = _number()  # None, in place of the common number.


def write_defaults(config: config_dict.ConfigDict) -> None:
  """Writes the defaults of a user's own functions into a config or a member's.

  So that config.json holds what was trained, whatever becomes of the functions.
  """
  for section in CHOICES:
    name = config.get(section, {}).get('name', '')
    if ':' in name:
      defaults = options(section, name)
      config[section].update({**defaults, **dict(config[section].items())})


def all_fields(config: config_dict.ConfigDict) -> Iterator[tuple[str, Any]]:
  """Yields each field that a config may have, and its value or reference."""
  members = member_names(config) if 'members' in config else ()
  for section in ('', *config):
    if section and not isinstance(config[section], config_dict.ConfigDict):
      continue
    fields = allowed_fields(config, section)
    if section in members:  # Of a model, what its section sets.
      fields = flatten_dict(config[section].to_dict(), sep='.')
    for name, value in fields.items():
      if not isinstance(value, config_dict.ConfigDict):
        yield f'{section}.{name}'.removeprefix('.'), value


def describe(config: config_dict.ConfigDict) -> str:
  """All fields of a config, a line each: flag, value, meaning, default."""
  plain, lines = default_config(), []
  for section in CHOICES:
    plain[section] = {'name': config[section].name}
  defaults = dict(all_fields(plain))
  empty, reads = inspect.Parameter.empty, hparams_of(config.objective.name)
  required = {f'hparams.{n}' for n, d in (reads or {}).items() if d is empty}
  for field, given in all_fields(config):
    value, default = _value(given), _value(defaults.get(field, given))
    missing = value is None and field in required and 'members' not in config
    shown = '(required)' if missing else repr(value)
    line = f'  --config.{field}={shown}  {help_of(field)}'.rstrip()
    if default not in (None, value):
      line += f' Default: {default!r}.'
    lines.append(line)
  if 'members' in config:
    lines.append('  --config.MEMBER.FIELD=...  Any of these, of one model.')
  return '\n'.join(lines)


def _value(value: Any) -> Any:
  return value.get() if isinstance(value, config_dict.FieldReference) else value
