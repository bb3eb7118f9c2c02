"""From a config to a run: everything training needs, checked beforehand.

Also what its sections name: optimizers, schedules, decays and unfreezing.
"""

import bisect
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import config_dict

from advjax.augmentation import create_augmentation
from advjax.config import check_config
from advjax.data import Dataset, Split, holdout
from advjax.devices import AXIS, parallelize, replicate
from advjax.models import Model, create_model
from advjax.models.logits import eval_logits_fn
from advjax.processes.collectives import from_main
from advjax.training import checkpoint
from advjax.training.objectives import (
  Objective,
  create_objective,
  make_evaluate,
  read_hparams,
  robust_accuracy_objective,
)
from advjax.training.optimizers import (
  check_unfreezing,
  create_decay,
  create_optimizer,
  create_schedule,
  staged_optimizer,
)
from advjax.training.step import (
  Groups,
  RunInputs,
  StepPlan,
  TrainState,
  create_state,
  make_train_step,
  make_train_steps,
)
from advjax.types import Array, LogitsFn

# Of images that are too small for a network, or have other channels.
_SHAPE_ERRORS = (TypeError, ValueError, ZeroDivisionError)
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

  def network(self, params: Any, model_state: Any) -> LogitsFn:
    """Returns the trained network in evaluation mode, as attacks take it."""
    precision = self.config.evaluation.matmul_precision
    return eval_logits_fn(self.model, params, model_state, precision)

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
    if not path:
      return state
    given = state.params, state.model_state
    params, model_state = from_main(checkpoint.load_params, path, *given)
    ema_params = None if state.ema_params is None else params
    return TrainState(
      state.step, params, model_state, state.opt_state, ema_params
    )


def create_run(
  config: config_dict.ConfigDict,
  dataset: Dataset,
  devices: Sequence[jax.Device],
  *,
  num_groups: int = 1,
  model: Model | None = None,
  objective: Objective | None = None,
) -> Run:
  """Builds a run from its config; nothing is computed yet.

  Compiled programs are kept by what they depend on: runs that differ in traced
  numbers alone have the same ones. `num_groups` divides the number of devices.
  A model or an objective that is given takes the place of the config's. A
  ValueError for any field that is wrong, naming it.
  """
  image_shape = tuple(dataset.train.images.shape[1:])
  check_config(config, image_shape)
  if dataset.num_classes < 2:
    raise ValueError(f'{dataset.name} has one class; allowed: two or more')
  group_size = len(devices) // num_groups
  if config.batch_size < group_size:
    raise ValueError(
      f'batch_size = {config.batch_size}; allowed: at least the number of '
      f'devices, {group_size}'
    )
  hparams = read_hparams(config.hparams, objective or config.objective.name)
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

  placed = tuple(devices)
  frozen = config_dict.FrozenConfigDict(config)
  is_own = model is not None or ':' in config.model.name
  if model is None:
    model = _model(frozen.model, dataset.num_classes, plan.groups)
  if not isinstance(model, Model):
    raise ValueError(
      f'model = {type(model).__name__}; allowed: a Model, such as from_linen '
      'and from_nnx make'
    )
  num_classes = dataset.num_classes if is_own and not plan.groups else 0
  params, model_state = network_shapes(
    model, config.model.name, image_shape, num_classes
  )
  if config.unfreezing.name != 'none':
    check_unfreezing(config.unfreezing, model.stages, params)
  step_config = config_dict.FrozenConfigDict(
    {field: frozen[field] for field in _STEP_FIELDS}
    | {'num_classes': dataset.num_classes, 'image_shape': image_shape}
  )
  is_own = objective is not None or ':' in config.objective.name
  steps = functools.partial(_steps, model, objective, step_config, plan, placed)
  objective, optimizer, device_steps = steps(0)
  if is_own and plan.groups is None:
    mixes = config.augmentation.mixup or config.augmentation.cutmix
    rows = plan.images_per_device
    labels = (rows, dataset.num_classes) if mixes else (rows,)
    batch = {
      'image': jax.ShapeDtypeStruct((rows, *image_shape), jnp.float32),
      'label': jax.ShapeDtypeStruct(labels, float if mixes else jnp.int32),
      'weight': jax.ShapeDtypeStruct((rows,), jnp.float32),
    }
    _check_objective(objective, model, params, model_state, batch, hparams)
  evaluate, monitor = (
    make_evaluate(
      model.apply,
      each,
      placed,
      batch_size=frozen.evaluation.batch_size,
      matmul_precision=frozen.evaluation.matmul_precision,
    )
    for each in (
      objective,
      robust_accuracy_objective(
        frozen.monitor.num_steps, frozen.evaluation.norm
      ),
    )
  )
  if config.init_from:
    # Read once for its errors, before anything is written or computed.
    from_main(checkpoint.load_params, config.init_from, params, model_state)
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


def _check_objective(
  objective: Objective,
  model: Model,
  params: Any,
  model_state: Any,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  hparams: Mapping[str, float],
) -> None:
  """Traces a user's own objective once: its errors come before any output."""
  name = getattr(objective, '__name__', type(objective).__name__)
  allowed = 'objective(apply, params, model_state, batch, hparams, key)'
  try:
    inspect.signature(objective).bind(*range(6))
  except TypeError as error:
    raise ValueError(
      f'objective = {name}: {error}; allowed: {allowed}, which a factory '
      'returns'
    ) from error

  rows = batch['weight'].shape

  def call(_: Array, *arrays: Any) -> Any:
    key = jax.random.split(jax.random.key(0), rows)
    return objective(model.apply, *arrays, key)

  of_device = jax.vmap(call, (0, *[None] * 4), axis_name=AXIS, axis_size=1)
  numbers = {name: jnp.float32(value) for name, value in hparams.items()}
  try:
    found = jax.eval_shape(
      of_device, jnp.zeros(1), params, model_state, batch, numbers
    )
  except KeyError as error:
    if error.args[0] in hparams:
      raise
    raise ValueError(
      f'hparams.{error.args[0]} = None; allowed: a number, which the objective '
      f'{name!r} reads'
    ) from error
  shapes = jax.tree.map(lambda leaf: leaf.shape[1:], found)
  match shapes:
    case ((), (_, {'loss': shape, **others})) if {shape, *others.values()} == {
      rows
    }:
      return
  raise ValueError(
    f'objective = {name} returns {shapes}, as shapes for {rows[0]} images; '
    'allowed: (loss, (model_state, metrics)), a loss [] and metrics '
    f"[{rows[0]}], one of them 'loss'"
  )


def device_inputs(run: Run) -> tuple[dict[str, Array], RunInputs]:
  """Returns `(data, inputs)` of `run.train_steps` on the run's devices."""
  split = run.train_split
  data = {'image': split.images, 'label': split.labels}
  return replicate(data, run.devices), replicate(run.inputs, run.devices)


def network_shapes(
  model: Model, name: str, shape: Sequence[int], num_classes: int = 0
) -> Any:
  """The shapes of params and state for images `(H, W, C)`; checks logits."""

  def shapes(*shape: int) -> Any:
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)

  def takes(size: int) -> bool:
    try:
      return bool(shapes(size, size, *shape[2:]))
    except _SHAPE_ERRORS:
      return False

  try:
    arrays = shapes(*shape)
  except _SHAPE_ERRORS as error:
    reason = f': {(str(error) or repr(error)).splitlines()[0]}'
    sizes = range(min(shape[:2], default=0) + 1, 257)
    if takes(sizes[-1] if sizes else 0):
      size = sizes[bisect.bisect_left(sizes, True, key=takes)]
      reason = f'; allowed: at least {size} x {size}'
    raise ValueError(
      f'model.name = {name!r} does not take images of shape {tuple(shape)}'
      f'{reason}'
    ) from error
  for train in (False, True) if num_classes else ():
    apply = functools.partial(model.apply, train=train)
    of_device = jax.vmap(apply, (None, None, 0), axis_name=AXIS)
    batches = jax.ShapeDtypeStruct((1, 2, *shape), np.float32)
    logits, _ = jax.eval_shape(of_device, *arrays, batches)
    found = jax.tree.map(lambda leaf: leaf.shape[1:], logits)
    if found != (2, num_classes):
      raise ValueError(
        f'model.name = {name!r} returns logits of shape {found} for 2 images; '
        f'allowed: [B, {num_classes}], the classes of the data set'
      )
  return arrays


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
  objective: Objective | None,
  config: config_dict.FrozenConfigDict,
  plan: StepPlan,
  devices: tuple[jax.Device, ...],
  num_frozen: int,
) -> tuple[Objective, optax.GradientTransformation, Callable]:
  is_own = objective is not None or ':' in config.objective.name
  objective = objective or create_objective(config.objective)
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
    # An objective of the user's own gets the whole batch of a device.
    microbatches=devices[0].platform == 'cpu' and not is_own,
  )
  augment = create_augmentation(
    config.augmentation, config.image_shape, config.num_classes
  )
  return objective, optimizer, make_train_steps(step, plan, augment)


_mapped = functools.lru_cache(maxsize=16)(parallelize)
