"""Starts several processes of one command on this machine.

  python -m advjax.processes.launcher 2 python -m advjax train --config=...

What `--processes=N` runs. The processes find each other by
environment variables; a signal to the launcher goes to all of them, and they
end with it.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from advjax.processes.distributed import EXIT_LOST
from advjax.processes.signals import stop_signals
from advjax.processes.topology import (
  COORDINATOR,
  LAUNCHER,
  LOCAL_PROCESS,
  PROCESS,
)

# For the others of a process that was lost, which end by themselves unless they
# are frozen.
_GRACE_SECONDS = 30
_POLL_SECONDS = 0.1


def launch(
  num_processes: int,
  command: Sequence[str],
  *,
  grace_seconds: float = _GRACE_SECONDS,
) -> int:
  """Runs a command in several processes; returns the first nonzero exit code.

  Where one fails, the others run to their end; those that have lost it end with
  code 75, and `grace_seconds` after that all are killed.
  """
  received: list[int] = []
  previous = {
    signum: signal.signal(signum, lambda signum, frame: received.append(signum))
    for signum in stop_signals()
  }
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    port = listening.getsockname()[1]
  shared = {LAUNCHER: str(os.getpid()), COORDINATOR: f'127.0.0.1:{port}'}
  children: list[subprocess.Popen] = []
  try:
    for index in range(num_processes):
      rank = f'{index}/{num_processes}'
      children.append(
        subprocess.Popen(
          command,
          env=os.environ | shared | {PROCESS: rank, LOCAL_PROCESS: rank},
          # Else Ctrl-C would reach them twice: from the terminal and from us.
          process_group=0,
        )
      )
    return _wait(children, received, grace_seconds)
  finally:
    for child in children:
      child.kill()
      child.wait()
    for signum, handler in previous.items():
      signal.signal(signum, handler)


def _wait(
  children: Sequence[subprocess.Popen],
  received: list[int],
  grace_seconds: float,
) -> int:
  """Waits for all, forwards signals, and returns the exit code."""
  failed, stopped, deadline = None, False, math.inf
  while True:
    codes = [child.poll() for child in children]
    # One that lost another may be seen first; what we killed does not count.
    if failed is None or (failed[0] and time.monotonic() <= deadline):
      failed = min(
        (
          (code == EXIT_LOST, index, code)
          for index, code in enumerate(codes)
          if code
        ),
        default=None,
      )
    if None not in codes:
      break
    if EXIT_LOST in codes:
      deadline = min(deadline, time.monotonic() + grace_seconds)
    signals = [received.pop(0) for _ in received[:]]
    stopped = stopped or bool(signals)
    if time.monotonic() > deadline:
      signals.append(signal.SIGKILL)
    for signum in signals:
      for child in children:
        child.send_signal(signum)  # Does nothing to one that has ended.
    time.sleep(_POLL_SECONDS)
  _, index, code = failed or (False, 0, 0)
  if code >= 0:
    return code
  if not stopped:  # Others say themselves why they end.
    sys.stderr.write(
      f'error: process {index} of {len(children)} was killed by '
      f'{signal.Signals(-code).name}. Run the same command again: it resumes '
      'from the last full checkpoint\n'
    )
  return 128 - code


if __name__ == '__main__':
  sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
