"""From a config to everything that training needs, checked before it runs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from ml_collections import config_dict

from advjax.config_checks import check_config
from advjax.data import Dataset, Split, holdout
from advjax.models import Model
from advjax.processes.collectives import from_main
from advjax.training import checkpoint
from advjax.training.decay import create_decay
from advjax.training.objectives import Objective, read_hparams
from advjax.training.program import shared_program
from advjax.training.state import TrainState, create_state
from advjax.training.step import StepPlan
from advjax.training.unfreezing import check_stages
from advjax.types import Array, LogitsFn


class Training(NamedTuple):
  """One run, ready to go.

  Attributes:
    config: Its config.
    model: The network.
    objective: What is minimised.
    hparams: The traced numbers.
    plan: Sizes.
    train_split: The training images, those held out included.
    rows: Those of them to train on, int32 `[N]`.
    key: Draws the order of the examples and the objective's randomness.
    monitor_split: What robustness is watched on: held-out images, or, with
      `num_validation` 0, training images.
    test_split: The test images.
    num_classes: Classes.
    devices: The devices.
    init_state: Makes the state before the first step.
    train_steps: `(state, data, inputs, num_steps) -> (state, history)`.
    frozen_steps: The number of frozen stages -> the same, with so many.
    train_runs: The same for several runs, states and inputs placed by
      `Placement`. Runs whose programs are the same object can be trained at
      once.
    evaluate: The objective's mean metrics over a split.
    monitor: Clean and PGD accuracy over a split.
  """

  config: config_dict.ConfigDict
  model: Model
  objective: Objective
  hparams: dict[str, float]
  plan: StepPlan
  train_split: Split
  rows: np.ndarray
  key: Array
  monitor_split: Split
  test_split: Split
  num_classes: int
  devices: Sequence[jax.Device]
  init_state: Callable[[], TrainState]
  train_steps: functools.partial
  frozen_steps: Callable[[int], functools.partial]
  train_runs: Callable
  evaluate: Callable
  monitor: Callable


def create_training(
  config: config_dict.ConfigDict,
  dataset: Dataset,
  devices: Sequence[jax.Device],
  *,
  num_teams: int = 1,
) -> Training:
  """Builds a run from its config; nothing is computed yet.

  Args:
    config: A training config (`advjax.config.default_config`).
    dataset: From `advjax.data.load(config.dataset)`.
    devices: The devices to train on.
    num_teams: Teams that the devices are cut into, each for runs of its own,
      where several are trained at once; divides the number of devices.

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
  team_size = len(devices) // num_teams
  if config.batch_size < team_size:
    raise ValueError(
      f'batch_size = {config.batch_size}; allowed: at least the number of '
      f'devices, {team_size}'
    )
  hparams = read_hparams(config.hparams, config.objective.name)
  create_decay(config.multiplier_decay)
  decay_name = config.multiplier_decay.name
  if decay_name != 'constant' and 'multiplier' not in hparams:
    raise ValueError(
      f"multiplier_decay.name = {decay_name!r}; allowed: 'constant', for the "
      f'objective {config.objective.name!r} reads no multiplier'
    )
  train_split = dataset.train
  train_rows, held_out = holdout(
    len(train_split.labels), config.num_validation, config.seed
  )
  plan = StepPlan(len(train_rows), config.batch_size, team_size, num_teams)
  image_shape = train_split.images.shape[1:]
  program = shared_program(
    config, dataset.num_classes, image_shape, plan, devices
  )
  init_key, train_key = jax.random.split(jax.random.key(config.seed))
  watched = held_out if config.num_validation else train_rows
  watched = watched[: config.monitor.num_images]

  def init_state() -> TrainState:
    images = jnp.zeros((1, *train_split.images.shape[1:]))
    state = create_state(
      program.model,
      program.optimizer,
      images,
      init_key,
      with_ema=config.ema_decay > 0,
    )
    if config.init_from:
      fresh = state
      state = from_main(lambda: checkpoint.load_params(config.init_from, fresh))
    return state

  shapes = _check_network(
    program.model, config.model.name, train_split.images.shape[1:]
  )
  if config.unfreezing.name != 'none':
    check_stages(program.model.stages, shapes[0])
  if config.init_from:
    # Read once for its errors, before anything is written or computed.
    params, model_state = shapes
    like = TrainState(jnp.zeros(()), params, model_state, (), None)
    from_main(lambda: checkpoint.load_params(config.init_from, like))

  return Training(
    config=config,
    model=program.model,
    objective=program.objective,
    hparams=hparams,
    plan=plan,
    train_split=train_split,
    rows=train_rows,
    key=train_key,
    monitor_split=Split(
      train_split.images[watched], train_split.labels[watched]
    ),
    test_split=dataset.test,
    num_classes=dataset.num_classes,
    devices=devices,
    init_state=init_state,
    train_steps=program.train_steps,
    frozen_steps=program.frozen_steps,
    train_runs=program.train_runs,
    evaluate=program.evaluate,
    monitor=program.monitor,
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


def final_hparams(training: Training) -> dict[str, float]:
  """Returns the hparams of a run as the next step after its last would see.

  Args:
    training: A run.

  Returns:
    Its hparams, with the multiplier decayed.
  """
  hparams, config = training.hparams, training.config
  if 'multiplier' not in hparams:
    return hparams
  decay = create_decay(config.multiplier_decay)
  num_steps = config.num_epochs * training.plan.steps_per_epoch
  return hparams | {
    'multiplier': float(decay(hparams['multiplier'], num_steps))
  }


def eval_logits_fn(
  model: Model,
  params: Any,
  model_state: Any,
  matmul_precision: str | None = 'highest',
) -> LogitsFn:
  """Returns a network in evaluation mode, as attacks take it.

  Args:
    model: The network.
    params: Its parameters; traced, so that others compile nothing anew.
    model_state: Its BatchNorm statistics.
    matmul_precision: Of float32 products on accelerators, in the network and
      in its gradients: a name of `jax.default_matmul_precision`; None leaves it
      to the caller's setting, by default TF32 on GPUs and bfloat16 on TPUs.

  Returns:
    A function from images `[B, H, W, C]` to logits `[B, K]`.

  Example:
    >>> from advjax.models import create_model
    >>> model = create_model({'name': 'logistic_regression'}, 10)
    >>> images = jnp.zeros((2, 28, 28, 1))
    >>> logits_fn = eval_logits_fn(
    ...   model, *model.init(jax.random.key(0), images)
    ... )
    >>> logits_fn(images).shape
    (2, 10)
  """
  return Partial(
    _eval_logits, model.apply, matmul_precision, params, model_state
  )


def _eval_logits(
  apply: Callable,
  matmul_precision: str | None,
  params: Any,
  model_state: Any,
  images: Array,
) -> Array:
  if matmul_precision is None:  # As a setting, it would undo the caller's.
    return apply(params, model_state, images, train=False)[0]
  with jax.default_matmul_precision(matmul_precision):
    return apply(params, model_state, images, train=False)[0]
