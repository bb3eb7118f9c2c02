"""Locks of folders: two programs do not write to the same one."""

import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys

import filelock
import jax
import pytest

from advjax import compile_cache
from advjax.files import expand, lock_folder, user_cache_folder

ROOT = pathlib.Path(__file__).parents[1]
HOLD = """
import pathlib, sys
from advjax.files import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def no_home(monkeypatch):
  """A container's: no variable, and no entry of the user."""
  for name in ('HOME', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr('pwd.getpwuid', {}.__getitem__)


def test_without_a_home_there_is_no_cache(
  no_home, monkeypatch, tmp_path, caplog
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r'~/.cache: .* home .*XDG_CACHE_HOME'):
    user_cache_folder()
  with pytest.raises(ValueError, match=r'~/x: .* home'):
    expand('~/x')
  folder = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  try:
    compile_cache.turn_on()
    assert jax.config.jax_compilation_cache_dir is None
  finally:
    jax.config.update('jax_compilation_cache_dir', folder)
  (line,) = caplog.messages
  assert line.startswith('compiled programs are not cached: ~/.cache')
  assert expand('x/~') == pathlib.Path('x/~')
  assert not any(tmp_path.iterdir())


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
