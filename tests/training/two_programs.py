"""Trains twice in one folder at the same time; a program, for it forks.

Writes {first, second, changed}: the process id of a run that stands still in
training; {code, said} of another in the same folder; and the files that this
one changed.
"""

import json
import os
import pathlib
import signal
import sys
import tempfile
from typing import Any

from advjax.training import loop
from tests.training.killed_runs import run_once, start


def read(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def stand_still_in_training() -> None:
  """Makes this process stop where it has saved its first checkpoint."""
  save = loop.save_checkpoint

  def saved(*arguments: Any, **options: Any) -> None:
    save(*arguments, **options)
    os.kill(os.getpid(), signal.SIGSTOP)

  loop.save_checkpoint = saved


def main() -> None:
  workdir = pathlib.Path(sys.argv[1])
  with tempfile.TemporaryFile('w+') as stderr:
    first = start(workdir, stderr.fileno(), stand_still_in_training)
    try:
      _, status = os.waitpid(first, os.WUNTRACED)
      assert os.WIFSTOPPED(status), status
      before = read(workdir)
      second = run_once(workdir, None, 0)
      after = read(workdir)
    finally:
      os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
  changed = [
    name for name in {*before, *after} if before.get(name) != after.get(name)
  ]
  found = {'first': first, 'second': second, 'changed': changed}
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main()
