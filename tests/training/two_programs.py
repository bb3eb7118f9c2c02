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

from tests.training.killed_runs import run_once, start, wait_for


def read(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def main() -> None:
  workdir = pathlib.Path(sys.argv[1])
  with tempfile.TemporaryFile('w+') as stderr:
    first = start(workdir, stderr.fileno())
    try:
      saved = workdir / 'checkpoints' / 'last'
      code = wait_for(first, lambda: any(saved.glob('[0-9]*')))
      assert code is None
      os.kill(first, signal.SIGSTOP)
      os.waitpid(first, os.WUNTRACED)
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
