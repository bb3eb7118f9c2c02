"""The training loop: chunks of compiled steps, with logs and checkpoints."""

import contextlib
import dataclasses
import logging
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.devices import replicate
from advjax.files import lock_folder
from advjax.processes.collectives import agree, from_main, is_main
from advjax.processes.signals import Interrupted, stop_on_signals
from advjax.training.checkpoint import (
  restore_checkpoint,
  save_checkpoint,
  saved_steps,
)
from advjax.training.logs import MetricsLog, NoLog, Progress, read_metrics
from advjax.training.monitor import has_collapsed
from advjax.training.setup import Run, device_inputs
from advjax.training.step import TrainState
from advjax.training.unfreezing import num_frozen

logger = logging.getLogger(__name__)

# Seconds of a chunk of steps: nothing is logged during it, and a signal is
# handled at its end.
_CHUNK_SECONDS = 2.0
_MAX_GROWTH = 8


class Diverged(RuntimeError):
  """The loss or the parameters are no longer finite."""


class TrainResult(NamedTuple):
  """A finished run; times are the share of one of several trained at once.

  `params` are those to evaluate, `records` the content of metrics.jsonl;
  `train_seconds` without compiling and evaluating; the time of a step is the
  median over the chunks.
  """

  params: Any
  model_state: Any
  records: list[dict[str, Any]]
  train_seconds: float
  step_milliseconds: float
  warnings: list[str]


@dataclasses.dataclass
class Record:
  """The record of a run besides its state; saved with it as JSON.

  `epoch_metrics` are those of every step of the current epoch, of which
  metrics.jsonl holds `num_logged`; `log_bytes` is its length at the checkpoint.
  """

  epoch_metrics: dict[str, list[float]] = dataclasses.field(
    default_factory=dict
  )
  num_logged: int = 0
  log_bytes: int = 0
  train_seconds: float = 0.0
  chunk_milliseconds: list[float] = dataclasses.field(default_factory=list)
  robust_accuracies: list[float] = dataclasses.field(default_factory=list)
  best_step: int | None = None
  epoch_losses: list[float] = dataclasses.field(default_factory=list)
  warnings: list[str] = dataclasses.field(default_factory=list)


class Recorder:
  """Writes what a run leaves in its folder: logs, checkpoints, warnings."""

  num_runs = 1  # Several in `vmapped`.

  def __init__(self, run: Run, workdir: pathlib.Path, name: str) -> None:
    self.run = run
    self.name = name
    self.record = Record()
    self._workdir = workdir
    self._last = workdir / 'checkpoints' / 'last'
    self._best = workdir / 'checkpoints' / 'best'
    self._log: MetricsLog | NoLog = NoLog()

  def restore(self) -> TrainState:
    """Returns the state of the last checkpoint, or the initial one."""
    state = self.run.init_state()
    found = from_main(lambda: restore_checkpoint(self._last, state))
    if found:
      self.record = Record(**found.record)
      state = found.state
    return state

  @contextlib.contextmanager
  def logging(self, step: int) -> Iterator[None]:
    """Keeps the log open, which continues after `step`."""
    if is_main():
      self._log = MetricsLog(self._workdir, self.record.log_bytes, step)
    with contextlib.closing(self._log):
      yield

  @property
  def num_pending(self) -> int:
    """Steps of the current epoch that metrics.jsonl does not hold yet."""
    steps = self.record.epoch_metrics.get('loss', ())
    return len(steps) - self.record.num_logged

  @property
  def num_frozen(self) -> int:
    """Stages of the network that are frozen now."""
    config, num_stages = self.run.config.unfreezing, len(self.run.model.stages)
    if config.name == 'none':
      return 0
    return num_frozen(self.record.epoch_losses, config, num_stages)

  def add_chunk(
    self, history: Mapping[str, np.ndarray], step: int, seconds: float
  ) -> dict[str, float]:
    """Adds a chunk's metrics `[num_steps]`; returns the last ones."""
    losses = history['loss']
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
      raise self._diverged(f'the loss is {losses[bad[0]]}', step + bad[0] + 1)
    for name, values in history.items():
      self.record.epoch_metrics.setdefault(name, []).extend(values.tolist())
    self.record.train_seconds += seconds
    self.record.chunk_milliseconds.append(1000 * seconds / len(losses))
    return {name: float(values[-1]) for name, values in history.items()}

  def log_steps(self, step: int, epoch: int, rate: float) -> None:
    """Logs the pending steps: their mean metrics, and every loss."""
    record = self.record
    pending = {
      name: values[record.num_logged :]
      for name, values in record.epoch_metrics.items()
    }
    means = {name: statistics.fmean(values) for name, values in pending.items()}
    self._log.write(
      {
        'kind': 'steps',
        'step': step,
        'epoch': epoch,
        **means,
        'images_per_second': rate,
        'losses': pending['loss'],
      }
    )
    record.num_logged = len(record.epoch_metrics['loss'])

  def end_epoch(
    self, state: TrainState, step: int, epoch: int
  ) -> dict[str, float]:
    """Evaluates, logs the mean metrics, and saves a state that is the best."""
    run, record, monitor = self.run, self.record, self.run.config.monitor
    monitored: dict[str, float] = {}
    if epoch % monitor.every_epochs == 0 or step == run.num_steps:
      monitored = run.monitor(
        state.evaluation_params,
        state.model_state,
        run.monitor_split,
        {'epsilon': monitor.epsilon},
        jax.random.key(run.config.seed),
      )
    weights = np.full(run.plan.steps_per_epoch, run.plan.batch_size)
    weights[-1] -= weights.sum() - run.plan.num_examples
    metrics: dict[str, float] = {
      name: float(np.average(values, weights=weights))
      for name, values in record.epoch_metrics.items()
    }
    frozen = self.num_frozen
    record.epoch_losses.append(metrics['loss'])
    metrics |= {f'monitor_{name}': v for name, v in monitored.items()}
    if run.config.unfreezing.name != 'none':
      metrics['num_frozen'] = frozen
    self._log.write({'kind': 'epoch', 'step': step, 'epoch': epoch, **metrics})
    record.epoch_metrics, record.num_logged = {}, 0
    if monitored:
      self._add_robust_accuracy(
        monitored['robust_accuracy'], state, step, epoch
      )
    return metrics

  def _add_robust_accuracy(
    self, accuracy: float, state: TrainState, step: int, epoch: int
  ) -> None:
    accuracies = self.record.robust_accuracies
    had_collapsed = has_collapsed(accuracies)
    best = max(accuracies, default=-1.0)
    accuracies.append(accuracy)
    if accuracy > best:
      self.record.best_step = step
      self._save(self._best, state, keep=1)
    trained_for_it = self.run.config.objective.name != 'standard'
    if trained_for_it and has_collapsed(accuracies) and not had_collapsed:
      warning = (
        f'PGD accuracy fell from {max(accuracies):.3f} to {accuracy:.3f} by '
        f'epoch {epoch}: catastrophic overfitting. The checkpoint of step '
        f"{self.record.best_step}, before the drop, is in 'checkpoints/best'"
      )
      self.record.warnings.append(warning)
      if is_main():
        logger.warning('%s: %s', self.name, warning)

  def save(self, state: TrainState) -> None:
    """Saves the last checkpoint; Diverged if a parameter is not finite."""
    self._save(self._last, state, keep=2)

  def _save(
    self, directory: pathlib.Path, state: TrainState, keep: int
  ) -> None:
    finite = jax.tree.map(lambda leaf: np.isfinite(leaf).all(), state.params)
    if not all(jax.tree.leaves(finite)):
      raise self._diverged('a parameter is not finite', int(state.step))
    if not is_main():
      return
    self.record.log_bytes = self._log.num_bytes
    record = dataclasses.asdict(self.record)
    try:
      save_checkpoint(directory, state, record, keep)
    except OSError as error:
      error.strerror = f'{error.strerror}; {self._what_stays()}'
      raise

  def _what_stays(self) -> str:
    if not saved_steps(self._last):
      return 'there is no checkpoint before it'
    return f"the last good checkpoint stays in '{self._last}'"

  def _diverged(self, what: str, step: int) -> Diverged:
    return Diverged(
      f'{self.name}: {what} at step {step}; {self._what_stays()}. A smaller '
      'hparams.learning_rate may help'
    )

  def result(self, state: TrainState) -> TrainResult:
    """Returns the result of the checkpoint that the config reports."""
    config, record = self.run.config, self.record
    if config.report_checkpoint == 'best':
      best = from_main(lambda: restore_checkpoint(self._best, state))
      if best is None:
        raise ValueError(
          "report_checkpoint = 'best', but there is none: monitor.every_epochs "
          f'= {config.monitor.every_epochs}; allowed: 1 to num_epochs = '
          f'{config.num_epochs}'
        )
      state = best.state
    return TrainResult(
      params=jax.tree.map(np.asarray, state.evaluation_params),
      model_state=jax.tree.map(np.asarray, state.model_state),
      records=from_main(lambda: read_metrics(self._workdir / 'metrics.jsonl')),
      train_seconds=record.train_seconds,
      step_milliseconds=statistics.median(record.chunk_milliseconds),
      warnings=record.warnings,
    )


def train(
  run: Run, workdir: pathlib.Path, *, name: str = 'model'
) -> TrainResult:
  """Trains, or resumes from the last checkpoint in a prepared workdir.

  Interrupted on a signal, after a checkpoint: calling again resumes, and ends
  bit for bit where an uninterrupted run on as many CPU devices ends. Diverged
  if the loss or a parameter is not finite; the last good checkpoint stays.
  """
  with lock_folders([workdir]):
    recorder = Recorder(run, workdir, name)
    state = recorder.restore()
    step = int(state.step)
    if step < run.num_steps:
      data, inputs = device_inputs(run)

      def find_steps() -> Callable:
        frozen = recorder.num_frozen
        if run.config.unfreezing.name != 'none':
          total = len(run.model.stages)
          logger.info('%s: %d of %d stages are frozen', name, frozen, total)
        steps = run.frozen_steps(frozen) if frozen else run.train_steps
        return lambda state, count: steps(state, data, inputs, np.int32(count))

      with recorder.logging(step):
        state = run_steps(
          recorder,
          find_steps,
          replicate(state, run.devices),
          step,
          run.num_steps,
        )
    return recorder.result(state)


def lock_folders(
  workdirs: Sequence[pathlib.Path],
) -> contextlib.ExitStack[bool | None]:
  """Locks the folders of runs, in process 0; all get its error."""
  with contextlib.ExitStack() as stack:

    def lock() -> None:
      for workdir in workdirs:
        stack.enter_context(lock_folder(workdir))

    from_main(lock)
    return stack.pop_all()


def run_steps(
  recorder: Any,
  find_steps: Callable[[], Callable[[Any, int], tuple[Any, Any]]],
  state: Any,
  step: int,
  until: int,
) -> Any:
  """Takes steps, with logs, evaluations and checkpoints where they are due.

  `recorder` is a `Recorder`, or several runs' in one (`vmapped`). `find_steps`
  returns `(state, num_steps) -> (state, history)`, for the stages frozen now.
  """
  run = recorder.run
  plan, config = run.plan, run.config
  if step:
    logger.info('%s: resuming from step %d', recorder.name, step)
  progress = Progress(recorder.name, run.num_steps, config.num_epochs, step)
  with contextlib.closing(progress), stop_on_signals() as stop:
    frozen = recorder.num_frozen
    take_steps, state = _compile(recorder, find_steps, state)
    chunk, stopped = 1, None
    while step < until and recorder.num_runs and not stopped:
      rest = plan.steps_per_epoch - step % plan.steps_per_epoch
      count = min(chunk, rest, until - step)
      if config.log_every_steps:
        count = min(count, config.log_every_steps - recorder.num_pending)
      start = time.perf_counter()
      state, history = take_steps(state, count)
      history = jax.tree.map(
        lambda values, end=count: np.asarray(values)[..., :end], history
      )
      seconds = time.perf_counter() - start
      latest = recorder.add_chunk(history, step, seconds)
      if not recorder.num_runs:
        break
      step += count
      fitting = int(_CHUNK_SECONDS * count / seconds)
      chunk = max(1, min(fitting, _MAX_GROWTH * count))
      rate = recorder.num_runs * count * config.batch_size / seconds
      epoch = -(-step // plan.steps_per_epoch)
      progress.update(epoch, count, latest, rate)
      epoch_done = step % plan.steps_per_epoch == 0
      if epoch_done or recorder.num_pending == config.log_every_steps:
        recorder.log_steps(step, epoch, rate)
      if epoch_done:
        metrics = recorder.end_epoch(state, step, epoch)
        seconds_left = (run.num_steps - step) * seconds / count
        progress.epoch_done(epoch, metrics, rate, seconds_left)
        if frozen != recorder.num_frozen and step < until:
          frozen = recorder.num_frozen
          take_steps, state = _compile(recorder, find_steps, state)
      due = epoch_done and epoch % config.checkpoint_every_epochs == 0
      # Read once: a signal that comes later waits for another chunk, and so
      # for a checkpoint.
      chunk, stopped = agree(chunk, stop.signum)
      if due or step == until or stopped:
        recorder.save(state)
  # Also after the last step: evaluation must not start. And no process ends
  # before process 0 has saved.
  _, stopped = agree(chunk, stop.signum)
  if stopped:
    raise Interrupted(stopped)
  return state


def _compile(
  recorder: Any, find_steps: Callable[[], Callable], state: Any
) -> tuple[Callable, Any]:
  """Compiles the steps by taking none, so that times are the steps' alone."""
  start = time.perf_counter()
  take_steps = find_steps()
  state, _ = jax.block_until_ready(take_steps(state, 0))
  seconds = time.perf_counter() - start
  logger.info('%s: training starts, compiled in %.1f s', recorder.name, seconds)
  return take_steps, state
