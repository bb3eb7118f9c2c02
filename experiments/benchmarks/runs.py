"""Our training as benchmarks run it: the compiled steps of `train`, timed."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from ml_collections import config_dict

from advjax import data
from advjax.config import default_config
from advjax.devices import replicate
from advjax.models import create_model
from advjax.models.logits import eval_logits_fn
from advjax.training.loop import Diverged
from advjax.training.setup import Run, create_run, device_inputs
from advjax.training.vmapped import many_inputs, map_train_many, place
from advjax.types import LogitsFn
from advjax.variants import set_variant
from experiments.benchmarks.harness import TimedRun, timed

# NSL's tutorial, and Madry et al. 2017 with their seven steps on CIFAR-10.
EPSILON = 0.1
NSL_STEP_SIZE = 0.2
ATTACK_STEPS = 7
# The objectives that are compared, and our variants for them.
OBJECTIVES = {'standard': 'standard', 'nsl': 'nsl', 'pgd': 'pgd_at'}


def tutorial_config(
  objective: str, batch_size: int = 32
) -> config_dict.ConfigDict:
  """Returns the config of NSL's network with one of OBJECTIVES."""
  steps = {'epsilon': EPSILON, 'nsl_step_size': NSL_STEP_SIZE}
  config = set_variant(default_config(), OBJECTIVES[objective], **steps)
  config.batch_size = batch_size
  config.num_validation = 0
  config.report_checkpoint = 'last'
  return config


def tutorial(
  objective: str,
  batch_size: int,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
) -> Run:
  """Returns a run of NSL's network with one of OBJECTIVES."""
  return create_run(tutorial_config(objective, batch_size), dataset, devices)


def by_name(*trees: Any) -> dict[str, np.ndarray]:
  """Returns the arrays of Flax trees by the path of their names."""
  return {
    name: np.asarray(value)
    for tree in trees
    for name, value in traverse_util.flatten_dict(tree, sep='/').items()
  }


def start_state(training: Run) -> Any:
  """Returns the state before the first step, on the devices."""
  return replicate(training.init_state(), training.devices)


def step_arguments(
  training: Run, num_steps: int, state: Any = None
) -> tuple[Any, ...]:
  """Returns what the pmapped `training.train_steps.func` takes.

  The state is the one before the first step, unless another one is given; the
  program takes it for its own.
  """
  if state is None:
    state = start_state(training)
  inputs = device_inputs(training)
  return *training.train_steps.args, state, *inputs, np.int32(num_steps)


def seconds_per_step(training: Run, num_steps: int) -> TimedRun:
  """Returns what takes steps of a run, fewer than an epoch has.

  Images are permuted where a call begins, which in training is once per
  epoch: that is not counted, nor are the first steps of other libraries.
  """
  state, inputs = start_state(training), device_inputs(training)

  def take(count: int) -> float:
    def steps() -> Any:
      nonlocal state
      state, history = training.train_steps(state, *inputs, np.int32(count))
      return state, history

    return timed(steps)[1]

  def run() -> float:
    beginning = take(1)
    return (take(num_steps + 1) - beginning) / num_steps

  return run


class Program(NamedTuple):
  """A compiled program, with its arguments."""

  call: Callable[[], Any]
  compile_seconds: float  # Tracing included.
  temporary_mib: float  # Memory that it needs besides its arguments.
  argument_mib: float

  def run(self) -> float:
    """Runs it once; the seconds."""
    return timed(self.call)[1]


def compile_program(function: Any, *arguments: Any) -> Program:
  """Compiles a jitted or pmapped function."""
  start = time.perf_counter()
  compiled = function.lower(*arguments).compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  sizes = memory.temp_size_in_bytes, memory.argument_size_in_bytes
  call = functools.partial(compiled, *arguments)
  return Program(call, seconds, *(size / 2**20 for size in sizes))


# ------------------------------------------------------------ a whole training


class Trained(NamedTuple):
  """A network that was trained with nothing but steps, on the host."""

  params: Any
  model_state: Any
  costs: dict[str, Any]


def check_trainable(config: config_dict.ConfigDict) -> None:
  """Raises a ValueError for what cannot be timed from first to last step."""
  if 'members' in config:
    raise ValueError(f'members = {config.members!r}; allowed: a single network')
  for field, value, allowed in (
    ('report_checkpoint', config.report_checkpoint, 'last'),
    ('unfreezing.name', config.unfreezing.name, 'none'),
    ('init_from', config.init_from, ''),
  ):
    if value != allowed:
      raise ValueError(
        f'{field} = {value!r}; allowed: {allowed!r}, since all of the training '
        'is timed and its last state is evaluated'
      )


def train_timed(training: Run) -> Trained:
  """Trains a network with nothing but steps between first and last.

  Compiling costs next to nothing where another run has the same program; the
  peak of memory is that of the first device up to here, None where it does not
  say.
  """
  plan, config = training.plan, training.config
  start = time.perf_counter()
  inputs = jax.block_until_ready(device_inputs(training))
  uploaded = time.perf_counter()
  state = start_state(training)
  # Also loads the program, and draws memory.
  jax.block_until_ready(training.train_steps(state, *inputs, np.int32(1)))
  compiled = time.perf_counter()
  state = jax.block_until_ready(start_state(training))
  losses = []
  count = np.int32(plan.steps_per_epoch)
  start_steps = time.perf_counter()
  for _ in range(config.num_epochs):
    state, history = training.train_steps(state, *inputs, count)
    losses.append(history['loss'])
  jax.block_until_ready(state)
  seconds = time.perf_counter() - start_steps
  bad = np.flatnonzero(~np.isfinite(np.concatenate(losses)))
  if bad.size:
    raise Diverged(f'seed {config.seed}: no finite loss at step {bad[0] + 1}')
  num_steps = training.num_steps
  return Trained(
    params=jax.tree.map(np.asarray, state.evaluation_params),
    model_state=jax.tree.map(np.asarray, state.model_state),
    costs={
      'compile_seconds': compiled - uploaded,
      'upload_seconds': uploaded - start,
      'train_seconds': seconds,
      'step_milliseconds': 1e3 * seconds / num_steps,
      'images_per_second': config.num_epochs * plan.num_examples / seconds,
      'peak_mib': peak_mib(training.devices[0]),
    },
  )


def peak_mib(device: jax.Device) -> float | None:
  """Returns the most memory that was used of a device, where it says so."""
  peak = (device.memory_stats() or {}).get('peak_bytes_in_use')
  return peak and peak / 2**20


def float32_network(training: Run, trained: Trained) -> LogitsFn:
  """Returns a trained network in evaluation mode, computed in float32."""
  fields = training.config.model.to_dict()
  if 'dtype' in fields:
    fields['dtype'] = 'float32'
  model = create_model(fields, training.num_classes)
  return eval_logits_fn(model, trained.params, trained.model_state)


# --------------------------------------------------------- several runs at once


def sweep_configs(count: int) -> list[config_dict.ConfigDict]:
  """Returns configs of `digits.py:nsl` that differ in traced numbers alone."""
  configs = [tutorial_config('nsl') for _ in range(count)]
  for index, config in enumerate(configs):
    config.seed = index
    config.hparams.step_size = 0.1 + 0.2 * index / count
    config.hparams.multiplier = 0.1 + 0.4 * index / count
  return configs


def _start(training: Run) -> tuple[Any, ...]:
  return start_state(training), *device_inputs(training)


def train_way(
  way: str, trainings: Sequence[Run], steps: int
) -> tuple[float, float]:
  """Takes steps of runs that share a program, compiling again.

  Returns the seconds of compiling and those of the steps.
  """
  jax.clear_caches()

  def measure(
    program: Callable[..., Any],
    prepare: Callable[[], tuple[Any, ...]],
    counts: Callable[[int], Any],
  ) -> tuple[float, float]:
    start = time.perf_counter()
    state, *inputs = prepare()
    state, _ = jax.block_until_ready(program(state, *inputs, counts(0)))
    middle = time.perf_counter()
    jax.block_until_ready(program(state, *inputs, counts(steps)))
    return middle - start, time.perf_counter() - middle

  if way in ('in turn', 'separate'):
    rounds = []
    for training in trainings:
      if way == 'separate':
        jax.clear_caches()
      start = functools.partial(_start, training)
      rounds.append(measure(training.train_steps, start, np.int32))
    compiling, stepping = map(sum, zip(*rounds, strict=True))
    return compiling, stepping
  first, placement = trainings[0], place(trainings)
  return measure(
    map_train_many(
      first.device_steps, tuple(first.devices), way.startswith('vmap')
    ),
    lambda: (
      placement.put([training.init_state() for training in trainings]),
      *many_inputs(trainings),
    ),
    lambda count: placement.num_steps(count, range(len(trainings))),
  )
