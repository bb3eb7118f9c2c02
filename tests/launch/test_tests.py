"""What `./launch.sh test` says where JAX cannot even start."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_the_reason_is_printed():
  """XLA ends the process, so nothing that is captured would be shown."""
  result = subprocess.run(
    [sys.executable, '-P', '-m', 'pytest', '-p', 'no:cacheprovider', 'tests'],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': '--xla_no_such_flag=true'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode != 0
  assert 'xla_no_such_flag' in result.stdout + result.stderr
