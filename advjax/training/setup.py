"""From a config to everything that training needs, checked before it runs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from ml_collections import config_dict

from advjax.config import check_config
from advjax.data import Dataset, Split, holdout
from advjax.models import Model, create_model
from advjax.training import checkpoint
from advjax.training.metrics import make_evaluate_metrics
from advjax.training.monitor import robust_accuracy_objective
from advjax.training.objectives import (
  Objective,
  create_objective,
  read_hparams,
)
from advjax.training.optimizers import create_optimizer, create_schedule
from advjax.training.parallel import parallelize, replicate
from advjax.training.state import TrainState, create_state
from advjax.training.step import (
  AXIS,
  StepPlan,
  make_train_step,
  make_train_steps,
)
from advjax.types import Array, LogitsFn


class Training(NamedTuple):
  """One run, ready to go.

  Attributes:
    config: Its config.
    model: The network.
    objective: What is minimised.
    hparams: The traced numbers.
    plan: Sizes.
    train_split: What is trained on.
    monitor_split: What robustness is watched on: held-out images, or, with
      `num_validation` 0, training images.
    test_split: The test images.
    num_classes: Classes.
    devices: The devices.
    init_state: Makes the state before the first step.
    train_steps: `(state, data, hparams, num_steps) -> (state, history)`.
    evaluate: The objective's mean metrics over a split.
    monitor: Clean and PGD accuracy over a split.
  """

  config: config_dict.ConfigDict
  model: Model
  objective: Objective
  hparams: dict[str, float]
  plan: StepPlan
  train_split: Split
  monitor_split: Split
  test_split: Split
  num_classes: int
  devices: Sequence[jax.Device]
  init_state: Callable[[], TrainState]
  train_steps: Callable
  evaluate: Callable
  monitor: Callable


def create_training(
  config: config_dict.ConfigDict,
  dataset: Dataset,
  devices: Sequence[jax.Device],
) -> Training:
  """Builds a run from its config; nothing is computed yet.

  Args:
    config: A training config (`advjax.config.default_config`).
    dataset: From `advjax.data.load(config.dataset)`.
    devices: The devices to train on.

  Returns:
    The run.

  Raises:
    ValueError: for any field that is wrong, naming it.

  Example:
    >>> from advjax import data
    >>> from advjax.config import default_config
    >>> config = default_config()
    >>> dataset = data.load(config.dataset)
    >>> training = create_training(config, dataset, jax.devices()[:1])
    >>> training.plan.steps_per_epoch
    45
  """
  check_config(config)
  if config.batch_size < len(devices):
    raise ValueError(
      f'batch_size = {config.batch_size}; allowed: at least the number of '
      f'devices, {len(devices)}'
    )
  model = _shared_model(
    config_dict.FrozenConfigDict(config.model), dataset.num_classes
  )
  objective = create_objective(config.objective)
  hparams = read_hparams(config.hparams, config.objective.name)
  optimizer = create_optimizer(config.optimizer)
  train_split, held_out = holdout(
    dataset.train, config.num_validation, config.seed
  )
  plan = StepPlan(len(train_split.labels), config.batch_size, len(devices))
  schedule = create_schedule(
    config.schedule, config.num_epochs * plan.steps_per_epoch
  )
  init_key, train_key = jax.random.split(jax.random.key(config.seed))
  watched = held_out if config.num_validation else train_split
  step = make_train_step(
    model.apply, objective, optimizer, schedule, ema_decay=config.ema_decay
  )

  def init_state() -> TrainState:
    images = jnp.zeros((1, *train_split.images.shape[1:]))
    state = create_state(
      model, optimizer, images, init_key, with_ema=config.ema_decay > 0
    )
    if config.init_from:
      state = checkpoint.load_params(config.init_from, state)
    return state

  shapes = _check_network(
    model, config.model.name, train_split.images.shape[1:]
  )
  if config.init_from:
    # Read once for its errors, before anything is written or computed.
    params, model_state = shapes
    like = TrainState(jnp.zeros(()), params, model_state, (), None)
    checkpoint.load_params(config.init_from, like)

  return Training(
    config=config,
    model=model,
    objective=objective,
    hparams=hparams,
    plan=plan,
    train_split=train_split,
    monitor_split=Split(
      watched.images[: config.monitor.num_images],
      watched.labels[: config.monitor.num_images],
    ),
    test_split=dataset.test,
    num_classes=dataset.num_classes,
    devices=devices,
    init_state=init_state,
    train_steps=parallelize(
      make_train_steps(step, plan, train_key), devices, num_args=4
    ),
    evaluate=make_evaluate_metrics(
      model.apply, objective, devices, batch_size=config.evaluation.batch_size
    ),
    monitor=_shared_monitor(
      model,
      config.monitor.num_steps,
      tuple(devices),
      config.evaluation.batch_size,
    ),
  )


def _check_network(model: Model, name: str, shape: Sequence[int]) -> Any:
  """Returns the shapes of its params and state, if it takes such images."""
  images = jax.ShapeDtypeStruct((1, *shape), np.float32)
  try:
    return jax.eval_shape(model.init, jax.random.key(0), images)
  except (TypeError, ValueError, ZeroDivisionError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'model.name = {name!r} does not take images of shape {tuple(shape)}: '
      f'{reason}'
    ) from error


# Runs of one process share what compiles the same program: the caches of jit
# and pmap know a function by its identity.


@functools.lru_cache(maxsize=16)
def _shared_model(
  config: config_dict.FrozenConfigDict, num_classes: int
) -> Model:
  return create_model(config, num_classes, axis_name=AXIS)


@functools.lru_cache(maxsize=16)
def _shared_monitor(
  model: Model,
  num_steps: int,
  devices: tuple[jax.Device, ...],
  batch_size: int,
) -> Callable:
  return make_evaluate_metrics(
    model.apply,
    robust_accuracy_objective(num_steps),
    devices,
    batch_size=batch_size,
  )


def device_inputs(training: Training) -> tuple[Any, Any]:
  """Returns the training data and the hparams, on every device.

  Args:
    training: A run.

  Returns:
    `(data, hparams)` for `training.train_steps`.
  """
  data = {
    'image': training.train_split.images,
    'label': training.train_split.labels,
  }
  hparams = {
    name: np.float32(value) for name, value in training.hparams.items()
  }
  return replicate((data, hparams), training.devices)


def eval_logits_fn(model: Model, params: Any, model_state: Any) -> LogitsFn:
  """Returns a network in evaluation mode, as attacks take it.

  Args:
    model: The network.
    params: Its parameters; traced, so that others compile nothing anew.
    model_state: Its BatchNorm statistics.

  Returns:
    A function from images `[B, H, W, C]` to logits `[B, K]`.

  Example:
    >>> model = create_model({'name': 'logistic_regression'}, 10)
    >>> images = jnp.zeros((2, 28, 28, 1))
    >>> logits_fn = eval_logits_fn(
    ...   model, *model.init(jax.random.key(0), images)
    ... )
    >>> logits_fn(images).shape
    (2, 10)
  """
  return Partial(_eval_logits, model.apply, params, model_state)


def _eval_logits(
  apply: Callable, params: Any, model_state: Any, images: Array
) -> Array:
  return apply(params, model_state, images, train=False)[0]
