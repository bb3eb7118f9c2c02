"""A disk that is full, and a run that was killed: what is said and kept."""

import contextlib
import errno
import logging
import os

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter

from advjax.files import replacing, write_json
from advjax.training import checkpoint_files, loop
from advjax.training.logs import MetricsLog, read_metrics
from advjax.training.loop import train
from tests.training import runs
from tests.training.runs import STEPS_PER_EPOCH, assert_same

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope='module')
def training():
  return runs.training()


@pytest.fixture(scope='module')
def whole(training, tmp_path_factory):
  """An uninterrupted run."""
  return train(training, tmp_path_factory.mktemp('whole'))


def fails_at(function, number, error):
  """The function, that raises an error when it is called the n-th time."""
  calls = []

  def call(*args, **kwargs):
    calls.append(args)
    if len(calls) == number:
      raise error
    return function(*args, **kwargs)

  return call


# The saves are: best and last of step 6, perhaps best, and last of step 12.
@pytest.mark.parametrize(
  'number, stays', [(1, 'there is no'), (2, 'there is no'), (4, 'stays in')]
)
def test_a_full_disk_while_saving_ends_the_run_and_loses_nothing(
  training, whole, tmp_path, monkeypatch, number, stays
):
  with monkeypatch.context() as patch:
    check = fails_at(checkpoint_files._check_space, number, FULL)
    patch.setattr(checkpoint_files, '_check_space', check)
    with pytest.raises(OSError) as error:
      train(training, tmp_path)
  message = str(error.value)
  assert error.value.errno == errno.ENOSPC
  assert 'No space left on device' in message
  assert str(tmp_path / 'checkpoints') in message
  assert stays in message
  assert [path.name for path in tmp_path.rglob('.*')] == ['.lock']
  # With space again, the same call goes on.
  assert_same(train(training, tmp_path).params, whole.params)


@pytest.mark.parametrize('number', [1, 4])
def test_a_full_disk_while_logging_ends_the_run_and_loses_nothing(
  training, whole, tmp_path, monkeypatch, number
):
  with monkeypatch.context() as patch:
    write = fails_at(EventsWriter.write_event, number, FULL)
    patch.setattr(EventsWriter, 'write_event', write)
    with pytest.raises(OSError, match='No space left'):
      train(training, tmp_path)
  assert_same(train(training, tmp_path).params, whole.params)


def record(step, loss=0.5):
  return {'kind': 'epoch', 'step': step, 'epoch': 1, 'loss': loss}


class Cramped:
  """A file on a disk that has room for some bytes more."""

  def __init__(self, file, room):
    self._file, self._room = file, room

  def write(self, data):
    if not self._room:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    written = self._file.write(data[: self._room])
    self._room -= written
    return written

  def __getattr__(self, name):
    return getattr(self._file, name)


@pytest.mark.parametrize('room', [0, 1, 30])
def test_no_part_of_a_record_stays_where_the_disk_is_full(tmp_path, room):
  with contextlib.closing(MetricsLog(tmp_path, 0, 0)) as log:
    log.write(record(1))
    before = log.num_bytes
    log._file = Cramped(log._file, room)
    with pytest.raises(OSError) as error:
      log.write(record(2))
    assert log.num_bytes == before
  path = tmp_path / 'metrics.jsonl'
  assert error.value.errno == errno.ENOSPC
  assert error.value.filename == str(path)
  assert read_metrics(path) == [record(1)]


def test_a_log_that_failed_closes_without_another_error(tmp_path, monkeypatch):
  """Its buffer still cannot be written then."""

  def fail(self):
    raise FULL

  log = MetricsLog(tmp_path, 0, 0)
  with monkeypatch.context() as patch:
    patch.setattr(EventsWriter, 'flush', fail)
    with pytest.raises(OSError, match=r'metrics\.jsonl'):
      log.write(record(1))
    log.close()
  log = MetricsLog(tmp_path, 0, 0)
  with monkeypatch.context() as patch:
    patch.setattr(EventsWriter, 'flush', fail)
    with pytest.raises(OSError, match='No space'):
      log.close()


@pytest.mark.parametrize('call', ['replace', 'fdopen'])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, call):
  path = tmp_path / 'a.json'
  write_json(path, {'old': 1})
  old = path.read_bytes()
  with monkeypatch.context() as patch:
    patch.setattr(os, call, fails_at(getattr(os, call), 1, FULL))
    with pytest.raises(OSError) as error:
      write_json(path, {'new': 2})
  assert error.value.filename == str(path)
  assert path.read_bytes() == old
  assert os.listdir(tmp_path) == ['a.json']


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'old')
  with pytest.raises(KeyError), replacing(path) as file:
    file.write(b'new')
    raise KeyError
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['a']
  with replacing(path) as file:
    np.savez_compressed(file, a=np.arange(3))
  assert np.load(path)['a'].tolist() == [0, 1, 2]
  assert path.stat().st_mode & 0o777 == 0o644


# --------------------------------------------------------------- what was lost


def test_a_killed_run_says_what_it_lost(
  training, tmp_path, monkeypatch, caplog
):
  """But one that ended as it should says nothing."""
  monkeypatch.setattr(loop, '_CHUNK_SECONDS', 0.0)

  def train_steps(state, data, hparams, count):
    if int(state.step) == STEPS_PER_EPOCH + 4:
      raise SystemExit
    return training.train_steps(state, data, hparams, count)

  logged = training._replace(config=runs.config(log_every_steps=1))
  with pytest.raises(SystemExit):
    train(logged._replace(train_steps=train_steps), tmp_path)
  with (tmp_path / 'metrics.jsonl').open('ab') as file:
    file.write(b'{"kind": "steps", "step": 11, "epo')
  assert 'the last run' not in caplog.text
  with caplog.at_level(logging.INFO):
    train(logged, tmp_path)
  (line,) = [text for text in caplog.messages if 'the last run' in text]
  assert line == (
    f'{tmp_path}: the last run ended without saving its end: what it did '
    'after step 6, up to step 10 at least, is done again'
  )
  assert 'going on from step 6' in caplog.text
  steps = [r['step'] for r in read_metrics(tmp_path / 'metrics.jsonl')]
  assert sorted(set(steps)) == list(range(1, 3 * STEPS_PER_EPOCH + 1))
