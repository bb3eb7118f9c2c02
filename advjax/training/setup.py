"""From a config to a run: everything training needs, checked beforehand.

Also what its sections name: optimizers, schedules, decays and unfreezing.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import config_dict

from advjax.augmentation import create_augmentation
from advjax.config import check_config, check_range, choose
from advjax.data import Dataset, Split, holdout
from advjax.devices import AXIS, parallelize, replicate
from advjax.models import Model, create_model
from advjax.processes.collectives import from_main
from advjax.training import checkpoint
from advjax.training.objectives import (
  Objective,
  create_objective,
  make_evaluate,
  read_hparams,
  robust_accuracy_objective,
)
from advjax.training.step import (
  Decay,
  Groups,
  RunInputs,
  StepPlan,
  TrainState,
  create_state,
  make_train_step,
  make_train_steps,
)
from advjax.types import Array, ArrayLike

OPTIMIZERS = ('sgd', 'adam', 'adamw')
SCHEDULES = ('constant', 'cosine', 'one_cycle', 'piecewise')
DECAYS = ('constant', 'exponential', 'inverse_time', 'natural_exp')
_DECAY_FIELDS = ('name', 'decay_steps', 'decay_rate', 'min_value')
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


class Run(NamedTuple):
  """A training run.

  Attributes:
    rows: Indices of the images of `train_split` to train on, int32 `[N]`.
    monitor_split: Held-out images, or, with `num_validation` 0, training ones.
    device_steps: The steps as per-device code (`make_train_steps`).
    train_steps: The same, mapped over the devices:
      `(state, data, inputs, num_steps) -> (state, history)`.
    frozen_steps: Number of frozen stages -> the same with so many.
    evaluate: The objective's mean metrics over a split (`make_evaluate`).
    monitor: Clean and PGD accuracy over a split.
  """

  config: config_dict.ConfigDict
  model: Model
  objective: Objective
  optimizer: optax.GradientTransformation
  hparams: dict[str, float]
  plan: StepPlan
  train_split: Split
  rows: np.ndarray
  key: Array
  monitor_split: Split
  test_split: Split
  num_classes: int
  devices: Sequence[jax.Device]
  device_steps: Callable
  train_steps: functools.partial
  frozen_steps: Callable[[int], functools.partial]
  evaluate: Callable
  monitor: Callable

  @property
  def num_steps(self) -> int:
    """Steps of the whole run."""
    return self.config.num_epochs * self.plan.steps_per_epoch

  @property
  def inputs(self) -> RunInputs:
    """The inputs that distinguish this run from others of its program."""
    return RunInputs(
      rows=jnp.asarray(self.rows),
      hparams={name: jnp.float32(v) for name, v in self.hparams.items()},
      key=self.key,
    )

  @property
  def final_hparams(self) -> dict[str, float]:
    """The hparams after the last step, with the multiplier decayed."""
    if 'multiplier' not in self.hparams:
      return self.hparams
    decay = create_decay(self.config.multiplier_decay)
    multiplier = decay(self.hparams['multiplier'], self.num_steps)
    return self.hparams | {'multiplier': float(multiplier)}

  def init_state(self) -> TrainState:
    """Returns the state before the first step."""
    images = jnp.zeros((1, *self.train_split.images.shape[1:]))
    init_key, _ = jax.random.split(jax.random.key(self.config.seed))
    state = create_state(
      self.model,
      self.optimizer,
      images,
      init_key,
      with_ema=self.config.ema_decay > 0,
    )
    path = self.config.init_from
    if path:
      return from_main(lambda: checkpoint.load_params(path, state))
    return state


def create_run(
  config: config_dict.ConfigDict,
  dataset: Dataset,
  devices: Sequence[jax.Device],
  *,
  num_groups: int = 1,
) -> Run:
  """Builds a run from its config; nothing is computed yet.

  Compiled programs are kept by what they depend on: runs that differ in traced
  numbers alone have the same ones. `num_groups` divides the number of devices.
  A ValueError for any field that is wrong, naming it.
  """
  check_config(config)
  group_size = len(devices) // num_groups
  if config.batch_size < group_size:
    raise ValueError(
      f'batch_size = {config.batch_size}; allowed: at least the number of '
      f'devices, {group_size}'
    )
  hparams = read_hparams(config.hparams, config.objective.name)
  decay_name = config.multiplier_decay.name
  create_decay(config.multiplier_decay)
  if decay_name != 'constant' and 'multiplier' not in hparams:
    raise ValueError(
      f"multiplier_decay.name = {decay_name!r}; allowed: 'constant', for the "
      f'objective {config.objective.name!r} reads no multiplier'
    )
  train_split = dataset.train
  train_rows, held_out = holdout(
    len(train_split.labels), config.num_validation, config.seed
  )
  monitored = held_out if config.num_validation else train_rows
  monitored = monitored[: config.monitor.num_images]
  plan = StepPlan(len(train_rows), config.batch_size, group_size, num_groups)
  image_shape = tuple(train_split.images.shape[1:])

  placed = tuple(devices)
  frozen = config_dict.FrozenConfigDict(config)
  model = _model(frozen.model, dataset.num_classes, plan.groups)
  params, model_state = network_shapes(model, config.model.name, image_shape)
  if config.unfreezing.name != 'none':
    check_unfreezing(config.unfreezing, model.stages, params)
  step_config = config_dict.FrozenConfigDict(
    {field: frozen[field] for field in _STEP_FIELDS}
    | {'num_classes': dataset.num_classes, 'image_shape': image_shape}
  )
  steps = functools.partial(_steps, model, step_config, plan, placed)
  objective, optimizer, device_steps = steps(0)
  evaluate, monitor = (
    make_evaluate(
      model.apply,
      each,
      placed,
      batch_size=frozen.evaluation.batch_size,
      matmul_precision=frozen.evaluation.matmul_precision,
    )
    for each in (objective, robust_accuracy_objective(frozen.monitor.num_steps))
  )
  if config.init_from:
    # Read once for its errors, before anything is written or computed.
    like = TrainState(jnp.zeros(()), params, model_state, (), None)
    from_main(lambda: checkpoint.load_params(config.init_from, like))
  return Run(
    config=config,
    model=model,
    objective=objective,
    optimizer=optimizer,
    hparams=hparams,
    plan=plan,
    train_split=train_split,
    rows=train_rows,
    key=jax.random.split(jax.random.key(config.seed))[1],
    monitor_split=Split(
      train_split.images[monitored], train_split.labels[monitored]
    ),
    test_split=dataset.test,
    num_classes=dataset.num_classes,
    devices=devices,
    device_steps=device_steps,
    train_steps=_mapped(device_steps, placed, num_args=4),
    frozen_steps=lambda count: _mapped(steps(count)[2], placed, num_args=4),
    evaluate=evaluate,
    monitor=monitor,
  )


def device_inputs(run: Run) -> tuple[dict[str, Array], RunInputs]:
  """Returns `(data, inputs)` of `run.train_steps` on the run's devices."""
  split = run.train_split
  data = {'image': split.images, 'label': split.labels}
  return replicate(data, run.devices), replicate(run.inputs, run.devices)


def network_shapes(model: Model, name: str, shape: Sequence[int]) -> Any:
  """The shapes of a network's parameters and state for images `(H, W, C)`."""
  images = jax.ShapeDtypeStruct((1, *shape), np.float32)
  try:
    return jax.eval_shape(model.init, jax.random.key(0), images)
  except (TypeError, ValueError, ZeroDivisionError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'model.name = {name!r} does not take images of shape {tuple(shape)}: '
      f'{reason}'
    ) from error


@functools.lru_cache(maxsize=16)
def _model(
  config: config_dict.FrozenConfigDict, num_classes: int, groups: Groups
) -> Model:
  return create_model(
    config, num_classes, axis_name=AXIS, axis_index_groups=groups
  )


@functools.lru_cache(maxsize=16)
def _steps(
  model: Model,
  config: config_dict.FrozenConfigDict,
  plan: StepPlan,
  devices: tuple[jax.Device, ...],
  num_frozen: int,
) -> tuple[Objective, optax.GradientTransformation, Callable]:
  objective = create_objective(config.objective)
  optimizer = create_optimizer(config.optimizer)
  if config.unfreezing.name != 'none':
    optimizer = staged_optimizer(
      config.optimizer, model.stages, config.unfreezing.rate_factor, num_frozen
    )
  decays = config.multiplier_decay.name != 'constant'
  step = make_train_step(
    model.apply,
    objective,
    optimizer,
    create_schedule(config.schedule, config.num_epochs * plan.steps_per_epoch),
    ema_decay=config.ema_decay,
    multiplier_decay=create_decay(config.multiplier_decay) if decays else None,
    groups=plan.groups,
    num_frozen=num_frozen,
    microbatches=devices[0].platform == 'cpu',
  )
  augment = create_augmentation(
    config.augmentation, config.image_shape, config.num_classes
  )
  return objective, optimizer, make_train_steps(step, plan, augment)


_mapped = functools.lru_cache(maxsize=16)(parallelize)


# ---------------------------------- optimizers, schedules and decays
#
# An optimizer here yields the direction of the update; the training step scales
# it by `-learning_rate * schedule(step)`. So the learning rate stays a traced
# number, and a schedule is a shape in [0, 1].


def create_optimizer(
  config: Mapping[str, Any],
) -> optax.GradientTransformation:
  """Builds the transformation of gradients into update directions.

  `weight_decay` is added to the gradient for sgd and adam (an l2 penalty), to
  the update for adamw.
  """
  name = choose('optimizer', config['name'], OPTIMIZERS)
  for field in ('b1', 'b2', 'momentum'):
    check_range(f'optimizer.{field}', config[field], 0.0, 1.0)
  for field in ('eps', 'weight_decay'):
    check_range(f'optimizer.{field}', config[field], 0.0)
  decay = optax.add_decayed_weights(config['weight_decay'])
  if name == 'sgd':
    return optax.chain(
      decay,
      optax.trace(decay=config['momentum'], nesterov=config['nesterov']),
    )
  adam = optax.scale_by_adam(config['b1'], config['b2'], config['eps'])
  return (
    optax.chain(decay, adam) if name == 'adam' else optax.chain(adam, decay)
  )


def create_schedule(
  config: Mapping[str, Any], num_steps: int
) -> optax.Schedule:
  """Builds the shape of the learning rate: step -> a factor in [0, 1].

  `warmup` is the share of the steps that rises from 0 (cosine, one_cycle, whose
  lines are straight); `boundaries` are shares of the run after which the rate
  is multiplied by `factor` (piecewise).
  """
  name = choose('schedule', config['name'], SCHEDULES)
  if name == 'constant':
    return optax.constant_schedule(1.0)
  if name == 'piecewise':
    check_range('schedule.factor', config['factor'], 0.0, 1.0)
    for index, boundary in enumerate(config['boundaries']):
      check_range(f'schedule.boundaries[{index}]', boundary, 0.0, 1.0)
    return optax.piecewise_constant_schedule(
      1.0,
      {
        int(share * num_steps): config['factor']
        for share in config['boundaries']
      },
    )
  check_range('schedule.warmup', config['warmup'], 0.0, 1.0)
  rise = int(config['warmup'] * num_steps)
  fall = max(num_steps - rise, 1)
  down = (
    optax.cosine_decay_schedule(1.0, fall)
    if name == 'cosine'
    else optax.linear_schedule(1.0, 0.0, fall)
  )
  up = optax.linear_schedule(0.0, 1.0, rise)
  return optax.join_schedules([up, down], [rise]) if rise else down


def create_decay(config: Mapping[str, Any]) -> Decay:
  """Builds the decay of `hparams.multiplier`: NSL's `decay_over_time`.

  With p = step / decay_steps:

  exponential:  max(value * decay_rate ** p, min_value)
  inverse_time: max(value / (1 + decay_rate * p), min_value)
  natural_exp:  max(value * exp(-decay_rate * p), min_value)
  constant:     value

  Trap: as in NSL, `min_value` also lifts a value that starts below it.
  """
  for field in config:
    choose('field of multiplier_decay', field, _DECAY_FIELDS)
  name = choose('multiplier_decay', config['name'], DECAYS)
  steps = config.get('decay_steps', 1000)
  rate = config.get('decay_rate', 0.96)
  low = config.get('min_value', 0.0)
  check_range('multiplier_decay.decay_steps', steps, 1, integer=True)
  check_range('multiplier_decay.decay_rate', rate, 0.0)
  check_range('multiplier_decay.min_value', low, 0.0)
  if name == 'constant':
    return lambda value, step: jnp.asarray(value)

  def decay(value: ArrayLike, step: ArrayLike) -> Array:
    progress = jnp.asarray(step) / steps
    if name == 'exponential':
      decayed = value * rate**progress
    elif name == 'inverse_time':
      decayed = value / (1 + rate * progress)
    else:
      decayed = value * jnp.exp(-rate * progress)
    return jnp.maximum(decayed, low)

  return decay


# ----------------------------------------------------------- gradual unfreezing
#
# At first only the head is trained. Each time the training loss stops falling,
# the next stage towards the images is unfrozen, until all are. Neither the
# parameters of frozen stages change nor their BatchNorm statistics. (Howard and
# Ruder 2018, arXiv 1801.06146, unfreeze by epoch.)


def check_unfreezing(
  config: Mapping[str, Any],
  stages: Sequence[Sequence[str]],
  params: Mapping[str, Any],
) -> None:
  """Checks the config of unfreezing, and that each part is in one stage.

  `patience` is in epochs without improvement before the next stage is unfrozen;
  `min_improvement` is the relative decrease of the loss that counts as one;
  `rate_factor` is the learning rate of a stage relative to the next one's,
  towards the head. `params` are the network's, or their shapes.
  """
  check_range('unfreezing.patience', config['patience'], 1, integer=True)
  check_range(
    'unfreezing.min_improvement', config['min_improvement'], 0.0, 0.99
  )
  check_range('unfreezing.rate_factor', config['rate_factor'], 0.0, 1.0)
  if not stages:
    raise ValueError(
      f"unfreezing.name = {config['name']!r}; allowed: 'none', for this "
      'network has no stages (ResNets and those of keras.applications have)'
    )
  names = [name for stage in stages for name in stage]
  wrong = [name for name in params if names.count(name) != 1]
  if wrong:
    raise ValueError(
      f'Model.stages = {stages}; allowed: each entry of params once, which '
      f'{", ".join(wrong)} is not'
    )


def num_frozen(
  losses: Sequence[float], config: Mapping[str, Any], num_stages: int
) -> int:
  """Returns how many stages are frozen after epochs of such mean losses.

  All but the head, and one fewer each time that the loss has not come below
  (1 - min_improvement) times its lowest value since the last unfreezing for
  `patience` epochs in a row. A function of the losses alone, so that a resumed
  run has the same stages frozen.
  """
  frozen, best, waited = num_stages - 1, float('inf'), 0
  for loss in losses:
    improved = loss < (1 - config['min_improvement']) * best
    best, waited = (loss, 0) if improved else (best, waited + 1)
    if waited == config['patience']:
      frozen, best, waited = max(frozen - 1, 0), float('inf'), 0
  return frozen


def staged_optimizer(
  config: Mapping[str, Any],
  stages: Sequence[Sequence[str]],
  rate_factor: float,
  num_frozen: int,
) -> optax.GradientTransformation:
  """Builds an optimizer with a state and a learning rate for each stage.

  direction_s <- rate_factor^(S - 1 - s) direction(gradient_s), 0 where frozen

  A frozen stage keeps its initial optimizer state. The state has the same
  structure whatever is frozen.
  """
  optimizer = create_optimizer(config)
  last = len(stages) - 1
  transforms = {
    index: _frozen(optimizer)
    if index < num_frozen
    else optax.chain(optimizer, optax.scale(rate_factor ** (last - index)))
    for index in range(len(stages))
  }
  stage_of = {name: i for i, names in enumerate(stages) for name in names}

  def labels(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
      name: jax.tree.map(lambda _, n=name: stage_of[n], tree)
      for name, tree in params.items()
    }

  return optax.multi_transform(transforms, labels)


def _frozen(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Zero updates, with the optimizer state of a stage that is scaled."""
  scaled = optax.chain(optimizer, optax.scale(0.0))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return jax.tree.map(jnp.zeros_like, updates), state

  return optax.GradientTransformation(scaled.init, update)
