"""Runs killed by SIGKILL end bit for bit where an uninterrupted run ends."""

import json
import os
import pathlib
import random
import subprocess
import sys

import jax
import numpy as np
import pytest

from advjax.training.checkpoint import restore_checkpoint
from advjax.training.loop import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs SIGKILL')


def run_and_kill(tmp_path, moments):
  """Runs once as it should be, and once killed at each of some moments."""
  runs = [[str(tmp_path / 'whole'), []], [str(tmp_path / 'killed'), moments]]
  process = subprocess.run(
    [sys.executable, '-m', 'tests.training.killed_runs'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    input=json.dumps(runs),
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 0, process.stderr
  return json.loads(process.stdout)


def random_moments(seed, count):
  """Moments in the order of the run, each some way into what follows it."""
  rng = random.Random(seed)
  fractions = sorted(rng.random() for _ in range(count))
  return [[fraction, rng.uniform(0, 0.1)] for fraction in fractions]


def records(workdir):
  """What metrics.jsonl holds, apart from times."""
  found = read_metrics(workdir / 'metrics.jsonl')
  for record in found:
    record.pop('images_per_second', None)
  return found


def assert_killed_run_ends_the_same(tmp_path, moments):
  (whole,), starts = run_and_kill(tmp_path, moments)
  assert whole['code'] == 0, whole['said']
  codes = [start['code'] for start in starts]
  assert codes == [None] * len(moments) + [0], starts[-1]['said']
  for start in starts:
    assert 'Traceback' not in start['said']
    assert 'cannot be read' not in start['said']
  assert any('are repeated' in start['said'] for start in starts)
  for kind in ('last', 'best'):
    states = [
      restore_checkpoint(tmp_path / name / 'checkpoints' / kind).state
      for name in ('whole', 'killed')
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    folder = tmp_path / 'killed' / 'checkpoints' / kind
    # The last one that was killed while it saved has been tidied up after.
    # A checkpoint or its digest: nothing temporary is left.
    for path in folder.iterdir():
      assert path.name.removesuffix('.sha256').isdigit()
  assert records(tmp_path / 'killed') == records(tmp_path / 'whole')
  assert (tmp_path / 'killed' / 'report.html').exists()


def test_killed_while_saving_and_at_a_moment(tmp_path):
  assert_killed_run_ends_the_same(tmp_path, ['last', *random_moments(0, 1)])


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path):
  assert_killed_run_ends_the_same(tmp_path, random_moments(1, 20))


@pytest.mark.slow
def test_killed_while_saving_again_and_again(tmp_path):
  moments = ['last', 'last', 'best', 'best', 'last', [0.5, 0.0], 'best', 'last']
  assert_killed_run_ends_the_same(tmp_path, moments)
