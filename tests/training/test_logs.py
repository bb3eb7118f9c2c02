"""metrics.jsonl, TensorBoard events and progress."""

import contextlib
import errno
import logging
import os

import pytest
from tensorboardX.proto import event_pb2

from advjax.training.loop import MetricsLog, Progress, read_metrics


def write(workdir, num_bytes, step, records):
  with contextlib.closing(MetricsLog(workdir, num_bytes, step)) as log:
    for record in records:
      log.write(record)
    return log.num_bytes


def record(step, loss=0.5):
  return {'kind': 'epoch', 'step': step, 'epoch': 1, 'loss': loss}


def test_records_after_the_checkpoint_are_written_again(tmp_path):
  kept = write(tmp_path, 0, 0, [record(1)])
  write(tmp_path, kept, 1, [record(2)])
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes() + b'{"half a li')
  write(tmp_path, kept, 1, [record(2, loss=0.25), record(3)])
  assert read_metrics(path) == [record(1), record(2, loss=0.25), record(3)]


def events(workdir):
  """The events of each file, oldest first."""
  found = []
  for path in sorted((workdir / 'events').iterdir(), reverse=True):
    data, offset, one = path.read_bytes(), 0, []
    while offset < len(data):
      length = int.from_bytes(data[offset : offset + 8], 'little')
      event = event_pb2.Event()
      event.ParseFromString(data[offset + 12 : offset + 12 + length])
      one.append(event)
      offset += 12 + length + 4
    found.append(one)
  return found


def test_tensorboard_gets_the_numbers(tmp_path):
  write(tmp_path, 0, 0, [{**record(7), 'losses': [1.0], 'name': 'x'}])
  (run,) = events(tmp_path)
  scalars = {
    value.tag: (event.step, value.simple_value)
    for event in run
    for value in event.summary.value
  }
  assert scalars == {'epoch/loss': (7, 0.5)}


def test_tensorboard_keeps_events_up_to_the_checkpoint(tmp_path):
  """It hides the steps from the session start's on, that one included."""
  write(tmp_path, 0, 0, [record(5)])
  (first,) = (tmp_path / 'events').iterdir()
  first.rename(first.with_name('first'))  # Their names are the seconds.
  write(tmp_path, 10, 5, [record(10)])
  starts = [
    event.step
    for run in events(tmp_path)
    for event in run
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  assert starts == [1, 6]


def test_without_a_terminal_there_is_a_line_per_epoch(caplog):
  with (
    caplog.at_level(logging.INFO),
    contextlib.closing(Progress('base', 90, 2, 0)) as progress,
  ):
    progress.update(1, 45, {'loss': 1.0}, 1000.0)
    progress.epoch_done(1, {'loss': 0.25, 'clean_accuracy': 0.5}, 12345.6, 61.4)
  (line,) = caplog.messages
  assert line == (
    'base: epoch 1 of 2 (50 %): loss 0.2500, clean accuracy 0.500, 12,346 '
    'images/s, 61 s left'
  )


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys, caplog):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
  with contextlib.closing(Progress('base', 90, 2, 45)) as progress:
    progress.update(2, 45, {'loss': 1.0, 'clean_accuracy': 0.5}, 1234.5)
    progress.epoch_done(2, {'loss': 0.25}, 1234.5, 0.0)
  text = capsys.readouterr().err
  assert 'base: epoch 2 of 2' in text
  assert '100 %' in text
  assert 'loss 1.0000, clean accuracy 0.500, 1,234 images/s' in text
  assert 'left' in text
  assert caplog.messages == []


class Cramped:
  """A file on a disk that has space for some bytes more."""

  def __init__(self, file, space):
    self._file, self._space = file, space

  def write(self, data):
    if not self._space:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    written = self._file.write(data[: self._space])
    self._space -= written
    return written

  def __getattr__(self, name):
    return getattr(self._file, name)


@pytest.mark.parametrize('space', [0, 30])
def test_no_part_of_a_record_stays_where_the_disk_is_full(tmp_path, space):
  with contextlib.closing(MetricsLog(tmp_path, 0, 0)) as log:
    log.write(record(1))
    before = log.num_bytes
    log._file = Cramped(log._file, space)
    with pytest.raises(OSError) as error:
      log.write(record(2))
    assert log.num_bytes == before
  path = tmp_path / 'metrics.jsonl'
  assert error.value.errno == errno.ENOSPC
  assert error.value.filename == str(path)
  assert read_metrics(path) == [record(1)]
