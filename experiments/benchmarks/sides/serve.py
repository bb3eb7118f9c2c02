"""What every library's side does: take jobs from the program that started it.

It needs NumPy and nothing of this project, for it runs in the venv of a
library to compare with.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Task = Callable[[dict[str, Any], Arrays], Arrays]


def timed(run: Callable[[], Any]) -> tuple[Any, np.ndarray]:
  """Returns what it returns, and the seconds that it takes."""
  start = time.perf_counter()
  found = run()
  return found, np.asarray(time.perf_counter() - start)


def serve(tasks: Mapping[str, Task], versions: str) -> None:
  """Does jobs until there are no more.

  Each line of stdin is a folder with job.json and arrays.npz; what the job's
  task returns goes to out.npz there, with the versions beside it, and a line
  `done` to stdout. What libraries print goes to stderr.
  """
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  for line in sys.stdin:
    folder = pathlib.Path(line.rstrip('\n'))
    job = json.loads((folder / 'job.json').read_text())
    with np.load(folder / 'arrays.npz') as file:
      arrays = dict(file)
    out = tasks[job['task']](job, arrays)
    np.savez(folder / 'out.npz', versions=np.asarray(versions), **out)
    print('done', file=answers, flush=True)
