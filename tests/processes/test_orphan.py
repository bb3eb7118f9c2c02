"""Processes whose launcher is killed end, with a checkpoint."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Runs until it is stopped, as a training does. What tells that it has ended is
# the end of stderr, which all of them share.
PROGRAM = """
import os, pathlib, sys, time
from advjax import cli
from advjax.processes.signals import Interrupted, stop_on_signals

def main():
  name = os.environ['ADVJAX_PROCESS'][0]
  with stop_on_signals() as stop:
    pathlib.Path('ready' + name).touch()
    while not stop.signum:
      time.sleep(0.02)
  pathlib.Path('saved' + name).touch()
  raise Interrupted(stop.signum)

cli.run(main, ['program', '--platform=cpu'], processes=sys.argv[1])
"""


@pytest.mark.parametrize(
  ('processes', 'count'), [('apart', 1), ('together', 2)]
)
def test_processes_stop_with_their_launcher(processes, count, tmp_path):
  launcher = subprocess.Popen(
    [
      *[sys.executable, '-m', 'advjax.processes.launcher', str(count)],
      *[sys.executable, '-c', PROGRAM, processes],
    ],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    while len(list(tmp_path.glob('ready*'))) < count:
      assert launcher.poll() is None, launcher.communicate()[1]
      time.sleep(0.02)
    launcher.kill()
    said = launcher.communicate(timeout=60)[1]
  finally:
    launcher.kill()
  assert len(list(tmp_path.glob('saved*'))) == count
  assert 'Traceback' not in said
  assert said.count('the launcher of this process is gone') == count
  assert said.count('stopped by SIGTERM: run the same command') == 1
