"""Ctrl-C and SIGTERM, sent to a program in training."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
  '--config=configs/digits.py:standard',
  '--config.model.name=logistic_regression',
  '--config.num_epochs=100000',
  '--config.monitor.every_epochs=10000',
  '--platform=cpu',
  '--devices=1',
]


def stop(workdir, signum, wait_for):
  """Starts the training, sends a signal once it has said something.

  Returns:
    The exit code, and what it said on stderr.
  """
  log = workdir.with_name('stderr')
  with log.open('w') as stderr:
    program = subprocess.Popen(
      [
        sys.executable,
        '-m',
        'experiments.train',
        *COMMAND,
        f'--workdir={workdir}',
      ],
      cwd=ROOT,
      env={**os.environ, 'PYTHONUNBUFFERED': '1'},
      stderr=stderr,
    )
    try:
      while not re.search(wait_for, log.read_text()):
        assert program.poll() is None, log.read_text()
        time.sleep(0.05)
      program.send_signal(signum)
      # 10 s are promised; this machine may have other things to do as well.
      code = program.wait(timeout=30)
    finally:
      program.kill()
      program.wait()
  return code, log.read_text()


def saved_steps(workdir):
  folder = workdir / 'checkpoints' / 'last'
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.mark.skipif(os.name != 'posix', reason='needs signals')
def test_a_signal_stops_with_a_checkpoint_and_the_same_command_resumes(
  tmp_path,
):
  workdir = tmp_path / 'run'
  code, text = stop(workdir, signal.SIGTERM, r'epoch 3 of 100000')
  assert code == 128 + signal.SIGTERM
  lines = text.splitlines()
  assert lines[-1] == 'stopped by SIGTERM: run the same command again to go on'
  assert 'Traceback' not in text
  first = saved_steps(workdir)[-1]
  assert not (workdir / 'report.json').exists()

  code, text = stop(workdir, signal.SIGINT, r'going on from step \d+\n.*epoch')
  assert code == 128 + signal.SIGINT
  assert f'going on from step {first}\n' in text
  assert 'stopped by SIGINT' in text
  assert 'Traceback' not in text
  assert saved_steps(workdir)[-1] > first
