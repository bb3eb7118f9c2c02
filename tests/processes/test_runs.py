"""One run over several processes: the same result, and the same end."""

import json
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from advjax.processes.distributed import join
from advjax.processes.topology import Place

ROOT = pathlib.Path(__file__).parents[2]
NUM_TEST, NUM_EPOCHS = 10, 12
# Where processes and devices may make a report differ.
OWN = re.compile(r'second|environment|command')
AGAIN = 'Run the same command again: it resumes from the last full checkpoint'


def flags(folder):
  """The command line of a tiny run; the last batch has 2 of 4 examples."""
  return [
    f'--config={ROOT}/configs/digits.py:standard',
    '--workdir=run',
    '--config.dataset.name=npz',
    f'--config.dataset.path={folder}/data.npz',
    '--config.model.name=logistic_regression',
    '--config.batch_size=4',
    f'--config.num_epochs={NUM_EPOCHS}',
    '--config.num_validation=0',
    '--config.report_checkpoint=last',
    '--config.monitor.num_images=8',
    '--config.monitor.num_steps=1',
    f'--config.monitor.every_epochs={NUM_EPOCHS}',
    '--config.evaluation.batch_size=8',
    '--config.evaluation.attacks=("apgd-ce",)',
    '--config.evaluation.epsilons=(0.1,)',
  ]


def run_jobs(folder, groups):
  """Runs groups of jobs; what one has compiled the next find in the cache."""
  done = subprocess.run(
    [sys.executable, '-m', 'tests.processes.several', str(folder)],
    input=json.dumps(groups),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    cwd=ROOT,
    timeout=300,
  )
  return json.loads(done.stdout.splitlines()[-1])


def job(name, processes=2, devices=1, **more):
  return {'name': name, 'processes': processes, 'devices': devices, **more}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('several')
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (('train', 22), ('test', NUM_TEST)):
    labels = np.arange(count) % 3
    images = rng.integers(0, 150, (count, 3, 3, 1), np.uint8)
    images[np.arange(count), :, labels] += 80
    arrays |= {f'{split}_images': images, f'{split}_labels': labels}
  np.savez(folder / 'data.npz', **arrays)
  return folder


@pytest.fixture(scope='module')
def results(folder):
  train = {'flags': flags(folder)}
  return run_jobs(
    folder,
    [
      [job('whole', **train), job('pod', devices=2, **train)],
      [
        job('stopped', fault=[1, signal.SIGTERM], **train),
        job('killed', fault=[1, signal.SIGKILL]),
        job('bug', devices=2, fault=[0, 'bug']),
        job('bad input', fault=['all', 'input']),
        job('alone', started=[1], wait_seconds=1),
      ],
      [job('finished', 1, 2, resumes='stopped', **train)],
    ],
  )


def ends(results, name):
  found = results[name]
  assert found['seconds'] < 120
  text = '\n'.join(found['stderr'])
  return found['codes'], text


def numbers(folder, name):
  """The numbers of a run's files, by name, but for times and the like."""
  run = folder / name / '0/run'
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  found = {
    'metrics': [json.loads(line) for line in lines],
    'report': json.loads((run / 'report.json').read_text()),
  }
  return {
    key: leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    if not OWN.search(key := jax.tree_util.keystr(path))
  }


def test_two_processes_train_and_attack_as_one_does(results, folder):
  """Bit for bit: one process finishes what two have begun."""
  assert results['whole']['codes'] == [0, 0]
  assert results['finished']['codes'] == [0]
  expected, found = numbers(folder, 'whole'), numbers(folder, 'stopped')
  assert len(expected) > 100
  assert found == expected


def test_two_processes_of_two_devices_train_and_attack(results, folder):
  assert results['pod']['codes'] == [0, 0]
  report = json.loads((folder / 'pod/0/run/report.json').read_text())
  assert report['members']


def test_process_0_alone_reads_and_writes(results, folder):
  assert (folder / 'whole/0/run/report.html').exists()
  assert not list((folder / 'whole/1').iterdir())
  first, second = results['whole']['stderr']
  assert 'devices: 2 x cpu (cpu), pmap over 2, process 0 of 2' in first
  assert not [line for line in second.splitlines() if 'Gloo' not in line]


def test_a_signal_to_one_process_stops_all_at_the_same_step(results):
  codes, text = ends(results, 'stopped')
  assert codes == [128 + signal.SIGTERM] * 2
  assert text.count('stopped by SIGTERM: run the same command again') == 1
  assert 'Traceback' not in text
  _, resumed = ends(results, 'finished')
  assert int(re.search(r'from step (\d+)', resumed)[1]) > 0


def test_a_killed_process_ends_the_other(results):
  codes, text = ends(results, 'killed')
  assert codes == [75, -signal.SIGKILL]
  assert text.count('error: ') == 1
  assert AGAIN in text
  assert 'Traceback' not in text


def test_an_error_in_one_process_ends_all(results):
  codes, text = ends(results, 'bug')
  assert codes == [1, 75]
  assert text.count('RuntimeError: a bug') == 1
  assert 'process 0 of 2 ended by the error above' in text
  assert re.search('error: .*process 1 of 2.* lost another process', text)


def test_bad_input_ends_all_with_one_message(results):
  codes, text = ends(results, 'bad input')
  assert codes == [2, 2]
  assert text.count('error: seed = -1; allowed: an integer >= 0') == 1
  assert 'Traceback' not in text


def test_examples_are_spread_over_all_devices_of_all_processes(results, folder):
  del results
  for index in (0, 1):
    found, expected = (
      np.load(folder / f'bug/{index}/{name}.npy')
      for name in ('logits', 'expected')
    )
    np.testing.assert_allclose(found, expected)


@pytest.mark.slow
def test_a_frozen_process_is_lost(tmp_path):
  jobs = [job(f'{i} frozen', fault=[i, signal.SIGSTOP]) for i in (0, 1)]
  results = run_jobs(tmp_path, [jobs])
  for index in (0, 1):
    codes, text = ends(results, f'{index} frozen')
    assert codes[1 - index] == 75
    assert f'error: JAX has aborted process {1 - index} of 2' in text
    assert AGAIN in text


def test_a_process_that_waits_in_vain_ends(results):
  codes, text = ends(results, 'alone')
  assert codes == [75]
  said = 'error: process 1 of 2 has waited 1 s (ADVJAX_JOIN_SECONDS) for the'
  assert said in text
  assert 'Traceback' not in text


@pytest.mark.parametrize('text', ['0', '-1', 'two', '', '1.5'])
def test_wrong_numbers_of_seconds(text, monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', '127.0.0.1:9')
  monkeypatch.setenv('ADVJAX_JOIN_SECONDS', text)
  with pytest.raises(ValueError, match=r'ADVJAX_JOIN_SECONDS = .*integer >= 1'):
    join(Place(1, 2, 0, 1, '--processes', 'deactivate'))
