"""Trains in forks of one process, which send themselves a signal.

Reads a JSON list of [folder, moments]; starts a run in each folder once for
each moment, to be signalled then, and once more; writes for each folder a list
of {code, said}, the code None for a run that was killed.

A moment is [fraction, seconds, signal]: so long after metrics.jsonl has reached
that fraction of its final length in the first folder. Or it is the name of a
kind of checkpoint, and the run is killed while it saves one. A run signals
itself, since a watcher on a busy machine would come too late. One import serves
all runs.
"""

import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
from typing import Any

from advjax.reporting.figures import run as figures
from advjax.training import loop
from tests.experiments.commands import start

ARGUMENTS = [
  '--config=configs/digits.py:standard',
  '--config.model.name=logistic_regression',
  '--config.num_epochs=6',
  '--config.log_every_steps=9',
  '--config.monitor.every_epochs=2',
  '--config.monitor.num_images=16',
  '--config.monitor.num_steps=1',
  '--config.evaluation.attacks=("fgsm",)',
  '--config.evaluation.epsilons=(0.1,)',
  '--platform=cpu',
  '--devices=1',
]
# Into a save, which takes some tens of milliseconds.
SAVING_SECONDS = 0.01
# Exit codes of runs that go on in the next one.
SIGNALLED = (None, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def kill_oneself(signum: int = signal.SIGKILL) -> None:
  os.kill(os.getpid(), signum)


def kill_while_saving(kind: str) -> None:
  """Makes this process die in its next save of a kind of checkpoint."""
  save = loop.save_checkpoint

  def saved(folder: pathlib.Path, *arguments: Any, **options: Any) -> None:
    if folder.name == kind:
      threading.Timer(SAVING_SECONDS, kill_oneself).start()
    save(folder, *arguments, **options)
    if folder.name == kind:
      kill_oneself()

  loop.save_checkpoint = saved


def kill_after(num_bytes: float, seconds: float, signum: int) -> None:
  """Signals this process a while after metrics.jsonl has some length."""
  write = loop.MetricsLog.write

  def written(log: loop.MetricsLog, record: Any) -> None:
    write(log, record)
    if log.num_bytes >= num_bytes:
      loop.MetricsLog.write = write
      threading.Timer(seconds, kill_oneself, [signum]).start()

  loop.MetricsLog.write = written


def run_once(workdir: pathlib.Path, moment: Any, num_bytes: int) -> dict:
  """Runs until a moment, or where it is None until the end."""

  def prepare() -> None:
    if isinstance(moment, str):
      kill_while_saving(moment)
    elif moment is not None:
      kill_after(moment[0] * num_bytes, *moment[1:])

  with tempfile.TemporaryFile('w+') as stderr:
    command = ['train', *ARGUMENTS, f'--workdir={workdir}']
    child = start(command, stderr.fileno(), prepare=prepare)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    stderr.seek(0)
    return {
      'code': None if code == -signal.SIGKILL else code,
      'said': stderr.read(),
    }


def main() -> None:
  # Drawing takes seconds, and is no part of what this is about.
  figures.run_figures = lambda *args: {}
  num_bytes, results = 0, []
  for folder, moments in json.load(sys.stdin):
    workdir = pathlib.Path(folder)
    starts = []
    for moment in [*moments, None]:
      starts.append(run_once(workdir, moment, num_bytes))
      if starts[-1]['code'] not in SIGNALLED:
        break
    num_bytes = num_bytes or (workdir / 'metrics.jsonl').stat().st_size
    results.append(starts)
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
