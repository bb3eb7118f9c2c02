"""A save that ends at any step of the file system leaves whole checkpoints."""

import errno
import json
import os
import threading

import numpy as np
import pytest

from advjax.training import checkpoint, checkpoint_files
from advjax.training.checkpoint import restore_checkpoint, save_checkpoint
from advjax.training.step import TrainState

CALLS = ('mkdir', 'replace', 'unlink', 'rmdir', 'fsync', 'posix_fallocate')


class Killed(BaseException):
  """Stands for SIGKILL: no `except` in the code may catch it."""


@pytest.fixture
def kill(monkeypatch):
  """Lets the k-th change of the file system be the last; the real functions.

  Returns:
    `arm(k, error)`, which returns the list of calls made since.
  """
  state = {'left': -1, 'error': Killed(), 'calls': []}

  def counted(name, function):
    def call(*args, **kwargs):
      # Orbax's own threads are no place to raise in.
      if threading.current_thread() is threading.main_thread():
        if state['left'] == 0:
          # A killed process does nothing more, one without space does.
          state['left'] -= isinstance(state['error'], OSError)
          raise state['error']
        state['left'] -= 1
        state['calls'].append(name)
      return function(*args, **kwargs)

    return call

  # Its wait for the disk is counted, but not waited for.
  monkeypatch.setattr(os, 'fsync', lambda descriptor: None)
  for name in CALLS:
    monkeypatch.setattr(os, name, counted(name, getattr(os, name)))

  def arm(count, error=None):
    state.update(left=count, error=error or Killed(), calls=[])
    return state['calls']

  return arm


@pytest.fixture
def plain_files(monkeypatch):
  """Checkpoints of one JSON file in place of Orbax's: a save takes no time."""

  def write(folder, state, record):
    del state
    for name in ('a', 'b'):
      (folder / name).mkdir()
      (folder / name / 'file').write_text(json.dumps(record))
      checkpoint_files.sync(folder / name / 'file')
    digests = checkpoint_files._file_digests(folder)
    checkpoint_files.write_json(folder / 'digests.json', digests)

  def read(folder, target):
    del target
    record = json.loads((folder / 'b' / 'file').read_text())
    return checkpoint_files.Checkpoint(int(folder.name), record)

  monkeypatch.setattr(checkpoint, 'write_files', write)
  monkeypatch.setattr(checkpoint, 'read_files', read)


def make_state(step):
  return TrainState(np.int32(step), {'w': np.full(3, step)}, {}, (), None)


def save(path, step, version, keep):
  save_checkpoint(path, make_state(step), {'version': version}, keep)


def found(path):
  """The version of the checkpoint restored, 0 for none."""
  restored = restore_checkpoint(path)
  return restored.record['version'] if restored else 0


def names(path):
  return sorted(entry.name for entry in path.iterdir())


# Steps that are there, the step saved, how many are kept, and what is there
# afterwards.
SAVES = {
  'first': ([], 9, 2, ['9']),
  'next': ([3, 7], 9, 2, ['7', '9']),
  'only one kept': ([7], 9, 1, ['9']),
  'same step again': ([3, 7], 7, 2, ['3', '7']),
  'same step, one kept': ([7], 7, 1, ['7']),
}


def test_killed_in_a_save_by_orbax(tmp_path, kill, caplog):
  _kill_everywhere(tmp_path, kill, *SAVES['same step, one kept'], stride=4)
  assert not [r for r in caplog.records if r.name.startswith('advjax')]


@pytest.mark.parametrize('before, step, keep, after', SAVES.values(), ids=SAVES)
@pytest.mark.usefixtures('plain_files')
def test_killed_at_every_step_of_a_save(
  tmp_path, kill, caplog, before, step, keep, after
):
  _kill_everywhere(tmp_path, kill, before, step, keep, after)
  assert not [r for r in caplog.records if r.name.startswith('advjax')]


def _kill_everywhere(tmp_path, kill, before, step, keep, after, stride=1):
  """Each kill is followed by the next start's save."""
  count, done = 0, False
  while not done:
    path = tmp_path / str(count)
    for earlier in before:
      save(path, earlier, earlier, keep=2)
    old = max(before, default=0)
    calls = kill(count)
    try:
      save(path, step, 100, keep)
      done = True
    except Killed:
      pass
    kill(-1)
    assert found(path) in ([100] if done else [old, 100])
    save(path, step, 101, keep)
    assert found(path) == 101
    assert names(path) == after
    count += stride
  assert len(calls) > 9
  assert {'mkdir', 'replace', 'fsync', 'rmdir'} <= set(calls)


@pytest.mark.usefixtures('plain_files')
def test_killed_twice(tmp_path, kill):
  """The second kill comes while the next start saves, and tidies up."""
  before, step, keep, _ = SAVES['same step, one kept']
  first, ended = 0, False
  while not ended:
    second, second_ended = 0, False
    while not second_ended:
      path = tmp_path / f'{first}-{second}'
      for earlier in before:
        save(path, earlier, earlier, keep=2)
      kill(first)
      try:
        save(path, step, 100, keep)
        ended = True
      except Killed:
        pass
      kill(-1)
      have = found(path)
      kill(second)
      try:
        save(path, step, 101, keep)
        second_ended = True
      except Killed:
        pass
      kill(-1)
      assert found(path) in (have, 101)
      save(path, step + 10, 102, keep=1)
      assert found(path) == 102
      assert names(path) == [str(step + 10)]
      second += 1
    first += 1
  assert first > 10


@pytest.mark.usefixtures('plain_files')
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_and_no_half_files(tmp_path, kill, code):
  path = tmp_path / 'last'
  for step in (3, 7):
    save(path, step, step, keep=2)
  count = 0
  while found(path) == 7:
    kill(count, OSError(code, os.strerror(code), 'some file'))
    with pytest.raises(OSError) as error:
      save(path, 9, 100, keep=2)
    kill(-1)
    assert error.value.errno == code
    # Once it is whole, it stays.
    if found(path) == 7:
      assert str(path) in str(error.value)
      assert names(path) == ['3', '7']
    count += 1
  assert count > 5
  save(path, 9, 101, keep=2)
  assert found(path) == 101


def test_what_is_too_large_for_a_file_is_refused_before_orbax(
  tmp_path, capfd, monkeypatch
):
  """Whose threads print tracebacks; a quota or a full disk shows likewise."""
  resource = pytest.importorskip('resource')
  save(tmp_path, 3, 3, keep=2)
  large = make_state(9)._replace(params={'w': np.zeros(10**6)})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
  try:
    with pytest.raises(OSError) as error:
      save_checkpoint(tmp_path, large, {}, keep=2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert error.value.errno == errno.EFBIG
  assert names(tmp_path) == ['3']
  assert found(tmp_path) == 3
  assert capfd.readouterr().err == ''
