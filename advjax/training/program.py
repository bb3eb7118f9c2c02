"""The compiled programs of training, shared by all runs that can share them.

Compiling takes seconds, and the caches of jit and pmap know a function by its
identity: runs that differ in traced numbers alone (their seed, their hparams)
get the same functions.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import config_dict

from advjax.augmentation import create_augmentation
from advjax.config import default_config
from advjax.devices import AXIS, parallelize
from advjax.models import Model, create_model
from advjax.training.at_once import make_train_runs
from advjax.training.decay import create_decay
from advjax.training.gradients import Teams
from advjax.training.metrics import make_evaluate_metrics
from advjax.training.monitor import robust_accuracy_objective
from advjax.training.objectives import Objective, create_objective
from advjax.training.optimizers import create_optimizer, create_schedule
from advjax.training.step import (
  StepPlan,
  make_train_step,
  make_train_steps,
)
from advjax.training.unfreezing import check_unfreezing, staged_optimizer
from advjax.training.workdir import config_to_json

# What runs of one program may differ in: traced numbers, and the start.
OWN_FIELDS = ('seed', 'hparams', 'init_from')
_COMMON_FIELDS = frozenset(default_config()) - {'seeds', *OWN_FIELDS}
# What the steps depend on, besides the network and the sizes.
_STEP_FIELDS = (
  'augmentation',
  'objective',
  'optimizer',
  'schedule',
  'multiplier_decay',
  'num_epochs',
  'ema_decay',
  'unfreezing',
)


class Program(NamedTuple):
  """The functions of a run that hold no number of its own.

  Attributes:
    model: The network.
    objective: What is minimised.
    optimizer: Directions of the updates.
    train_steps: `(state, data, inputs, num_steps) -> (state, history)`.
    frozen_steps: The number of frozen stages -> the same, with so many.
    train_runs: The same for several runs at once (`make_train_runs`). With
      several teams, states, inputs and num_steps have another axis in front,
      over the devices, and so have the results.
    evaluate: The objective's mean metrics over a split.
    monitor: Clean and PGD accuracy over a split.
  """

  model: Model
  objective: Objective
  optimizer: optax.GradientTransformation
  train_steps: functools.partial
  frozen_steps: Callable[[int], functools.partial]
  train_runs: Callable
  evaluate: Callable
  monitor: Callable


def common_fields(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns the fields that runs have to share to be trained at once.

  Args:
    config: A training config.

  Returns:
    Its fields as JSON, but for those of `OWN_FIELDS`, and for those that are
    there only for others to be derived from.

  Example:
    >>> 'hparams' in common_fields(default_config())
    False
  """
  fields = config_to_json(config)
  return {name: fields.get(name) for name in sorted(_COMMON_FIELDS)}


def shared_program(
  config: Mapping[str, Any],
  num_classes: int,
  image_shape: Sequence[int],
  plan: StepPlan,
  devices: Sequence[jax.Device],
) -> Program:
  """Returns the program of a config; the same one for all that can share it.

  Args:
    config: A training config.
    num_classes: Classes.
    image_shape: `(H, W, C)` of the images.
    plan: Sizes.
    devices: The devices.

  Returns:
    The program; what is compiled on its first use stays for the next run.

  Raises:
    ValueError: for a model, augmentation, objective, optimizer or schedule
      that is wrong.

  Example:
    >>> plan = StepPlan(num_examples=100, batch_size=10, num_devices=1)
    >>> one, other = (
    ...   shared_program(
    ...     default_config(), 10, (8, 8, 1), plan, jax.devices()[:1]
    ...   )
    ...   for _ in range(2)
    ... )
    >>> one.train_steps is other.train_steps
    True
  """
  frozen = config_dict.FrozenConfigDict(config)
  placed = tuple(devices)
  batch_size = frozen.evaluation.batch_size
  precision = frozen.evaluation.matmul_precision
  model = _model(frozen.model, num_classes, plan.teams)
  steps = config_dict.FrozenConfigDict(
    {field: frozen[field] for field in _STEP_FIELDS}
    | {'num_classes': num_classes, 'image_shape': tuple(image_shape)}
  )
  check_unfreezing(frozen.unfreezing, model)
  objective, optimizer, train_steps, train_runs = _steps(
    model, steps, plan, placed, 0
  )
  return Program(
    model=model,
    objective=objective,
    optimizer=optimizer,
    train_steps=train_steps,
    frozen_steps=lambda count: _steps(model, steps, plan, placed, count)[2],
    train_runs=train_runs,
    evaluate=_evaluate(model, objective, placed, batch_size, precision),
    monitor=_evaluate(
      model,
      _monitor_objective(frozen.monitor.num_steps),
      placed,
      batch_size,
      precision,
    ),
  )


@functools.lru_cache(maxsize=16)
def _model(
  config: config_dict.FrozenConfigDict, num_classes: int, teams: Teams
) -> Model:
  return create_model(
    config, num_classes, axis_name=AXIS, axis_index_groups=teams
  )


@functools.lru_cache(maxsize=16)
def _steps(
  model: Model,
  config: config_dict.FrozenConfigDict,
  plan: StepPlan,
  devices: tuple[jax.Device, ...],
  num_frozen: int,
) -> tuple[
  Objective, optax.GradientTransformation, functools.partial, functools.partial
]:
  objective = create_objective(config.objective)
  optimizer = create_optimizer(config.optimizer)
  if config.unfreezing.name != 'none':
    optimizer = staged_optimizer(
      config.optimizer, model.stages, config.unfreezing.rate_factor, num_frozen
    )
  schedule = create_schedule(
    config.schedule, config.num_epochs * plan.steps_per_epoch
  )
  decay = create_decay(config.multiplier_decay)
  step = make_train_step(
    model.apply,
    objective,
    optimizer,
    schedule,
    ema_decay=config.ema_decay,
    multiplier_decay=None
    if config.multiplier_decay.name == 'constant'
    else decay,
    teams=plan.teams,
    num_frozen=num_frozen,
    in_parts=devices[0].platform == 'cpu',
  )
  augment = create_augmentation(
    config.augmentation, config.image_shape, config.num_classes
  )
  steps = make_train_steps(step, plan, augment)
  runs = make_train_runs(steps, batched=devices[0].platform != 'cpu')
  return (
    objective,
    optimizer,
    parallelize(steps, devices, num_args=4),
    parallelize(
      runs, devices, num_args=4, split_args=(0, 2, 3) if plan.teams else ()
    ),
  )


@functools.lru_cache(maxsize=16)
def _monitor_objective(num_steps: int) -> Objective:
  return robust_accuracy_objective(num_steps)


@functools.lru_cache(maxsize=32)
def _evaluate(
  model: Model,
  objective: Objective,
  devices: tuple[jax.Device, ...],
  batch_size: int,
  matmul_precision: str,
) -> Callable:
  return make_evaluate_metrics(
    model.apply,
    objective,
    devices,
    batch_size=batch_size,
    matmul_precision=matmul_precision,
  )
