"""The training loop: chunks of compiled steps, with logs and checkpoints.

A run appends records to metrics.jsonl and scalars to TensorBoard events.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from advjax.config import own_sources, warn_of_changes
from advjax.devices import replicate
from advjax.processes.collectives import agree, from_main, is_main
from advjax.processes.signals import Interrupted, stop_on_signals
from advjax.training.checkpoint import (
  restore_checkpoint,
  save_checkpoint,
  saved_steps,
)
from advjax.training.optimizers import num_frozen
from advjax.training.setup import Run, device_inputs
from advjax.training.step import TrainState

logger = logging.getLogger(__name__)

# Seconds of a chunk of steps: nothing is logged during it, and a signal is
# handled at its end.
_CHUNK_SECONDS = 2.0
_MAX_GROWTH = 8
# Catastrophic overfitting loses most of the robust accuracy within an epoch.
_COLLAPSE_RATIO = 0.5
_COLLAPSE_DROP = 0.2


# ------------------------------------------------------------------------ logs


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the records of a metrics.jsonl; none if it does not exist."""
  if not path.exists():
    return []
  try:
    return [json.loads(line) for line in path.read_text().splitlines()]
  except ValueError as error:
    raise ValueError(
      f"'{path}' is not JSON ({error}); restore it from a copy, or train into "
      'another folder'
    ) from error


class MetricsLog:
  """Appends records to metrics.jsonl and scalars to TensorBoard events.

  `num_bytes` is the length of metrics.jsonl at the checkpoint of `step`: later
  records are removed, with a warning, and written again.
  """

  def __init__(self, workdir: pathlib.Path, num_bytes: int, step: int) -> None:
    # Not needed where nothing is logged.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    self.path = workdir / 'metrics.jsonl'
    # Without a buffer, which would be written again on closing.
    self._file = self.path.open('a+b', buffering=0)
    self._file.seek(num_bytes)
    steps = re.findall(rb'"step": (\d+).*\n', self._file.read())
    if steps:
      logger.warning(
        '%s: the run was killed after its last checkpoint, of step %d: steps '
        'up to at least %d are repeated',
        workdir,
        step,
        int(steps[-1]),
      )
    # A larger size would append zeros, were records lost.
    self._file.truncate(min(num_bytes, self.path.stat().st_size))
    self._file.seek(0, os.SEEK_END)
    self._failed = False
    # Not a SummaryWriter: a full disk ends its thread, and the next write
    # would never return.
    folder = workdir / 'events'
    folder.mkdir(exist_ok=True)
    self._events = EventsWriter(str(folder / 'events'))
    # TensorBoard hides older events of this step and later ones.
    start = SessionLog(status=SessionLog.START)
    self._events.write_event(
      Event(wall_time=time.time(), step=step + 1, session_log=start)
    )

  @property
  def num_bytes(self) -> int:
    """Length of metrics.jsonl."""
    return self._file.tell()

  def write(self, record: Mapping[str, Any]) -> None:
    """Writes a record; an OSError leaves no part of it in metrics.jsonl."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    line, start = json.dumps(record).encode() + b'\n', self.num_bytes
    try:
      try:
        # A full disk accepts a part of the line first.
        while line:
          line = line[self._file.write(line) :]
      except OSError:
        self._file.truncate(start)
        self._file.seek(start)
        raise
      values = [
        Summary.Value(tag=f'{record["kind"]}/{name}', simple_value=value)
        for name, value in record.items()
        if isinstance(value, (int, float)) and name not in ('step', 'epoch')
      ]
      self._events.write_event(
        Event(
          wall_time=time.time(),
          step=record['step'],
          summary=Summary(value=values),
        )
      )
      if record['kind'] == 'epoch':
        self._events.flush()
    except OSError as error:
      self._failed = True
      raise OSError(error.errno, error.strerror, str(self.path)) from error

  def close(self) -> None:
    """Closes both."""
    self._file.close()
    try:
      self._events.close()
    except OSError:
      # Closing writes its buffer again; the error has been raised before.
      if not self._failed:
        raise


class Progress:
  """A progress bar on a terminal, else one line per epoch."""

  def __init__(
    self, name: str, num_steps: int, num_epochs: int, step: int
  ) -> None:
    self._name = name
    self._num_epochs = num_epochs
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=step,
      disable=not sys.stderr.isatty() or not is_main(),
      dynamic_ncols=True,
      mininterval=0.2,
      bar_format='{desc} {percentage:3.0f} % |{bar}| {remaining} left{postfix}',
    )

  def update(
    self, epoch: int, num_steps: int, metrics: Mapping[str, float], rate: float
  ) -> None:
    """Advances the bar by `num_steps`; the rate is in images per second."""
    self._bar.set_description_str(
      f'{self._name}: epoch {epoch} of {self._num_epochs}', refresh=False
    )
    self._bar.set_postfix_str(_describe(metrics, rate), refresh=False)
    self._bar.update(num_steps)

  def epoch_done(
    self, epoch: int, metrics: Mapping[str, float], rate: float, left: float
  ) -> None:
    """Logs the epoch's metrics, and the seconds left, where there is no bar."""
    if self._bar.disable:
      logger.info(
        '%s: epoch %d of %d (%d %%): %s, %d s left',
        self._name,
        epoch,
        self._num_epochs,
        round(100 * epoch / self._num_epochs),
        _describe(metrics, rate),
        round(left),
      )

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()


def _describe(metrics: Mapping[str, float], rate: float) -> str:
  """Formats the loss and the accuracies among some metrics, and the rate."""
  parts = [f'loss {metrics["loss"]:.4f}'] if 'loss' in metrics else []
  parts += [
    f'{name.replace("_", " ")} {value:.3f}'
    for name, value in metrics.items()
    if name.endswith('accuracy')
  ]
  return ', '.join([*parts, f'{rate:,.0f} images/s'])


# ---------------------------------------------------------------- one run


class Diverged(RuntimeError):
  """The loss or the parameters are no longer finite."""


class TrainResult(NamedTuple):
  """A finished run; times are the share of one of several trained at once.

  `params` are those to evaluate, of the step `step` and the checkpoint that
  the config reports; `records` is the content of metrics.jsonl;
  `train_seconds` without compiling and evaluating; the time of a step is the
  median over the chunks.
  """

  checkpoint: str
  step: int
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
  Shape and classes let the network be read without its data set; `sources` are
  those of a user's own modules.
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
  image_shape: list[int] = dataclasses.field(default_factory=list)
  num_classes: int = 0
  sources: dict[str, str] = dataclasses.field(default_factory=dict)


class Recorder:
  """Writes the output files of a run: logs and checkpoints."""

  def __init__(self, run: Run, workdir: pathlib.Path, name: str) -> None:
    self.run = run
    self.name = name
    shape = list(run.train_split.images.shape[1:])
    self.record = Record(
      image_shape=shape,
      num_classes=run.num_classes,
      sources=own_sources(run.config),
    )
    self._workdir = workdir
    self._last = workdir / 'checkpoints' / 'last'
    self._best = workdir / 'checkpoints' / 'best'
    # In process 0 alone.
    self._log: MetricsLog | None = None

  def restore(self) -> TrainState:
    """Returns the state of the last checkpoint, or the initial one."""
    state = self.run.init_state()
    found = from_main(restore_checkpoint, self._last, state)
    if found:
      warn_of_changes(
        found.record.get('sources', {}), self.run.config, self._workdir
      )
      self.record = dataclasses.replace(self.record, **found.record)
      state = found.state
    return state

  @contextlib.contextmanager
  def logging(self, step: int) -> Iterator[None]:
    """Keeps the log open, which continues after `step`."""
    if not is_main():
      yield
      return
    self._log = MetricsLog(self._workdir, self.record.log_bytes, step)
    with contextlib.closing(self._log):
      yield

  def _write(self, kind: str, step: int, epoch: int, **fields: Any) -> None:
    if self._log:
      self._log.write({'kind': kind, 'step': step, 'epoch': epoch, **fields})

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
    self._write(
      'steps',
      step,
      epoch,
      **means,
      images_per_second=rate,
      losses=pending['loss'],
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
    self._write('epoch', step, epoch, **metrics)
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
    assert self._log is not None
    self.record.log_bytes = self._log.num_bytes
    record = dataclasses.asdict(self.record)
    try:
      save_checkpoint(directory, state, record, keep)
    except OSError as error:
      error.strerror = f'{error.strerror}; {self._what_stays()}'
      raise

  def _what_stays(self) -> str:
    found = saved_steps(self._last)
    stays = f"the last good checkpoint stays in '{self._last}'"
    return stays if found else 'there is no checkpoint before it'

  def _diverged(self, what: str, step: int) -> Diverged:
    return Diverged(
      f'{self.name}: {what} at step {step}; {self._what_stays()}. A smaller '
      'hparams.learning_rate may help'
    )

  def result(self, state: TrainState) -> TrainResult:
    """Returns the result of the checkpoint that the config reports."""
    config, record = self.run.config, self.record
    if config.report_checkpoint == 'best':
      best = from_main(restore_checkpoint, self._best, state)
      if best is None:
        raise ValueError(
          f"report_checkpoint = 'best'; allowed: 'last': '{self._best}' has no "
          f'checkpoint (monitor.every_epochs = {config.monitor.every_epochs}, '
          f'num_epochs = {config.num_epochs})'
        )
      state = best.state
    return TrainResult(
      checkpoint=config.report_checkpoint,
      step=int(state.step),
      params=jax.tree.map(np.asarray, state.evaluation_params),
      model_state=jax.tree.map(np.asarray, state.model_state),
      records=from_main(read_metrics, self._workdir / 'metrics.jsonl'),
      train_seconds=record.train_seconds,
      step_milliseconds=statistics.median(record.chunk_milliseconds),
      warnings=record.warnings,
    )


def has_collapsed(robust_accuracies: Sequence[float]) -> bool:
  """Whether the newest shows catastrophic overfitting (Wong et al. 2020)."""
  if not robust_accuracies:
    return False
  best, last = max(robust_accuracies), robust_accuracies[-1]
  return last < _COLLAPSE_RATIO * best and best - last >= _COLLAPSE_DROP


def train(
  run: Run, workdir: pathlib.Path, *, name: str = 'model'
) -> TrainResult:
  """Trains, or resumes from the last checkpoint; the caller locks the workdir.

  Interrupted on a signal, after a checkpoint: calling again resumes, and ends
  bit for bit where an uninterrupted run on as many CPU devices ends. Diverged
  if the loss or a parameter is not finite; the last good checkpoint stays.
  """
  recorder = Recorder(run, workdir, name)
  state = recorder.restore()
  step = int(state.step)
  if step >= run.num_steps:
    logger.info('%s: trained already (step %d); evaluating', name, step)
  else:
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
        {0: recorder},
        find_steps,
        replicate(state, run.devices),
        step,
        run.num_steps,
      )
  return recorder.result(state)


def run_steps(
  moving: dict[int, Recorder],
  find_steps: Callable[[], Callable[[Any, int], tuple[Any, Any]]],
  state: Any,
  step: int,
  until: int,
  unstack: Callable[[Any], Sequence[Any]] = lambda tree: [tree],
  failures: dict[int, Diverged] | None = None,
) -> Any:
  """Takes steps, with logs, evaluations and checkpoints where they are due.

  `moving` are the runs that take them, by their places in what `unstack`
  returns; one that diverges moves to `failures`, or raises where these are
  None. `find_steps` returns `(state, num_steps) -> (state, history)`, for the
  stages frozen now.
  """

  def for_each(call: Callable, tree: Any, *arguments: Any) -> list[Any]:
    parts, found = unstack(tree), []
    for index, recorder in list(moving.items()):
      try:
        found.append(call(recorder, parts[index], *arguments))
      except Diverged as error:
        if failures is None:
          raise
        failures[index] = error
        del moving[index]
        logger.error('error: %s', error)
    return found

  def compile_steps(state: Any) -> tuple[Callable, Any]:
    """Compiles by taking no steps, so that times are the steps' alone."""
    start = time.perf_counter()
    take_steps = find_steps()
    state, _ = jax.block_until_ready(take_steps(state, 0))
    seconds = time.perf_counter() - start
    logger.info('%s: training starts, compiled in %.1f s', name, seconds)
    return take_steps, state

  first = next(iter(moving.values()))
  run, name = first.run, first.name
  if len(moving) > 1:
    name = f'{len(moving)} runs'
  plan, config = run.plan, run.config
  if step:
    logger.info('%s: resuming from step %d', name, step)
  progress = Progress(name, run.num_steps, config.num_epochs, step)
  with contextlib.closing(progress), stop_on_signals() as stop:
    frozen = first.num_frozen
    take_steps, state = compile_steps(state)
    chunk, stopped = 1, None
    while step < until and moving and not stopped:
      first = next(iter(moving.values()))
      rest = plan.steps_per_epoch - step % plan.steps_per_epoch
      count = min(chunk, rest, until - step)
      if config.log_every_steps:
        count = min(count, config.log_every_steps - first.num_pending)
      start = time.perf_counter()
      state, history = take_steps(state, count)
      history = jax.tree.map(
        lambda values, end=count: np.asarray(values)[..., :end], history
      )
      seconds = time.perf_counter() - start
      share = seconds / len(moving)
      latest = for_each(Recorder.add_chunk, history, step, share)
      if not moving:
        break
      step += count
      fitting = int(_CHUNK_SECONDS * count / seconds)
      chunk = max(1, min(fitting, _MAX_GROWTH * count))
      rate = len(moving) * count * config.batch_size / seconds
      epoch = -(-step // plan.steps_per_epoch)
      progress.update(epoch, count, _mean_metrics(latest), rate)
      epoch_done = step % plan.steps_per_epoch == 0
      first = next(iter(moving.values()))
      if epoch_done or first.num_pending == config.log_every_steps:
        for each in moving.values():
          each.log_steps(step, epoch, rate)
      if epoch_done:
        metrics = for_each(Recorder.end_epoch, state, step, epoch)
        seconds_left = (run.num_steps - step) * seconds / count
        progress.epoch_done(epoch, _mean_metrics(metrics), rate, seconds_left)
        if frozen != first.num_frozen and step < until:
          frozen = first.num_frozen
          take_steps, state = compile_steps(state)
      due = epoch_done and epoch % config.checkpoint_every_epochs == 0
      # Read once: a signal that comes later waits for another chunk, and so
      # for a checkpoint.
      chunk, stopped = agree(chunk, stop.signum)
      if due or step == until or stopped:
        for_each(Recorder.save, state)
  # Also after the last step: evaluation must not start. And no process ends
  # before process 0 has saved.
  _, stopped = agree(chunk, stop.signum)
  if stopped:
    raise Interrupted(stopped)
  return state


def _mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """The mean of each metric over runs; nothing of no runs."""
  names = metrics[0] if metrics else ()
  return {
    name: float(np.mean([each[name] for each in metrics])) for name in names
  }
