"""The progress of a run: what is saved beside its state, and logged."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from advjax.training.logs import MetricsLog, NoLog


@dataclasses.dataclass
class RunRecord:
  """What a run has to remember besides its state; all of it JSON.

  Attributes:
    epoch_metrics: Every step's metrics of the current epoch.
    num_logged: How many of these steps metrics.jsonl holds.
    log_bytes: Length of metrics.jsonl at the checkpoint.
    train_seconds: Time of the steps so far.
    chunk_milliseconds: Time per step of each chunk.
    robust_accuracies: What the monitor saw.
    best_step: The step of the best checkpoint, or None.
    epoch_losses: The mean training loss of each epoch.
    warnings: What was noticed, in plain words.
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

  @property
  def num_pending(self) -> int:
    """Steps of the current epoch that metrics.jsonl does not hold yet."""
    return len(self.epoch_metrics.get('loss', ())) - self.num_logged

  @property
  def step_milliseconds(self) -> float:
    """Median time of a step, over the chunks."""
    return statistics.median(self.chunk_milliseconds)


def add_chunk(
  record: RunRecord, history: Mapping[str, np.ndarray], seconds: float
) -> None:
  """Adds a chunk of steps to the record.

  Args:
    record: Changed in place.
    history: Metrics per step, `[num_steps]` each.
    seconds: Time of the chunk.
  """
  for name, values in history.items():
    record.epoch_metrics.setdefault(name, []).extend(values.tolist())
  record.train_seconds += seconds
  record.chunk_milliseconds.append(1000 * seconds / len(history['loss']))


def log_steps(
  record: RunRecord, log: MetricsLog | NoLog, step: int, epoch: int, rate: float
) -> None:
  """Writes the pending steps as one record of metrics.jsonl.

  Its numbers are means over these steps; `losses` has every step's loss.

  Args:
    record: Changed in place: nothing is pending afterwards.
    log: Where to write.
    step: Steps done.
    epoch: The current epoch, from 1.
    rate: Images per second.
  """
  pending = {
    name: values[record.num_logged :]
    for name, values in record.epoch_metrics.items()
  }
  means = {name: statistics.fmean(values) for name, values in pending.items()}
  log.write(
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


def log_epoch(
  record: RunRecord,
  log: MetricsLog | NoLog,
  step: int,
  epoch: int,
  weights: np.ndarray,
  monitored: Mapping[str, float],
  counts: Mapping[str, int],
) -> dict[str, float]:
  """Writes an epoch's means as one record of metrics.jsonl.

  Args:
    record: Changed in place: the next epoch starts empty.
    log: Where to write.
    step: Steps done.
    epoch: The epoch that is done, from 1.
    weights: Real examples in each step, which weight the means.
    monitored: What the monitor saw at the end of this epoch, if it looked.
    counts: What else to write.

  Returns:
    The metrics written.
  """
  means = {
    name: float(np.average(values, weights=weights))
    for name, values in record.epoch_metrics.items()
  }
  record.epoch_losses.append(means['loss'])
  metrics = means | {f'monitor_{name}': v for name, v in monitored.items()}
  metrics |= counts
  log.write({'kind': 'epoch', 'step': step, 'epoch': epoch, **metrics})
  record.epoch_metrics = {}
  record.num_logged = 0
  return metrics


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Returns the mean of each metric over runs.

  Args:
    metrics: The same metrics of each run.

  Returns:
    Their means; nothing of no runs.

  Example:
    >>> mean_metrics([{'loss': 1.0}, {'loss': 2.0}])
    {'loss': 1.5}
  """
  return {
    name: float(np.mean([each[name] for each in metrics]))
    for name in (metrics[0] if metrics else ())
  }
