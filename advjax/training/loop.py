"""The training loop: chunks of compiled steps, and what happens in between."""

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.training.checkpoint import restore_checkpoint, save_checkpoint
from advjax.training.logs import MetricsLog, Progress, read_metrics
from advjax.training.monitor import has_collapsed
from advjax.training.parallel import replicate
from advjax.training.record import (
  RunRecord,
  add_chunk,
  log_epoch,
  log_steps,
)
from advjax.training.setup import (
  Training,
  device_inputs,
  stack_runs,
  unstack_runs,
)
from advjax.training.signals import Interrupted, stop_on_signals
from advjax.training.state import TrainState, evaluation_params

logger = logging.getLogger(__name__)

# The host hears nothing from the devices during a chunk of steps, and a
# signal waits for its end.
_CHUNK_SECONDS = 2.0
_MAX_GROWTH = 8


class Diverged(RuntimeError):
  """The loss or the params are no longer finite."""


class TrainResult(NamedTuple):
  """A finished run.

  Attributes:
    params: The params to evaluate (the moving average where there is one).
    model_state: BatchNorm statistics.
    records: What metrics.jsonl holds.
    train_seconds: Time of the steps, without compiling and evaluating.
    step_milliseconds: Median time of a step, over the chunks.
    warnings: What was noticed, in plain words.
  """

  params: Any
  model_state: Any
  records: list[dict[str, Any]]
  train_seconds: float
  step_milliseconds: float
  warnings: list[str]


class _Run(NamedTuple):
  """One of the runs that are trained at once."""

  training: Training
  name: str
  workdir: pathlib.Path
  record: RunRecord

  @property
  def last(self) -> pathlib.Path:
    return self.workdir / 'checkpoints' / 'last'

  @property
  def best(self) -> pathlib.Path:
    return self.workdir / 'checkpoints' / 'best'

  @property
  def num_steps(self) -> int:
    training = self.training
    return training.config.num_epochs * training.plan.steps_per_epoch


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

  Each run keeps its own folder, as if it were trained alone, and ends where it
  ends alone, up to float32 rounding. Where that makes it fastest is another
  question: on CPUs the batched matrix products are slower than one run after
  another.

  Args:
    trainings: Runs that differ in their seed and hparams alone.
    workdirs: A prepared folder for each.
    names: What the log calls each.

  Returns:
    A result for each; a run's seconds and milliseconds are its share.

  Raises:
    ValueError: if the runs need different programs; and as `train`.
    Interrupted: as `train`.
    Diverged: as `train`, for the first run that does.
  """
  first = trainings[0]
  for training, name in zip(trainings, names, strict=True):
    if training.train_steps is not first.train_steps:
      raise ValueError(
        f'{name} and {names[0]} cannot be trained at once: they differ in more '
        'than their seed and hparams'
      )
  runs, states = _restore(trainings, workdirs, names)
  step = int(states[0].step)
  if step < runs[0].num_steps:
    with contextlib.ExitStack() as stack:
      logs = [
        stack.enter_context(
          contextlib.closing(
            MetricsLog(run.workdir, run.record.log_bytes, step)
          )
        )
        for run in runs
      ]
      states = _train(runs, states, logs)
  return [_result(run, state) for run, state in zip(runs, states, strict=True)]


def _restore(
  trainings: Sequence[Training],
  workdirs: Sequence[pathlib.Path],
  names: Sequence[str],
) -> tuple[list[_Run], list[TrainState]]:
  """Finds the newest step that all runs have a checkpoint of, or the start."""
  starts = [training.init_state() for training in trainings]
  newest = None
  while True:
    runs, states = [], []
    for training, workdir, name, start in zip(
      trainings, workdirs, names, starts, strict=True
    ):
      run = _Run(training, name, workdir, RunRecord())
      found = restore_checkpoint(run.last, start, newest=newest)
      if found:
        run = run._replace(record=RunRecord(**found.record))
      runs.append(run)
      states.append(found.state if found else start)
    steps = [int(state.step) for state in states]
    newest = min(steps)
    if max(steps) == newest:
      return runs, states


def _result(run: _Run, state: TrainState) -> TrainResult:
  config, record = run.training.config, run.record
  if config.report_checkpoint == 'best':
    best = restore_checkpoint(run.best, state)
    if best is None:
      raise ValueError(
        "report_checkpoint = 'best', but there is none: monitor.every_epochs "
        f'= {config.monitor.every_epochs}; allowed: 1 to num_epochs = '
        f'{config.num_epochs}'
      )
    state = best.state
  return TrainResult(
    params=jax.tree.map(np.asarray, evaluation_params(state)),
    model_state=jax.tree.map(np.asarray, state.model_state),
    records=read_metrics(run.workdir / 'metrics.jsonl'),
    train_seconds=record.train_seconds,
    step_milliseconds=record.step_milliseconds,
    warnings=record.warnings,
  )


def _train(
  runs: Sequence[_Run], states: Sequence[TrainState], logs: Sequence[MetricsLog]
) -> list[TrainState]:
  """Runs the steps that are left."""
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
    while step < num_steps and not stopped:
      count = min(chunk, plan.steps_per_epoch - step % plan.steps_per_epoch)
      if config.log_every_steps:
        count = min(count, config.log_every_steps - first.record.num_pending)
      start = time.perf_counter()
      state, history = train_steps(state, data, inputs, np.int32(count))
      history = jax.tree.map(np.asarray, history)
      seconds = time.perf_counter() - start
      for run, metrics in zip(runs, unstack_runs(history, runs), strict=True):
        metrics = {key: values[:count] for key, values in metrics.items()}
        _check_finite(run, metrics['loss'], step)
        add_chunk(run.record, metrics, seconds / len(runs))
      step += count
      fitting = int(_CHUNK_SECONDS * count / seconds)
      chunk = max(1, min(fitting, _MAX_GROWTH * count))
      rate = count * config.batch_size / seconds
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
          _end_epoch(run, own, log, step, epoch)
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
      if due or step == num_steps or stopped:
        for run, own, log in zip(
          runs, unstack_runs(state, runs), logs, strict=True
        ):
          _save(run, run.last, own, log, keep=2)
  # Also after the last step: there is more to do than training.
  if stop.signum:
    raise Interrupted(stop.signum)
  return unstack_runs(state, runs)


def _mean(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  return {
    name: float(np.mean([each[name] for each in metrics]))
    for name in metrics[0]
  }


def _check_finite(run: _Run, losses: np.ndarray, step: int) -> None:
  bad = np.flatnonzero(~np.isfinite(losses))
  if bad.size:
    raise Diverged(
      f'{run.name}: the loss is {losses[bad[0]]} at step {step + bad[0] + 1}; '
      f'{_what_stays(run)}. A smaller hparams.learning_rate may help'
    )


def _what_stays(run: _Run) -> str:
  if not run.last.is_dir():
    return 'there is no checkpoint before it'
  return f"the last good checkpoint stays in '{run.last}'"


def _save(
  run: _Run,
  directory: pathlib.Path,
  state: TrainState,
  log: MetricsLog,
  keep: int,
) -> None:
  finite = jax.tree.map(lambda leaf: np.isfinite(leaf).all(), state.params)
  if not all(jax.tree.leaves(finite)):
    raise Diverged(
      f'{run.name}: a parameter is not finite at step {int(state.step)}; '
      f'{_what_stays(run)}. A smaller hparams.learning_rate may help'
    )
  run.record.log_bytes = log.num_bytes
  save_checkpoint(directory, state, dataclasses.asdict(run.record), keep)


def _end_epoch(
  run: _Run, state: TrainState, log: MetricsLog, step: int, epoch: int
) -> Mapping[str, float]:
  """Looks at robustness, logs the epoch and keeps the best state."""
  training, record = run.training, run.record
  plan, monitor = training.plan, training.config.monitor
  due = epoch % monitor.every_epochs == 0 or step == run.num_steps
  monitored: dict[str, float] = {}
  if due:
    monitored = training.monitor(
      evaluation_params(state),
      state.model_state,
      training.monitor_split,
      {'epsilon': monitor.epsilon},
      jax.random.key(training.config.seed),
    )
  weights = np.full(plan.steps_per_epoch, plan.batch_size)
  weights[-1] -= weights.sum() - plan.num_examples
  metrics = log_epoch(record, log, step, epoch, weights, monitored)
  if due:
    best = max(record.robust_accuracies, default=-1.0)
    record.robust_accuracies.append(monitored['robust_accuracy'])
    if monitored['robust_accuracy'] > best:
      record.best_step = step
      _save(run, run.best, state, log, keep=1)
    _warn_of_collapse(run, epoch)
  return metrics


def _warn_of_collapse(run: _Run, epoch: int) -> None:
  accuracies = run.record.robust_accuracies
  trained_for_it = run.training.config.objective.name != 'standard'
  is_new = not has_collapsed(accuracies[:-1])
  if trained_for_it and is_new and has_collapsed(accuracies):
    warning = (
      f'PGD accuracy fell from {max(accuracies):.3f} to '
      f'{accuracies[-1]:.3f} by epoch {epoch}: catastrophic overfitting. The '
      f'checkpoint of step {run.record.best_step}, before the fall, stays in '
      f"'checkpoints/best'"
    )
    run.record.warnings.append(warning)
    logger.warning('%s: %s', run.name, warning)
