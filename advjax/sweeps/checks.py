"""What is wrong with a member's config, found before anything is computed."""

from collections.abc import Iterable

from ml_collections import config_dict

from advjax.config_checks import check_config
from advjax.models import create_model
from advjax.training.decay import create_decay
from advjax.training.objectives import (
  OBJECTIVES,
  create_objective,
  read_hparams,
)
from advjax.training.optimizers import create_optimizer, create_schedule

_DECAYS = ('exponential', 'inverse_time', 'natural_exp')
_ADAMS = ('adam', 'adamw')
# Fields that are read under some values of another field alone. Under the
# others, members that differ in them would be trained alike.
READ_UNDER: dict[str, tuple[str, tuple[str, ...]]] = {
  'multiplier_decay.decay_steps': ('multiplier_decay.name', _DECAYS),
  'multiplier_decay.decay_rate': ('multiplier_decay.name', _DECAYS),
  'multiplier_decay.min_value': ('multiplier_decay.name', _DECAYS),
  'optimizer.b1': ('optimizer.name', _ADAMS),
  'optimizer.b2': ('optimizer.name', _ADAMS),
  'optimizer.eps': ('optimizer.name', _ADAMS),
  'optimizer.momentum': ('optimizer.name', ('sgd',)),
  'optimizer.nesterov': ('optimizer.name', ('sgd',)),
  'schedule.warmup': ('schedule.name', ('cosine', 'one_cycle')),
  'schedule.boundaries': ('schedule.name', ('piecewise',)),
  'schedule.factor': ('schedule.name', ('piecewise',)),
  'monitor.every_epochs': ('report_checkpoint', ('best',)),
  'monitor.num_images': ('report_checkpoint', ('best',)),
  'monitor.epsilon': ('report_checkpoint', ('best',)),
  'monitor.num_steps': ('report_checkpoint', ('best',)),
}


def check_member(config: config_dict.ConfigDict, fields: Iterable[str]) -> None:
  """Raises a ValueError if a member's config is wrong, or a field idle.

  All is checked here that can be without the data.

  Args:
    config: The config of a member.
    fields: The dotted fields that the sweep sets.

  Raises:
    ValueError: naming the field, its value and what is allowed.

  Example:
    >>> from advjax.config import default_config
    >>> check_member(default_config(), ['optimizer.b1'])
  """
  check_config(config)
  _check_hparams(config, set(fields))
  create_objective(config.objective)
  # How many classes and steps there are is known when the data is loaded.
  create_model(config.model, num_classes=2)
  create_optimizer(config.optimizer)
  create_schedule(config.schedule, num_steps=100)
  create_decay(config.multiplier_decay)
  for field in fields:
    _check_read(config, field)


def _check_hparams(config: config_dict.ConfigDict, fields: set[str]) -> None:
  """Raises a ValueError if the objective does not read the traced numbers."""
  name = config.objective.name
  if 'objective.name' in fields and name in OBJECTIVES:
    spec = OBJECTIVES[name]
    reads = ('learning_rate', *spec.required, *spec.optional)
    idle = {
      f'hparams.{hparam}': value
      for hparam, value in config.hparams.items()
      if value is not None and hparam not in reads
    }
    for field, value in idle.items():
      if field not in fields:
        raise ValueError(
          f'{field} = {value!r} of the config is not read by the objective '
          f'{name!r}, which reads {", ".join(reads)}; sweep over objectives '
          'that read the same hparams'
        )
  read_hparams(config.hparams, name)


def _check_read(config: config_dict.ConfigDict, field: str) -> None:
  """Raises a ValueError if nothing reads a swept field."""
  if field.startswith('multiplier_decay.'):
    name = config.objective.name
    spec = OBJECTIVES[name]
    if 'multiplier' not in (*spec.required, *spec.optional):
      raise ValueError(
        f'{field} = {config[field]!r} has no effect: the objective {name!r} '
        'reads no multiplier'
      )
  if field in READ_UNDER:
    other, values = READ_UNDER[field]
    if config[other] not in values:
      allowed = ' or '.join(repr(value) for value in values)
      raise ValueError(
        f'{field} = {config[field]!r} has no effect: {other} = '
        f'{config[other]!r}, and it is read under {allowed} alone'
      )
