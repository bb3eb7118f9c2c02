"""Ctrl-C and SIGTERM, sent to a program in training."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
  'train',
  '--config=configs/digits.py:standard',
  '--config.model.name=logistic_regression',
  '--config.num_epochs=100000',
  '--config.monitor.every_epochs=10000',
  '--platform=cpu',
  '--devices=1',
]


@pytest.mark.skipif(os.name != 'posix', reason='needs signals')
def test_a_signal_stops_with_a_checkpoint_and_the_same_command_resumes(
  tmp_path,
):
  workdir = tmp_path / 'run'
  logs = tmp_path / 'first', tmp_path / 'second'
  waits = r'epoch 3 of 100000', r'resuming from step \d+\n(?s:.*)epoch'
  jobs = [
    {
      'command': [*COMMAND, f'--workdir={workdir}'],
      'signal': signum,
      'wait_for': wait_for,
      'log': str(log),
      'folder': str(workdir / 'checkpoints' / 'last'),
    }
    for signum, wait_for, log in zip(
      (signal.SIGTERM, signal.SIGINT), waits, logs, strict=True
    )
  ]
  done = subprocess.run(
    [sys.executable, '-m', 'tests.experiments.signalled_runs'],
    cwd=ROOT,
    input=json.dumps(jobs),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    timeout=300,
  )
  results = json.loads(done.stdout)
  codes = [result['code'] for result in results]
  assert codes == [128 + signal.SIGTERM, 128 + signal.SIGINT]
  first, second = (
    max(int(name) for name in result['files'] if name.isdigit())
    for result in results
  )
  text, again = (log.read_text() for log in logs)
  lines = text.splitlines()
  assert lines[-1] == 'stopped by SIGTERM: run the same command again to resume'
  assert 'Traceback' not in text
  assert f'resuming from step {first}\n' in again
  assert 'stopped by SIGINT' in again
  assert 'Traceback' not in again
  assert second > first
  assert not (workdir / 'report.json').exists()
