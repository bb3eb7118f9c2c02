"""Ctrl-C while a command runs: a line that says what is kept, no traceback."""

import signal
import subprocess
import sys
import threading

import pytest

SWEEP = [
  '--config=configs/digits.py:standard-smoke',
  '--config.model.name=logistic_regression',
  '--config.evaluation.attacks=pgd-20',
  '--sweep=seed=0,1',
]
EVALUATE = ['--attacks=autoattack', '--num_images=8', '--nocorruptions']


@pytest.mark.parametrize(
  ('command', 'arguments', 'at', 'signum', 'kept'),
  [
    ('evaluate', EVALUATE, 'attacking', signal.SIGINT, 'AutoAttack'),
    ('sweep', SWEEP, '0 of them done', signal.SIGTERM, ''),
  ],
)
def test_a_command_says_that_it_resumes(
  command, arguments, at, signum, kept, run, tmp_path
):
  """Signalled once it logs a line with `at`."""
  if command == 'evaluate':
    arguments = [*arguments, f'--checkpoint={run[2] / "base"}']
  program = subprocess.Popen(
    [
      *(sys.executable, '-m', 'advjax', command, *arguments),
      *('--platform=cpu', '--devices=1', f'--workdir={tmp_path / "new"}'),
    ],
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
  )
  limit = threading.Timer(120, program.kill)  # Else a failure would hang.
  limit.start()
  with program:
    lines = []
    for line in program.stderr:
      lines.append(line)
      if at in line:
        program.send_signal(signum)
  limit.cancel()
  text = ''.join(lines)
  assert program.returncode == 128 + signum, text
  assert 'Traceback' not in text
  (last,) = [line for line in lines if signum.name in line]
  assert kept in last and 'run the same command again to resume' in last
