"""The lock of a run's folder, in which one program at a time may train."""

import contextlib
import logging
import os
import pathlib
import socket
import sys
from collections.abc import Iterator, Sequence

from advjax.processes.collectives import from_main

if sys.platform != 'win32':
  import fcntl

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def lock_folders(folders: Sequence[pathlib.Path]) -> Iterator[None]:
  """Keeps other programs from training in some folders.

  Process 0 holds the locks. They end with it, however it ends; the files
  `.lock` stay, and mean nothing by themselves. A file system without locks
  has none, which a warning says, and neither has Windows.

  Args:
    folders: Folders that exist, each named once.

  Raises:
    ValueError: if another program holds one of them, which the message names;
      nothing is changed then.
    OSError: if a lock's file cannot be written.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with lock_folders([pathlib.Path(folder)]):
    ...     os.listdir(folder)
    ['.lock']
  """
  with contextlib.ExitStack() as stack:

    def take() -> None:
      for folder in folders:
        stack.enter_context(_lock(folder))

    from_main(take)
    yield


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
  if sys.platform == 'win32':
    yield
    return
  path = folder / '.lock'
  # Never removed: a program that had opened it before would hold the lock of a
  # file that the next one does not find.
  with path.open('a+b', buffering=0) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      holder = file.read().decode().strip() or 'just started'
      raise ValueError(
        f"another program is training in '{folder}' ({holder}): wait for it, "
        'stop it, or give another workdir'
      ) from None
    except OSError as error:  # Not every network file system has locks.
      logger.warning(
        "'%s' cannot be locked (%s): let no other program train there",
        folder,
        error.strerror,
      )
    try:
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
    except OSError as error:
      raise OSError(error.errno, error.strerror, str(path)) from error
    yield
