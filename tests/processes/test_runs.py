"""One run over several processes: the same result, and the same end."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from advjax.training.checkpoint import restore_checkpoint
from tests.training import runs

ROOT = pathlib.Path(__file__).parents[2]
# Where processes and devices may make a report differ.
OWN = re.compile(r'seconds|milliseconds|environment|command')
NUM_STEPS = 3 * runs.STEPS_PER_EPOCH
# In the second epoch; the first has left a checkpoint.
LATE = runs.STEPS_PER_EPOCH + 2
AGAIN = 'Run the same command again: it resumes from the last whole checkpoint'


def run_jobs(groups, cache, timeout):
  """Runs groups of jobs; what one has compiled others find in a cache."""
  done = subprocess.run(
    [sys.executable, '-m', 'tests.processes.several'],
    input=json.dumps(groups),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_ENABLE_COMPILATION_CACHE': '1',
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    },
    timeout=timeout,
  )
  return json.loads(done.stdout.splitlines()[-1])


def job(name, folder, processes=2, devices=1, attack=False, fault=None):
  return {
    'name': name,
    'folder': str(folder),
    'processes': processes,
    'devices': devices,
    'attack': attack,
    'fault': fault,
  }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('several')


@pytest.fixture(scope='module')
def results(folder):
  """All jobs, in one program: importing costs more than training."""
  (folder / 'bad/0').mkdir(parents=True)
  (folder / 'bad/0/run').touch()
  lost = [
    job('killed', folder / 'killed', fault=[1, signal.SIGKILL, LATE]),
    job('killed 0', folder / 'killed_0', fault=[0, signal.SIGKILL, LATE]),
    job('error', folder / 'error', fault=[1, None, LATE]),
    job('error 0', folder / 'error_0', fault=[0, None, LATE]),
  ]
  return run_jobs(
    [
      [job('p1d1', folder / 'p1d1', processes=1, attack=True)],
      [job('p2d1', folder / 'p2d1', attack=True)],
      [job('stopped', folder / 'stopped', fault=[1, signal.SIGTERM, LATE])],
      [job('other number', folder / 'stopped', processes=1)],
      lost,
      [job('again', folder / 'killed'), job('bad', folder / 'bad')],
    ],
    folder / 'cache',
    timeout=300,
  )


def codes(results, name):
  found = results[name]
  return found['codes'], '\n'.join(found['stderr'])


def state_of(folder):
  found = restore_checkpoint(folder / '0/run/checkpoints/last')
  assert int(found.state['step']) == NUM_STEPS
  return jax.tree.leaves(found.state)


def report_of(folder):
  """The leaves of report.json by path, but for times and the like."""
  found = json.loads((folder / '0/run/report.json').read_text())
  return {
    key: leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    if not OWN.search(key := jax.tree_util.keystr(path))
  }


def assert_same_report(one, other):
  assert list(one) == list(other)
  assert len(one) > 40
  for key, leaf in one.items():
    # Random starts are the same draws. Rounding could still turn the sign of a
    # pixel, and so an image, but not of one as far from the decision as these.
    expected = leaf if isinstance(leaf, str) else pytest.approx(leaf, rel=1e-5)
    assert other[key] == expected, key


def images_of(folder):
  with np.load(folder / '0/run/images.npz') as images:
    return dict(images)


def test_two_processes_train_as_one_process_does(results, folder):
  assert [results[name]['codes'] for name in ('p1d1', 'p2d1')] == [[0], [0, 0]]
  places = folder / 'p1d1', folder / 'p2d1'
  for leaf, other in zip(*map(state_of, places), strict=True):
    np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)
  assert_same_report(*map(report_of, places))


def test_every_process_attacks_the_rows_of_its_devices(results, folder):
  del results
  one, other = (images_of(folder / name) for name in ('p1d1', 'p2d1'))
  assert list(one) == list(other) == ['model/pgd', 'model/apgd-ce']
  for name, images in one.items():
    assert len(images) == runs.NUM_TEST
    np.testing.assert_allclose(other[name], images, atol=1e-6)


def test_autoattack_is_shared_by_the_processes(results, folder):
  """Flags are equal, and what each has counted is summed."""
  del results
  one, other = (report_of(folder / name) for name in ('p1d1', 'p2d1'))
  own = [key for key in one if key.startswith(("['autoattack']", "['flags']"))]
  assert {key: one[key] for key in own} == {key: other[key] for key in own}
  fooled = []
  for index in range(2):
    at = f"['autoattack'][{index}]['attacks'][0]"
    assert one[at + "['forward']"] == one[at + "['backward']"] > runs.NUM_TEST
    fooled.append(one[at + "['fooled']"])
  assert 0 < max(fooled) < runs.NUM_TEST
  predictions = [one[f"['flags']['model'][{i}]"] for i in range(runs.NUM_TEST)]
  right = predictions == runs.dataset().test.labels
  accuracies = {one[f"['autoattack'][{i}]['accuracy']"] for i in range(2)}
  assert right.mean() in accuracies


def test_process_0_alone_reads_and_writes(results, folder):
  written = sorted(path.name for path in (folder / 'p2d1/0/run').iterdir())
  assert written == [
    '.lock',
    'checkpoints',
    'config.json',
    'events',
    'images.npz',
    'metrics.jsonl',
    'report.json',
  ]
  assert not list((folder / 'p2d1/1').iterdir())
  first, second = results['p2d1']['stderr']
  assert 'devices: 2 x cpu (cpu), pmap over 2, process 0 of 2' in first
  assert 'report: run/report.html' in first
  assert 'epoch' in first
  assert not [line for line in second.splitlines() if 'Gloo' not in line]


def test_a_signal_to_one_process_stops_all_at_the_same_step(results, folder):
  ended, text = codes(results, 'stopped')
  assert ended == [128 + signal.SIGTERM] * 2
  assert text.count('stopped by SIGTERM: run the same command again') == 1
  assert 'Traceback' not in text
  # Another number of processes resumes, to the same end.
  ended, text = codes(results, 'other number')
  assert ended == [0]
  step = int(re.search(r'resuming from step (\d+)\n', text)[1])
  assert LATE <= step < NUM_STEPS
  for one, other in zip(
    state_of(folder / 'p1d1'), state_of(folder / 'stopped'), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_other_process_ends_where_one_is_killed(results, folder):
  ended, text = codes(results, 'killed')
  assert ended == [75, -signal.SIGKILL]
  assert max(results['killed']['seconds']) < 120
  assert text.count('error: process 0 of 2 has lost another process') == 1
  assert AGAIN in text
  assert 'Traceback' not in text
  ended, text = codes(results, 'again')
  assert ended == [0, 0]
  assert f'resuming from step {runs.STEPS_PER_EPOCH}\n' in text
  for one, other in zip(
    state_of(folder / 'p2d1'), state_of(folder / 'killed'), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def test_the_others_end_where_process_0_is_killed(results):
  """JAX aborts them, or they notice: both are said in plain words."""
  ended, text = codes(results, 'killed 0')
  assert ended[0] == -signal.SIGKILL
  assert ended[1] in (75, -signal.SIGABRT)
  assert max(results['killed 0']['seconds']) < 120
  assert re.search(r'error: process 1 of 2 .*has lost another process', text)
  assert AGAIN in text


@pytest.mark.parametrize(('name', 'process'), [('error', 1), ('error 0', 0)])
def test_an_error_in_one_process_ends_all(results, name, process):
  """It says what; the other that it is gone."""
  ended, text = codes(results, name)
  assert ended[process] == 1
  assert ended[1 - process] in (75, -signal.SIGABRT)
  assert max(results[name]['seconds']) < 120
  assert text.count('RuntimeError: an error of its own') == 1
  assert text.count(f'process {process} of 2 ended by the error above') == 1
  other = rf'error: process {1 - process} of 2 .*has lost another process'
  assert re.search(other, text)
  assert AGAIN in text


def test_bad_input_ends_all_with_one_message(results):
  ended, text = codes(results, 'bad')
  assert ended == [2, 2]
  assert text.count('error:') == 1
  assert "workdir = 'run' is a file; allowed: a folder" in text
  assert 'Traceback' not in text


@pytest.mark.slow
@pytest.mark.parametrize('process', [0, 1])
def test_a_process_that_stands_still_is_lost(tmp_path, process):
  fault = [process, signal.SIGSTOP, LATE]
  jobs = [job('still', tmp_path, fault=fault)]
  results = run_jobs([jobs], tmp_path / 'cache', timeout=300)
  ended, text = codes(results, 'still')
  other = 1 - process
  assert ended[other] in (75, -signal.SIGABRT)
  assert results['still']['seconds'][other] < 120
  assert re.search(f'error: process {other} of 2 .*has lost another', text)
  assert AGAIN in text
