"""The training loop: chunks of compiled steps, and what happens in between."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from advjax.training.logs import MetricsLog, Progress
from advjax.training.parallel import replicate
from advjax.training.record import add_chunk, log_steps
from advjax.training.run import (
  Run,
  TrainResult,
  check_finite,
  end_epoch,
  restore_run,
  result_of,
  save,
)
from advjax.training.setup import (
  Training,
  device_inputs,
  stack_runs,
  unstack_runs,
)
from advjax.training.signals import Interrupted, stop_on_signals
from advjax.training.state import TrainState
from advjax.training.workdir import config_to_json

logger = logging.getLogger(__name__)

# The host hears nothing from the devices during a chunk of steps, and a
# signal waits for its end.
_CHUNK_SECONDS = 2.0
_MAX_GROWTH = 8


def train(
  training: Training, workdir: pathlib.Path, *, name: str = 'model'
) -> TrainResult:
  """Trains, or goes on training from the last checkpoint in the workdir.

  Args:
    training: From `create_training`.
    workdir: A prepared folder (`prepare_workdir`).
    name: What the progress bar calls the network.

  Returns:
    The result; for a run that is already finished, without training.

  Raises:
    Interrupted: on SIGINT or SIGTERM, after a checkpoint. Calling again goes
      on, and ends bit for bit where an uninterrupted run on as many CPU
      devices ends.
    Diverged: if the loss turns NaN or infinite; the last good checkpoint
      stays.
    ValueError: if no checkpoint in the workdir can be read.
  """
  return train_at_once([training], [workdir], names=[name])[0]


def train_at_once(
  trainings: Sequence[Training],
  workdirs: Sequence[pathlib.Path],
  *,
  names: Sequence[str],
) -> list[TrainResult]:
  """Trains several runs of one program at once, vmapped inside the pmap.

  Each run keeps its own folder, and starts, draws and sees what it does alone;
  float32 rounding alone can differ. Whether it is faster is another question:
  on CPUs the batched matrix products are slower than one run after another.
  Runs that lag behind, after a kill say, are first trained on alone.

  Args:
    trainings: Runs on the same data that differ in their seed, hparams and
      init_from alone.
    workdirs: A prepared folder for each.
    names: What the log calls each.

  Returns:
    A result for each; a run's seconds and milliseconds are its share.

  Raises:
    ValueError: if the runs differ in more; and as `train`.
    Interrupted: as `train`.
    Diverged: as `train`, for the first run that does.
  """
  for training, name in zip(trainings, names, strict=True):
    _check_same_program(trainings[0], training, f'{name} and {names[0]}')
  restored = [
    restore_run(training, workdir, name)
    for training, workdir, name in zip(trainings, workdirs, names, strict=True)
  ]
  runs = [run for run, _ in restored]
  states = [state for _, state in restored]
  furthest = max(int(state.step) for state in states)
  for index, (run, state) in enumerate(restored):
    if int(state.step) < furthest:
      (states[index],) = _train([run], [state], furthest)
  if furthest < runs[0].num_steps:
    states = _train(runs, states, runs[0].num_steps)
  return [
    result_of(run, state) for run, state in zip(runs, states, strict=True)
  ]


def _check_same_program(first: Training, other: Training, names: str) -> None:
  """Raises a ValueError if two runs cannot be trained at once."""
  own = ('seed', 'hparams', 'init_from')
  configs = [config_to_json(each.config) for each in (first, other)]
  differing = [
    field
    for field in {**configs[0], **configs[1]}
    if field not in own and configs[0].get(field) != configs[1].get(field)
  ]
  if other.train_split is not first.train_split:
    differing.append('the training images')
  if other.train_steps is not first.train_steps and not differing:
    differing.append('the devices')
  if differing:
    raise ValueError(
      f'{names} cannot be trained at once: they differ in '
      f'{", ".join(differing)}; allowed: {", ".join(own)}'
    )


def train_seeds(
  trainings: Sequence[Training],
  workdirs: Sequence[pathlib.Path],
  *,
  names: Sequence[str],
) -> list[TrainResult]:
  """Trains runs of one program: at once on accelerators, else in turn.

  Args:
    trainings: Runs that differ in their seed alone.
    workdirs: A prepared folder for each.
    names: What the log calls each.

  Returns:
    A result for each.

  Raises:
    ValueError, Interrupted, Diverged: as `train_at_once`.
  """
  if trainings[0].devices[0].platform != 'cpu':
    return train_at_once(trainings, workdirs, names=names)
  return [
    train(training, workdir, name=name)
    for training, workdir, name in zip(trainings, workdirs, names, strict=True)
  ]


def _train(
  runs: Sequence[Run], states: Sequence[TrainState], until: int
) -> list[TrainState]:
  """Runs the steps that are left until a step; the runs are at the same one."""
  step = int(states[0].step)
  with contextlib.ExitStack() as stack:
    logs = [
      stack.enter_context(
        contextlib.closing(MetricsLog(run.workdir, run.record.log_bytes, step))
      )
      for run in runs
    ]
    return _train_logged(runs, states, until, logs)


def _train_logged(
  runs: Sequence[Run],
  states: Sequence[TrainState],
  until: int,
  logs: Sequence[MetricsLog],
) -> list[TrainState]:
  first = runs[0]
  plan, config = first.training.plan, first.training.config
  num_steps, step = first.num_steps, int(states[0].step)
  name = ', '.join(run.name for run in runs)
  if step:
    logger.info('%s: going on from step %d', name, step)
  data, inputs = device_inputs([run.training for run in runs])
  state = replicate(stack_runs(states), first.training.devices)
  train_steps = (
    first.training.train_steps_at_once
    if len(runs) > 1
    else first.training.train_steps
  )
  chunk = 1
  progress = Progress(name, num_steps, config.num_epochs, step)
  with contextlib.closing(progress), stop_on_signals() as stop:
    # No steps: compiles, so that the times below are those of the steps.
    state, _ = train_steps(state, data, inputs, np.int32(0))
    stopped: int | None = None
    while step < until and not stopped:
      rest = plan.steps_per_epoch - step % plan.steps_per_epoch
      count = min(chunk, rest, until - step)
      if config.log_every_steps:
        count = min(count, config.log_every_steps - first.record.num_pending)
      start = time.perf_counter()
      state, history = train_steps(state, data, inputs, np.int32(count))
      history = jax.tree.map(np.asarray, history)
      seconds = time.perf_counter() - start
      for run, metrics in zip(runs, unstack_runs(history, runs), strict=True):
        metrics = {key: values[:count] for key, values in metrics.items()}
        check_finite(run, metrics['loss'], step)
        add_chunk(run.record, metrics, seconds / len(runs))
      step += count
      fitting = int(_CHUNK_SECONDS * count / seconds)
      chunk = max(1, min(fitting, _MAX_GROWTH * count))
      rate = len(runs) * count * config.batch_size / seconds
      epoch = -(-step // plan.steps_per_epoch)
      latest = {
        key: float(values[..., count - 1].mean())
        for key, values in history.items()
      }
      progress.update(epoch, count, latest, rate)
      epoch_done = step % plan.steps_per_epoch == 0
      if epoch_done or first.record.num_pending == config.log_every_steps:
        for run, log in zip(runs, logs, strict=True):
          log_steps(run.record, log, step, epoch, rate)
      if epoch_done:
        ended = [
          end_epoch(run, own, log, step, epoch)
          for run, own, log in zip(
            runs, unstack_runs(state, runs), logs, strict=True
          )
        ]
        left = (num_steps - step) * seconds / count
        progress.epoch_done(epoch, _mean(ended), rate, left)
      due = epoch_done and epoch % config.checkpoint_every_epochs == 0
      # Read once: a signal that comes later waits for another chunk, and so
      # for a checkpoint.
      stopped = stop.signum
      if due or step == until or stopped:
        for run, own, log in zip(
          runs, unstack_runs(state, runs), logs, strict=True
        ):
          save(run, run.last, own, log, keep=2)
  # Also after the last step: there is more to do than training.
  if stop.signum:
    raise Interrupted(stop.signum)
  return unstack_runs(state, runs)


def _mean(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  return {
    name: float(np.mean([each[name] for each in metrics]))
    for name in metrics[0]
  }
