"""A process that waits for the others of its run."""

import os
import pathlib
import subprocess
import sys

import pytest

from advjax.processes.peers import join
from advjax.processes.topology import Place

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
from advjax import cli
cli.run(lambda: None, ['program', '--platform=cpu'], processes='together')
"""


def test_a_process_that_waits_in_vain_ends():
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    cwd=ROOT,
    env={
      **os.environ,
      'ADVJAX_PROCESS': '1/2',
      'JAX_COORDINATOR_ADDRESS': '127.0.0.1:9',  # Where nobody listens.
      'ADVJAX_JOIN_SECONDS': '1',
    },
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert done.returncode == 75, done.stderr
  said = 'error: process 1 of 2 has waited 1 s (ADVJAX_JOIN_SECONDS) for the'
  assert said in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('text', ['0', '-1', 'two', '', '1.5'])
def test_seconds_that_make_no_sense(text, monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', '127.0.0.1:9')
  monkeypatch.setenv('ADVJAX_JOIN_SECONDS', text)
  with pytest.raises(ValueError, match=r'ADVJAX_JOIN_SECONDS = .*integer >= 1'):
    join(Place(1, 2, 0, 1, 'launch.sh', 'deactivate'), 'cpu')
