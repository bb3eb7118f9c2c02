"""What a run says while it trains: progress, metrics.jsonl, TensorBoard."""

import json
import logging
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import tensorboardX
import tqdm

logger = logging.getLogger(__name__)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a metrics.jsonl.

  Args:
    path: The file; one that does not exist counts as empty.

  Returns:
    Its records.

  Example:
    >>> read_metrics(pathlib.Path('no-such-file'))
    []
  """
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


class MetricsLog:
  """Appends records to metrics.jsonl and scalars to TensorBoard events.

  Args:
    workdir: The run's folder.
    num_bytes: Length of metrics.jsonl at the checkpoint that the run goes on
      from; what was written after it is cut off and will be written again.
    step: The step of that checkpoint.
  """

  def __init__(self, workdir: pathlib.Path, num_bytes: int, step: int) -> None:
    self.path = workdir / 'metrics.jsonl'
    self._file = self.path.open('ab')
    # A longer length would fill the file up with zeros, were records lost.
    self._file.truncate(min(num_bytes, self.path.stat().st_size))
    self._file.seek(0, os.SEEK_END)
    # TensorBoard hides what has this step or a later one; those of the
    # checkpoint's own step were written before it.
    self._events = tensorboardX.SummaryWriter(
      str(workdir / 'events'), purge_step=step + 1
    )

  @property
  def num_bytes(self) -> int:
    """Length of metrics.jsonl."""
    return self._file.tell()

  def write(self, record: Mapping[str, Any]) -> None:
    """Writes a record; its numbers go to TensorBoard too."""
    self._file.write(json.dumps(record).encode() + b'\n')
    self._file.flush()
    for name, value in record.items():
      if isinstance(value, (int, float)) and name not in ('step', 'epoch'):
        tag = f'{record["kind"]}/{name}'
        self._events.add_scalar(tag, value, record['step'])

  def close(self) -> None:
    """Closes both."""
    self._file.close()
    self._events.close()


class Progress:
  """A progress bar on a terminal, else one line per epoch.

  Args:
    name: What is trained.
    num_steps: Steps of the whole run.
    num_epochs: Its epochs.
    step: Steps already done.
  """

  def __init__(
    self, name: str, num_steps: int, num_epochs: int, step: int
  ) -> None:
    self._name = name
    self._num_epochs = num_epochs
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=step,
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
      mininterval=0.2,
      bar_format='{desc} {percentage:3.0f} % |{bar}| {remaining} left{postfix}',
    )

  def update(
    self,
    epoch: int,
    num_steps: int,
    metrics: Mapping[str, float],
    images_per_second: float,
  ) -> None:
    """Moves the bar on by `num_steps`."""
    self._bar.set_description_str(
      f'{self._name}: epoch {epoch} of {self._num_epochs}', refresh=False
    )
    self._bar.set_postfix_str(
      f'{describe(metrics)}, {images_per_second:,.0f} images/s', refresh=False
    )
    self._bar.update(num_steps)

  def epoch_done(
    self,
    epoch: int,
    metrics: Mapping[str, float],
    images_per_second: float,
    seconds_left: float,
  ) -> None:
    """Says how the epoch went, where there is no bar."""
    if self._bar.disable:
      logger.info(
        '%s: epoch %d of %d (%d %%): %s, %s images/s, %d s left',
        self._name,
        epoch,
        self._num_epochs,
        round(100 * epoch / self._num_epochs),
        describe(metrics),
        f'{images_per_second:,.0f}',
        round(seconds_left),
      )

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()


def describe(metrics: Mapping[str, float]) -> str:
  """Formats the loss and the accuracies among some metrics.

  Args:
    metrics: Numbers by name.

  Returns:
    One line.

  Example:
    >>> describe({'loss': 0.25, 'clean_accuracy': 0.5, 'kl': 1.0})
    'loss 0.2500, clean accuracy 0.500'
  """
  parts = [f'loss {metrics["loss"]:.4f}'] if 'loss' in metrics else []
  parts += [
    f'{name.replace("_", " ")} {value:.3f}'
    for name, value in metrics.items()
    if name.endswith('accuracy')
  ]
  return ', '.join(parts)
