"""The objectives by name, and the traced numbers that each reads."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from advjax.config import choose
from advjax.training.objectives.adversarial_training import (
  fgsm_at,
  noisy_fgsm_at,
  pgd_at,
  trades,
)
from advjax.training.objectives.common import Objective
from advjax.training.objectives.regularization import (
  adversarial_regularization,
  standard,
)
from advjax.training.objectives.virtual import (
  virtual_adversarial_regularization,
)


class ObjectiveSpec(NamedTuple):
  """A factory, and the hparams that its objectives read."""

  factory: Callable[..., Objective]
  required: tuple[str, ...] = ()
  optional: tuple[str, ...] = ()
  # Those of them that may not be 0.
  positive: tuple[str, ...] = ()


OBJECTIVES: dict[str, ObjectiveSpec] = {
  'standard': ObjectiveSpec(standard),
  'adversarial_regularization': ObjectiveSpec(
    adversarial_regularization, ('multiplier', 'step_size'), ('epsilon',)
  ),
  'virtual_adversarial_regularization': ObjectiveSpec(
    virtual_adversarial_regularization,
    ('multiplier', 'step_size'),
    ('approx_difference',),
    ('approx_difference',),
  ),
  'fgsm_at': ObjectiveSpec(fgsm_at, ('epsilon', 'step_size')),
  'noisy_fgsm_at': ObjectiveSpec(noisy_fgsm_at, ('noise_size', 'step_size')),
  'pgd_at': ObjectiveSpec(pgd_at, ('epsilon', 'step_size')),
  'trades': ObjectiveSpec(trades, ('epsilon', 'step_size', 'beta')),
}


def create_objective(config: Mapping[str, Any]) -> Objective:
  """Builds the objective that a config names, with its factory's options."""
  options = dict(config)
  name = choose('objective', options.pop('name'), OBJECTIVES)
  factory = OBJECTIVES[name].factory
  for option in options:
    choose(f'option of {name}', option, inspect.signature(factory).parameters)
  num_steps = options.get('num_steps', 1)
  if not isinstance(num_steps, int) or num_steps < 1:
    raise ValueError(
      f'objective.num_steps = {num_steps!r}; allowed: an integer >= 1'
    )
  return factory(**options)


def read_hparams(
  hparams: Mapping[str, float | None], objective_name: str
) -> dict[str, float]:
  """Returns the numbers of a run, checked against what its objective reads.

  None counts as not given.
  """
  choose('objective', objective_name, OBJECTIVES)
  spec = OBJECTIVES[objective_name]
  reads = ('learning_rate', *spec.required, *spec.optional)
  given = {name: value for name, value in hparams.items() if value is not None}
  for name, value in given.items():
    if name not in reads:
      raise ValueError(
        f'hparams.{name} = {value!r} is not read by the objective '
        f'{objective_name!r}, which reads {", ".join(reads)}'
      )
    if not isinstance(value, (int, float)) or not 0 <= value < float('inf'):
      raise ValueError(
        f'hparams.{name} = {value!r}; allowed: a finite number >= 0'
      )
    if name in spec.positive and value == 0:
      raise ValueError(f'hparams.{name} = {value!r}; allowed: a number > 0')
  for name in ('learning_rate', *spec.required):
    if name not in given:
      raise ValueError(
        f'hparams.{name} is missing: the objective {objective_name!r} reads '
        f'{", ".join(reads)}'
      )
  return {name: float(value) for name, value in given.items()}
