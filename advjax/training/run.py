"""One run among those trained at once: its folder, progress, checkpoints."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.processes.collectives import from_main, is_main
from advjax.training.checkpoint import (
  has_checkpoint,
  restore_checkpoint,
  save_checkpoint,
)
from advjax.training.logs import MetricsLog, NoLog, read_metrics
from advjax.training.monitor import has_collapsed
from advjax.training.record import RunRecord, log_epoch
from advjax.training.setup import Training
from advjax.training.state import TrainState, evaluation_params
from advjax.training.unfreezing import num_frozen

logger = logging.getLogger(__name__)


class Diverged(RuntimeError):
  """The loss or the params are no longer finite."""


class TrainResult(NamedTuple):
  """A finished run.

  Attributes:
    params: The params to evaluate (the moving average where there is one).
    model_state: BatchNorm statistics.
    records: What metrics.jsonl holds.
    train_seconds: Time of the steps, without compiling and evaluating; of
      runs trained at once, each one's share.
    step_milliseconds: Median time of a step, over the chunks; likewise.
    warnings: What was noticed, in plain words.
  """

  params: Any
  model_state: Any
  records: list[dict[str, Any]]
  train_seconds: float
  step_milliseconds: float
  warnings: list[str]


class Run(NamedTuple):
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
  def num_frozen(self) -> int:
    """How many stages of the network are frozen now."""
    training = self.training
    return num_frozen(
      self.record.epoch_losses,
      training.config.unfreezing,
      len(training.model.stages),
    )

  def find_train_steps(self) -> Callable:
    """Returns the program of its steps, with what is frozen now."""
    count, training = self.num_frozen, self.training
    if training.config.unfreezing.name != 'none':
      total = len(training.model.stages)
      logger.info('%s: %d of %d stages are frozen', self.name, count, total)
    return training.frozen_steps(count) if count else training.train_steps

  @property
  def num_steps(self) -> int:
    training = self.training
    return training.config.num_epochs * training.plan.steps_per_epoch


def restore_run(
  training: Training, workdir: pathlib.Path, name: str
) -> tuple[Run, TrainState]:
  """Returns a run and its state: the last checkpoint's, or the start."""
  state = training.init_state()
  run = Run(training, name, workdir, RunRecord())
  found = from_main(lambda: restore_checkpoint(run.last, state))
  if found:
    state, run = found.state, run._replace(record=RunRecord(**found.record))
  return run, state


def result_of(run: Run, state: TrainState) -> TrainResult:
  """Returns what a run gives back, of the checkpoint that the config wants."""
  config, record = run.training.config, run.record
  if config.report_checkpoint == 'best':
    best = from_main(lambda: restore_checkpoint(run.best, state))
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
    records=from_main(lambda: read_metrics(run.workdir / 'metrics.jsonl')),
    train_seconds=record.train_seconds,
    step_milliseconds=record.step_milliseconds,
    warnings=record.warnings,
  )


def check_finite(run: Run, losses: np.ndarray, step: int) -> None:
  """Raises Diverged if a loss of the steps after `step` is not finite."""
  bad = np.flatnonzero(~np.isfinite(losses))
  if bad.size:
    raise Diverged(
      f'{run.name}: the loss is {losses[bad[0]]} at step {step + bad[0] + 1}; '
      f'{_what_stays(run)}. A smaller hparams.learning_rate may help'
    )


def _what_stays(run: Run) -> str:
  if not has_checkpoint(run.last):
    return 'there is no checkpoint before it'
  return f"the last good checkpoint stays in '{run.last}'"


def save(
  run: Run,
  directory: pathlib.Path,
  state: TrainState,
  log: MetricsLog | NoLog,
  keep: int,
) -> None:
  """Saves a checkpoint; raises Diverged if a parameter is not finite.

  An OSError, of a full disk say, names the folder and what stays.
  """
  finite = jax.tree.map(lambda leaf: np.isfinite(leaf).all(), state.params)
  if not all(jax.tree.leaves(finite)):
    raise Diverged(
      f'{run.name}: a parameter is not finite at step {int(state.step)}; '
      f'{_what_stays(run)}. A smaller hparams.learning_rate may help'
    )
  if not is_main():
    return
  run.record.log_bytes = log.num_bytes
  record = dataclasses.asdict(run.record)
  try:
    save_checkpoint(directory, state, record, keep)
  except OSError as error:
    error.strerror = f'{error.strerror}; {_what_stays(run)}'
    raise


def end_epoch(
  run: Run, state: TrainState, log: MetricsLog | NoLog, step: int, epoch: int
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
  staged = training.config.unfreezing.name != 'none'
  counts = {'num_frozen': run.num_frozen} if staged else {}
  metrics = log_epoch(record, log, step, epoch, weights, monitored, counts)
  if due:
    best = max(record.robust_accuracies, default=-1.0)
    record.robust_accuracies.append(monitored['robust_accuracy'])
    if monitored['robust_accuracy'] > best:
      record.best_step = step
      save(run, run.best, state, log, keep=1)
    _warn_of_collapse(run, epoch)
  return metrics


def _warn_of_collapse(run: Run, epoch: int) -> None:
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
    if is_main():
      logger.warning('%s: %s', run.name, warning)
