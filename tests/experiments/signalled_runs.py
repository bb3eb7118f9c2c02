"""Starts programs in forks of one process, and sends each of them a signal.

Reads a JSON list of {command, signal, wait_for, log, folder}: a fork runs the
command, [experiment, argument, ...], with its stderr in the log, and is sent
the signal once the log matches `wait_for`. Writes a list of {code, files}: what
is in the folder then. One import serves them all.
"""

import json
import os
import pathlib
import re
import signal
import sys
import time

from tests.experiments.commands import start


def ended(child: int, seconds: float) -> int | None:
  """Returns the exit code of a child, or None while it runs."""
  end = time.monotonic() + seconds
  while True:
    found, status = os.waitpid(child, os.WNOHANG)
    if found:
      return os.waitstatus_to_exitcode(status)
    if time.monotonic() > end:
      return None
    time.sleep(0.05)


def signalled(job: dict) -> int | None:
  """Runs a job to its end; None if the signal has not stopped it."""
  log = pathlib.Path(job['log'])
  with log.open('w') as stderr:
    child = start(job['command'], stderr.fileno())
  while not re.search(job['wait_for'], log.read_text()):
    code = ended(child, 0.05)
    if code is not None:
      return code
  os.kill(child, job['signal'])
  # 10 s are promised; this machine may have other things to do as well.
  code = ended(child, 30)
  if code is None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
  return code


def main() -> None:
  results = []
  for job in json.load(sys.stdin):
    code, folder = signalled(job), pathlib.Path(job['folder'])
    files = [path.name for path in folder.glob('*')]
    results.append({'code': code, 'files': files})
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
