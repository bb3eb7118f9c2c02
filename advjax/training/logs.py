"""The logs of a run: metrics.jsonl, TensorBoard events and its progress."""

import json
import logging
import os
import pathlib
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm

from advjax.processes.collectives import is_main

logger = logging.getLogger(__name__)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the records of a metrics.jsonl; none if it does not exist."""
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def _warn_of_lost_records(
  path: pathlib.Path, num_bytes: int, step: int
) -> None:
  """Warns of steps that were logged after the last checkpoint."""
  if not path.exists():
    return
  with path.open('rb') as file:
    file.seek(num_bytes)
    steps = re.findall(rb'"step": (\d+).*\n', file.read())
  if steps:
    logger.warning(
      '%s: the run was killed after its last checkpoint, of step %d: steps '
      'up to at least %d are repeated',
      path.parent,
      step,
      int(steps[-1]),
    )


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
    _warn_of_lost_records(self.path, num_bytes, step)
    # Without a buffer, which would be written again on closing.
    self._file = self.path.open('ab', buffering=0)
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

    try:
      self._write_line(json.dumps(record).encode() + b'\n')
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

  def _write_line(self, line: bytes) -> None:
    start = self.num_bytes
    try:
      # A full disk accepts a part of the line first.
      written = 0
      while written < len(line):
        written += self._file.write(line[written:])
    except OSError:
      self._file.truncate(start)
      self._file.seek(start)
      raise

  def close(self) -> None:
    """Closes both."""
    self._file.close()
    try:
      self._events.close()
    except OSError:
      # Closing writes its buffer again; the error has been raised before.
      if not self._failed:
        raise


class NoLog:
  """A `MetricsLog` that writes nothing: in processes other than 0."""

  num_bytes = 0

  def write(self, record: Mapping[str, Any]) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


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
    self,
    epoch: int,
    num_steps: int,
    metrics: Mapping[str, float],
    images_per_second: float,
  ) -> None:
    """Advances the bar by `num_steps`."""
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
    """Logs the epoch's metrics where there is no bar."""
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
  """Formats the loss and the accuracies among some metrics."""
  parts = [f'loss {metrics["loss"]:.4f}'] if 'loss' in metrics else []
  parts += [
    f'{name.replace("_", " ")} {value:.3f}'
    for name, value in metrics.items()
    if name.endswith('accuracy')
  ]
  return ', '.join(parts)
