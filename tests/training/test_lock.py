"""Two programs do not train in the same folder."""

import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from advjax.training import lock
from advjax.training.lock import lock_folders
from advjax.training.loop import train
from advjax.training.vmapped import train_many
from tests.training import runs

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs flock')

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], 'w')
fcntl.flock(file, fcntl.LOCK_EX)
print(f'process {os.getpid()} on elsewhere', file=file, flush=True)
print('held', flush=True)
sys.stdin.read()
"""


def files(folder):
  """What a folder holds, and when each file was written."""
  return {
    str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture
def hold():
  """Locks a folder in another process, which is returned."""
  holders = []

  def start(folder):
    holder = subprocess.Popen(
      [sys.executable, '-c', HOLD, str(folder / '.lock')],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )
    holders.append(holder)
    assert holder.stdout.readline() == b'held\n'
    return holder

  yield start
  for holder in holders:
    holder.kill()
    holder.communicate()


@pytest.fixture(scope='module')
def training():
  return runs.run(num_epochs=1)


def test_a_folder_in_use_is_refused_until_its_holder_is_killed(
  training, hold, tmp_path
):
  holder = hold(tmp_path)
  before = files(tmp_path)
  with pytest.raises(ValueError, match='another program is training') as found:
    train(training, tmp_path)
  assert str(found.value) == (
    f"another program is training in '{tmp_path}' (process {holder.pid} on "
    'elsewhere): wait for it, stop it, or give another workdir'
  )
  assert files(tmp_path) == before
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  result = train(training, tmp_path)
  assert result.records[-1]['step'] == runs.STEPS_PER_EPOCH
  own = f'process {os.getpid()} on {socket.gethostname()}\n'
  assert (tmp_path / '.lock').read_text() == own


def test_runs_at_once_need_all_of_their_folders(training, hold, tmp_path):
  folders = [tmp_path / 'a', tmp_path / 'b']
  for folder in folders:
    folder.mkdir()
  hold(folders[1])
  with pytest.raises(ValueError, match=r"training in '.*b' \(process"):
    train_many([training, training], folders, names=['a', 'b'])
  assert sorted(files(tmp_path)) == ['a/.lock', 'b/.lock']
  with lock_folders(folders[:1]):  # Which is free again.
    pass


def test_a_lock_is_held_until_the_end(tmp_path):
  with lock_folders([tmp_path]):
    with pytest.raises(ValueError, match='another'), lock_folders([tmp_path]):
      pass
    with pytest.raises(ValueError, match='another'), lock_folders([tmp_path]):
      pass
  with pytest.raises(KeyError), lock_folders([tmp_path]):
    raise KeyError
  with lock_folders([tmp_path]):
    pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
  def flock(file, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  with lock_folders([tmp_path]):
    pass
  (record,) = caplog.records
  assert record.message == (
    f"'{tmp_path}' cannot be locked (No locks available): let no other program "
    'train there'
  )


def test_of_two_programs_the_second_ends_at_once(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.training.two_programs', str(tmp_path)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    timeout=200,
  )
  found = json.loads(done.stdout)
  assert found['second']['code'] == 2
  assert found['second']['said'].splitlines()[-1] == (
    f"error: another program is training in '{tmp_path}' (process "
    f'{found["first"]} on {socket.gethostname()}): wait for it, stop it, or '
    'give another workdir'
  )
  assert found['changed'] == []
