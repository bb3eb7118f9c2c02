"""Signalled runs end bit for bit where an uninterrupted run ends."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from advjax.training.checkpoint import restore_checkpoint
from advjax.training.loop import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs SIGKILL')


def run_all(tmp_path, **moments):
  """Runs once as it should be, and others, signalled at moments by name."""
  moments = {'whole': [], **moments}
  runs = [[str(tmp_path / name), each] for name, each in moments.items()]
  process = subprocess.run(
    [sys.executable, '-m', 'tests.training.killed_runs'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    input=json.dumps(runs),
    capture_output=True,
    text=True,
    check=False,
    timeout=500,
  )
  assert process.returncode == 0, process.stderr
  return json.loads(process.stdout)


def random_moments(seed, count):
  """Moments in the order of the run, each some way into what follows it."""
  rng = random.Random(seed)
  fractions = sorted(rng.random() for _ in range(count))
  return [
    [fraction, rng.uniform(0, 0.1), signal.SIGKILL] for fraction in fractions
  ]


def records(workdir):
  """What metrics.jsonl holds, apart from times."""
  found = read_metrics(workdir / 'metrics.jsonl')
  for record in found:
    record.pop('images_per_second', None)
  return found


def assert_ends_as_the_whole(starts, folder, codes):
  assert [start['code'] for start in starts] == [*codes, 0], starts[-1]['said']
  for said in (start['said'] for start in starts):
    # Where no digest was written yet, the checkpoint before is used.
    assert said.count('cannot be read') == said.count('.sha256 is absent')
    assert 'Traceback' not in said
  whole = folder.parent / 'whole'
  for kind in ('last', 'best'):
    states = [
      restore_checkpoint(run / 'checkpoints' / kind).state
      for run in (whole, folder)
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    # A checkpoint or its digest: nothing temporary is left.
    for path in (folder / 'checkpoints' / kind).iterdir():
      assert path.name.removesuffix('.sha256').isdigit()
  assert records(folder) == records(whole)
  assert (folder / 'report.html').exists()


def assert_killed_run_ends_the_same(starts, tmp_path):
  assert any('are repeated' in start['said'] for start in starts)
  codes = [None] * (len(starts) - 1)
  assert_ends_as_the_whole(starts, tmp_path / 'killed', codes)


@pytest.fixture(scope='module')
def signalled(tmp_path_factory):
  """(starts of a run, folder) by how it was signalled."""
  folder = tmp_path_factory.mktemp('signalled')
  stops = [[0.3, 0, signal.SIGTERM], [0.6, 0, signal.SIGINT]]
  killed = ['last', *random_moments(0, 1)]
  _, *starts = run_all(folder, killed=killed, stopped=stops)
  return *starts, folder


def test_killed_while_saving_and_at_a_moment(signalled):
  starts, _, folder = signalled
  assert len(starts) == 3
  assert_killed_run_ends_the_same(starts, folder)


def test_a_signal_stops_with_a_checkpoint_and_the_same_command_resumes(
  signalled,
):
  _, starts, folder = signalled
  codes = [128 + signal.SIGTERM, 128 + signal.SIGINT]
  assert_ends_as_the_whole(starts, folder / 'stopped', codes)
  for start, name in zip(starts, ('SIGTERM', 'SIGINT'), strict=False):
    *_, last = start['said'].splitlines()
    assert last == f'stopped by {name}: run the same command again to resume'
  first, second = (
    int(re.search(r'resuming from step (\d+)\n', start['said'])[1])
    for start in starts[1:]
  )
  assert 0 < first < second
  # What was saved is where it stopped.
  assert not any('are repeated' in start['said'] for start in starts)


@pytest.mark.slow
@pytest.mark.parametrize(
  'moments', [random_moments(1, 20), ['last', 'last', 'best', 'best', 'last']]
)
def test_killed_again_and_again(tmp_path, moments):
  _, starts = run_all(tmp_path, killed=moments)
  assert len(starts) == len(moments) + 1
  assert_killed_run_ends_the_same(starts, tmp_path)
