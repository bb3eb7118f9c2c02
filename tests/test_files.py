"""Locks of folders: two programs do not write to the same one."""

import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys

import filelock
import pytest

from advjax.files import lock_folder

ROOT = pathlib.Path(__file__).parents[1]
HOLD = """
import pathlib, sys
from advjax.files import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_its_holder_is_killed(tmp_path):
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  try:
    assert holder.stdout.readline() == b'held\n'
    with pytest.raises(ValueError) as error, lock_folder(tmp_path):
      pass
    assert str(error.value) == (
      f"another program writes to '{tmp_path}' (process {holder.pid} on "
      f'{socket.gethostname()}): wait for it, stop it, or give another workdir'
    )
  finally:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
  with lock_folder(tmp_path):
    assert f'process {os.getpid()} on' in (tmp_path / '.lock').read_text()


def test_a_lock_is_held_until_the_end(tmp_path):
  with lock_folder(tmp_path):
    for _ in range(2):
      with pytest.raises(ValueError, match='another'), lock_folder(tmp_path):
        pass
  with pytest.raises(KeyError), lock_folder(tmp_path):
    raise KeyError
  with lock_folder(tmp_path):
    pass


def fails(code):
  def acquire(lock, *args, **kwargs):
    raise OSError(code, os.strerror(code), lock.lock_file)

  return acquire


def test_a_file_system_without_locks_is_a_warning(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(filelock.FileLock, 'acquire', fails(errno.ENOLCK))
  with lock_folder(tmp_path):
    pass
  (message,) = caplog.messages
  assert message == (
    f"'{tmp_path}' cannot be locked (No locks available): do not start "
    'another program there'
  )


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(filelock.FileLock, 'acquire', fails(errno.ENOSPC))
  with pytest.raises(OSError, match='No space left'), lock_folder(tmp_path):
    pass
