"""Trains in forks of one process, and kills them with SIGKILL.

Reads a JSON list of [folder, moments]; starts a run in each folder once for
each moment, to kill it then, and once more; writes for each folder a list of
{code, said}, the code None for a run that was killed.

A moment is [fraction, seconds]: so long after metrics.jsonl has reached that
fraction of what it had in the first folder at the end. Or it is the name of a
kind of checkpoint, and the run is killed while it saves one. One import
serves all runs.
"""

import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import sklearn.datasets  # noqa: F401  What the embedded data takes longest for.

from tests.experiments.commands import run

ARGUMENTS = [
  '--config=configs/digits.py:standard',
  '--config.model.name=logistic_regression',
  '--config.num_epochs=12',
  '--config.log_every_steps=9',
  '--config.monitor.every_epochs=2',
  '--config.monitor.num_images=16',
  '--config.monitor.num_steps=1',
  '--config.evaluation.attacks=("fgsm",)',
  '--config.evaluation.epsilons=(0.1,)',
  '--platform=cpu',
  '--devices=1',
]
SECONDS_AT_MOST = 120.0


def start(workdir: pathlib.Path, stderr: int) -> int:
  """Starts a run in a fork; returns its process id."""
  child = os.fork()
  if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(stderr, 2)
    code = run('train', *ARGUMENTS, f'--workdir={workdir}')
    sys.stderr.flush()
    os._exit(code)
  return child


def wait_for(child: int, reached: Callable[[], bool]) -> int | None:
  """Waits until something is reached; the exit code if the run ends first."""
  limit = time.monotonic() + SECONDS_AT_MOST
  while time.monotonic() < limit:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status)
    if reached():
      return None
    time.sleep(0.0005)
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  raise TimeoutError(f'{SECONDS_AT_MOST} s have passed')


def wait_for_moment(
  child: int, workdir: pathlib.Path, moment: Any, num_bytes: int
) -> int | None:
  """Waits until a moment; the exit code if the run ends first."""
  if isinstance(moment, str):
    saving = workdir / 'checkpoints' / moment / '.saving'
    # Left behind by the run before it, if that was killed while saving.
    before = saving.stat().st_ctime_ns if saving.exists() else None

    def is_saving() -> bool:
      try:
        return saving.stat().st_ctime_ns != before
      except FileNotFoundError:
        return False

    return wait_for(child, is_saving)
  fraction, seconds = moment
  metrics, events = workdir / 'metrics.jsonl', workdir / 'events'
  num_before = len(list(events.glob('*')))
  # metrics.jsonl is cut to the checkpoint's length before this one is made.
  code = wait_for(child, lambda: len(list(events.glob('*'))) > num_before)
  if code is None:
    code = wait_for(
      child, lambda: metrics.stat().st_size >= fraction * num_bytes
    )
  time.sleep(seconds)
  return code


def run_once(workdir: pathlib.Path, moment: Any, num_bytes: int) -> dict:
  """Runs until a moment, or where it is None until the end."""
  with tempfile.TemporaryFile('w+') as stderr:
    child = start(workdir, stderr.fileno())
    if moment is None:
      code = wait_for(child, lambda: False)
    else:
      code = wait_for_moment(child, workdir, moment, num_bytes)
    if code is None:
      os.kill(child, signal.SIGKILL)
      os.waitpid(child, 0)
    stderr.seek(0)
    return {'code': code, 'said': stderr.read()}


def main() -> None:
  num_bytes, results = 0, []
  for folder, moments in json.load(sys.stdin):
    workdir = pathlib.Path(folder)
    starts = []
    for moment in [*moments, None]:
      starts.append(run_once(workdir, moment, num_bytes))
      if starts[-1]['code'] is not None:
        break
    num_bytes = num_bytes or (workdir / 'metrics.jsonl').stat().st_size
    results.append(starts)
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
