"""Starts several processes of one command on this machine.

  python -m advjax.processes.launcher 2 python -m experiments.train --config=...

What `launch.sh --processes=N` runs. The processes find each other by
environment variables; a signal to the launcher goes to all of them, and they
end with it (`advjax.processes.orphan`).
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from advjax.processes.signals import stop_signals
from advjax.processes.topology import (
  COORDINATOR,
  JOINED,
  LAUNCHER,
  LOCAL_PROCESS,
  PROCESS,
)

# Where one that had joined the others fails, they end by themselves, most in
# seconds; those that do not are asked, then made to.
_GRACE_SECONDS = 20
_TERM_SECONDS = 10
_POLL_SECONDS = 0.1


def launch(
  num_processes: int,
  command: Sequence[str],
  *,
  grace_seconds: float = _GRACE_SECONDS,
  term_seconds: float = _TERM_SECONDS,
) -> int:
  """Runs a command in several processes, and waits for all of them.

  Args:
    num_processes: How many.
    command: Program and arguments.
    grace_seconds: How long the others may still run once one has failed, where
      they had joined. Else they run to their end: processes that run apart
      need nothing from each other.
    term_seconds: How long they may take to end after a SIGTERM.

  Returns:
    The exit code of the first that failed (128 + the number of the signal
    that killed it), or 0.

  Example:
    >>> launch(2, [sys.executable, '-c', 'raise SystemExit(3)'])
    3
  """
  come: list[int] = []
  previous = {
    signum: signal.signal(signum, lambda signum, frame: come.append(signum))
    for signum in stop_signals()
  }
  children: list[subprocess.Popen] = []
  folder = tempfile.TemporaryDirectory(prefix='advjax-')
  joined = pathlib.Path(folder.name) / 'joined'
  shared = {
    LAUNCHER: str(os.getpid()),
    COORDINATOR: f'127.0.0.1:{_free_port()}',
    JOINED: str(joined),
  }
  try:
    for index in range(num_processes):
      children.append(_start(command, index, num_processes, shared))
    return _wait(children, come, joined, grace_seconds, term_seconds)
  finally:
    for child in children:
      child.kill()
      child.wait()
    folder.cleanup()
    for signum, handler in previous.items():
      signal.signal(signum, handler)


def _free_port() -> int:
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    return listening.getsockname()[1]


def _start(
  command: Sequence[str],
  index: int,
  num_processes: int,
  shared: dict[str, str],
) -> subprocess.Popen:
  place = f'{index}/{num_processes}'
  return subprocess.Popen(
    command,
    env=os.environ | shared | {PROCESS: place, LOCAL_PROCESS: place},
    # Else Ctrl-C would reach them twice: from the terminal and from us.
    process_group=0,
  )


def _wait(
  children: Sequence[subprocess.Popen],
  come: list[int],
  joined: pathlib.Path,
  grace_seconds: float,
  term_seconds: float,
) -> int:
  """Returns the exit code; the others get their time once one has failed."""
  code, failed_at, forwarded, asked = 0, 0.0, False, False
  while any(child.poll() is None for child in children):
    time.sleep(_POLL_SECONDS)
    while come:
      forwarded = True
      _signal_all(children, come.pop(0))
    code = code or _first_failure(children, quiet=forwarded)
    if not (code and joined.exists()):
      continue
    failed_at = failed_at or time.monotonic()
    late = time.monotonic() - failed_at
    if late > grace_seconds + term_seconds:
      _signal_all(children, signal.SIGKILL)
    elif late > grace_seconds and not asked:
      asked = True
      _signal_all(children, signal.SIGTERM)
  return code or _first_failure(children, quiet=forwarded)


def _signal_all(children: Sequence[subprocess.Popen], signum: int) -> None:
  for child in children:
    child.send_signal(signum)  # Does nothing to one that has ended.


def _first_failure(children: Sequence[subprocess.Popen], *, quiet: bool) -> int:
  """Returns the code of a child that has failed, and says what killed it.

  A child with an exit code of its own has said why it ends.
  """
  for index, child in enumerate(children):
    code = child.poll()
    if code is not None and code < 0:
      if not quiet:
        # So JAX ends a process that has lost another.
        lost = (
          ' (has crashed or lost another)' if code == -signal.SIGABRT else ''
        )
        sys.stderr.write(
          f'launch.sh: process {index} of {len(children)} was killed by '
          f'{signal.Signals(-code).name}{lost}; the others of its run end '
          'too. Run the same command again: it resumes from the last whole '
          'checkpoint\n'
        )
      return 128 - code
    if code:
      return code
  return 0


if __name__ == '__main__':
  sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
