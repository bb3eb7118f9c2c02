"""The training loop: chunks of compiled steps, and what happens in between."""

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.files import lock_folder
from advjax.processes.collectives import agree, from_main
from advjax.processes.signals import Interrupted, stop_on_signals
from advjax.training.logs import MetricsLog, NoLog, Progress, open_log
from advjax.training.placement import device_inputs, place
from advjax.training.program import OWN_FIELDS, common_fields
from advjax.training.record import add_chunk, log_steps, mean_metrics
from advjax.training.run import (
  Diverged,
  Run,
  TrainResult,
  check_finite,
  end_epoch,
  restore_run,
  result_of,
  save,
)
from advjax.training.setup import Training
from advjax.training.state import TrainState

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
    Interrupted: on a signal (`stop_signals`), after a checkpoint. Calling
      again goes on, and ends bit for bit where an uninterrupted run on as many
      CPU devices ends.
    Diverged: if the loss turns NaN or infinite; the last good checkpoint
      stays.
    ValueError: if no checkpoint in the workdir can be read, or another
      program is training there.
  """
  (result,) = train_at_once([training], [workdir], names=[name])
  if isinstance(result, Diverged):
    raise result
  return result


def train_at_once(
  trainings: Sequence[Training],
  workdirs: Sequence[pathlib.Path],
  *,
  names: Sequence[str],
) -> list[TrainResult | Diverged]:
  """Trains several runs of one program at once.

  Each run keeps its own folder, and starts, draws and sees what it does alone,
  on as many devices as a team has: on CPUs, where the runs of a team take
  turns, bit for bit; on accelerators, where they are vmapped, but for float32
  rounding. A run that diverges stops by itself. Runs that lag behind, after a
  kill say, first catch up while the others wait.

  Args:
    trainings: Runs on the same data that differ in their seed, hparams and
      init_from alone.
    workdirs: A prepared folder for each.
    names: What the log calls each.

  Returns:
    For each its result, or the error of a run that diverged; a run's seconds
    and milliseconds are its share.

  Raises:
    ValueError: if the runs differ in more, as several do that are unfrozen
      stage by stage; and as `train`.
    Interrupted: as `train`.
  """
  for training, name in zip(trainings, names, strict=True):
    _check_same_program(trainings[0], training, f'{name} and {names[0]}')
  with contextlib.ExitStack() as locks:
    from_main(
      lambda: [locks.enter_context(lock_folder(each)) for each in workdirs]
    )
    restored = [
      restore_run(training, workdir, name)
      for training, workdir, name in zip(
        trainings, workdirs, names, strict=True
      )
    ]
    runs = [run for run, _ in restored]
    states = [state for _, state in restored]
    failures: dict[int, Diverged] = {}
    while True:
      steps = {
        index: int(state.step)
        for index, state in enumerate(states)
        if index not in failures
      }
      lowest = min(steps.values(), default=runs[0].num_steps)
      if lowest == runs[0].num_steps:
        break
      going = [index for index, step in steps.items() if step == lowest]
      ahead = [step for step in steps.values() if step > lowest]
      until = min(ahead, default=runs[0].num_steps)
      states = _train(runs, states, going, until, failures)
    return [
      failures.get(index) or result_of(run, state)
      for index, (run, state) in enumerate(zip(runs, states, strict=True))
    ]


def _check_same_program(first: Training, other: Training, names: str) -> None:
  """Raises a ValueError if two runs cannot be trained at once."""
  fields, others = common_fields(first.config), common_fields(other.config)
  differing = [field for field in fields if fields[field] != others[field]]
  if other.train_split is not first.train_split:
    differing.append('the training images')
  if other.train_steps is not first.train_steps and not differing:
    differing.append('the devices')
  if other is not first and first.config.unfreezing.name != 'none':
    differing.append('when their stages are unfrozen')
  if differing:
    raise ValueError(
      f'{names} cannot be trained at once: they differ in '
      f'{", ".join(differing)}; allowed: {", ".join(OWN_FIELDS)}'
    )


def train_seeds(
  trainings: Sequence[Training],
  workdirs: Sequence[pathlib.Path],
  *,
  names: Sequence[str],
) -> list[TrainResult]:
  """Trains runs of one program: at once on accelerators, else in turn.

  In turn, too, if stages are unfrozen: each run does so at its own moments.

  Args:
    trainings: Runs that differ in their seed alone.
    workdirs: A prepared folder for each.
    names: What the log calls each.

  Returns:
    A result for each.

  Raises:
    ValueError, Interrupted, Diverged: as `train`.
  """
  staged = trainings[0].config.unfreezing.name != 'none'
  if trainings[0].devices[0].platform == 'cpu' or staged:
    return [
      train(training, workdir, name=name)
      for training, workdir, name in zip(
        trainings, workdirs, names, strict=True
      )
    ]
  results = []
  for result in train_at_once(trainings, workdirs, names=names):
    if isinstance(result, Diverged):
      raise result
    results.append(result)
  return results


@dataclasses.dataclass
class _Going:
  """The runs that take steps; those that diverge drop out.

  Attributes:
    runs: All runs, those that wait included.
    indices: Which of them go.
    failures: Those that have diverged.
    logs: The log of each run that goes.
  """

  runs: Sequence[Run]
  indices: list[int]
  failures: dict[int, Diverged]
  logs: dict[int, MetricsLog | NoLog]

  @property
  def first(self) -> Run:
    return self.runs[self.indices[0]]

  @property
  def name(self) -> str:
    several = len(self.indices) > 1
    return f'{len(self.indices)} runs' if several else self.first.name

  def compile(self, state: Any, inputs: Any, nothing: Any) -> tuple[Any, ...]:
    """Returns the state and the program of the steps, ready to take them."""
    start, one = time.perf_counter(), len(self.runs) == 1
    first = self.first
    program = first.find_train_steps() if one else first.training.train_runs
    # No steps: compiles, so that the times of steps are theirs alone.
    state, _ = jax.block_until_ready(program(state, *inputs, nothing))
    seconds = time.perf_counter() - start
    logger.info('%s: training starts, compiled in %.1f s', self.name, seconds)
    return state, program

  def each(self) -> Iterator[tuple[int, Run, MetricsLog | NoLog]]:
    for index in list(self.indices):
      yield index, self.runs[index], self.logs[index]

  @contextlib.contextmanager
  def watch(self, index: int) -> Iterator[None]:
    """Takes a run out if it turns out to have diverged."""
    try:
      yield
    except Diverged as error:
      self.failures[index] = error
      self.indices.remove(index)
      if len(self.runs) > 1:
        logger.error('error: %s', error)


def _train(
  runs: Sequence[Run],
  states: Sequence[TrainState],
  indices: list[int],
  until: int,
  failures: dict[int, Diverged],
) -> list[TrainState]:
  """Takes the runs `indices`, all at one step, to another; the others wait."""
  step = int(states[indices[0]].step)
  with contextlib.ExitStack() as stack:
    logs = {}
    for index in indices:
      log = open_log(runs[index].workdir, runs[index].record.log_bytes, step)
      logs[index] = stack.enter_context(contextlib.closing(log))
    going = _Going(runs, indices, failures, logs)
    return _train_logged(going, states, until)


def _train_logged(
  going: _Going, states: Sequence[TrainState], until: int
) -> list[TrainState]:
  runs, training = going.runs, going.first.training
  plan, config = training.plan, training.config
  num_steps, step = going.first.num_steps, int(states[going.indices[0]].step)
  if step:
    logger.info('%s: going on from step %d', going.name, step)
  placement = place([run.training for run in runs])
  inputs = device_inputs([run.training for run in runs])
  state = placement.put(states)
  chunk = 1
  progress = Progress(going.name, num_steps, config.num_epochs, step)
  with contextlib.closing(progress), stop_on_signals() as stop:
    nothing = placement.num_steps(0, ())
    frozen = going.first.num_frozen
    state, train_steps = going.compile(state, inputs, nothing)
    stopped: int | None = None
    while step < until and going.indices and not stopped:
      rest = plan.steps_per_epoch - step % plan.steps_per_epoch
      count = min(chunk, rest, until - step)
      if config.log_every_steps:
        pending = going.first.record.num_pending
        count = min(count, config.log_every_steps - pending)
      start = time.perf_counter()
      counts = placement.num_steps(count, going.indices)
      state, history = train_steps(state, *inputs, counts)
      history = placement.get(jax.tree.map(np.asarray, history))
      seconds = time.perf_counter() - start
      latest = _add_chunk(going, history, step, count, seconds)
      if not going.indices:
        break
      step += count
      fitting = int(_CHUNK_SECONDS * count / seconds)
      chunk = max(1, min(fitting, _MAX_GROWTH * count))
      rate = len(going.indices) * count * config.batch_size / seconds
      epoch = -(-step // plan.steps_per_epoch)
      progress.update(epoch, count, latest, rate)
      epoch_done = step % plan.steps_per_epoch == 0
      if epoch_done or going.first.record.num_pending == config.log_every_steps:
        for _, run, log in going.each():
          log_steps(run.record, log, step, epoch, rate)
      if epoch_done:
        ended = _end_epoch(going, placement.get(state), step, epoch)
        progress.epoch_done(
          epoch, ended, rate, (num_steps - step) * seconds / count
        )
        unfrozen = going.indices and frozen != going.first.num_frozen
        if unfrozen and step < until:
          frozen = going.first.num_frozen
          state, train_steps = going.compile(state, inputs, nothing)
      due = epoch_done and epoch % config.checkpoint_every_epochs == 0
      # Read once: a signal that comes later waits for another chunk, and so
      # for a checkpoint.
      chunk, stopped = agree(chunk, stop.signum)
      if due or step == until or stopped:
        own = placement.get(state)
        for index, run, log in going.each():
          with going.watch(index):
            save(run, run.last, own[index], log, keep=2)
  # Also after the last step: there is more to do than training. And no process
  # ends before process 0 has saved.
  _, stopped = agree(chunk, stop.signum)
  if stopped:
    raise Interrupted(stopped)
  return placement.get(state)


def _add_chunk(
  going: _Going,
  history: Sequence[Mapping[str, np.ndarray]],
  step: int,
  count: int,
  seconds: float,
) -> dict[str, float]:
  """Adds a chunk to the records; returns the last step's mean metrics."""
  share, latest = seconds / len(going.indices), []
  for index, run, _ in going.each():
    metrics = {key: values[:count] for key, values in history[index].items()}
    with going.watch(index):
      check_finite(run, metrics['loss'], step)
      add_chunk(run.record, metrics, share)
      latest.append({key: values[-1] for key, values in metrics.items()})
  return mean_metrics(latest)


def _end_epoch(
  going: _Going, states: Sequence[TrainState], step: int, epoch: int
) -> dict[str, float]:
  """Ends an epoch of every run; returns the mean metrics."""
  ended = []
  for index, run, log in going.each():
    with going.watch(index):
      ended.append(end_epoch(run, states[index], log, step, epoch))
  return mean_metrics(ended)
