"""The accelerator benchmark: its time, its failures, and a kill."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from advjax.processes.signals import StopRequest
from experiments.benchmarks.accelerator import __main__ as program
from experiments.benchmarks.accelerator import parts
from experiments.benchmarks.accelerator.page import BODIES, page
from experiments.benchmarks.roofline import Work
from tests.experiments.accelerator_parts import HEADER, RATES, SETTINGS

ROOT = pathlib.Path(__file__).parents[2]


def part(seconds=1.0):
  return program.Part('a part', seconds, {}, 1.0)


def read(workdir):
  """Both files; neither may be half-written."""
  report = json.loads((workdir / 'accelerator.json').read_text())
  assert (workdir / 'accelerator.md').read_text() == page(report)
  return report['parts']


@pytest.fixture
def run(tmp_path):
  """Runs parts that measure nothing; returns their entries."""

  def call(chosen, seconds=60.0, **settings):
    (tmp_path / 'scratch').mkdir()
    common = program.Run(
      tmp_path,
      tmp_path / 'scratch',
      SETTINGS | settings,
      time.monotonic() + seconds,
      StopRequest(),
    )
    program.run_parts(chosen, common, HEADER)
    return read(tmp_path)

  return call


def test_parts_that_fail_or_do_not_fit_keep_nobody_from_going_on(
  run, monkeypatch
):
  monkeypatch.setattr(program, '_LIMIT_FACTOR', 4)
  seconds = {'machine': 20, 'crashes': 20, 'fails': 20}
  seconds |= {'left_out': 1e3, 'hangs': 1, 'steps_nsl': 20}
  found = run({name: part(each) for name, each in seconds.items()})
  assert [entry['status'] for entry in found.values()] == [
    *('done', 'failed', 'failed', 'left out', 'stopped', 'done')
  ]
  assert found['machine']['rates'] == RATES
  assert found['steps_nsl']['rows'][0]['step_milliseconds'] == 1.5
  # What was known before stays, and the reason is said.
  assert found['fails']['rows'][0]['name'] == found['hangs']['rows'][0]['name']
  assert found['fails']['reason'] == 'ValueError: no such kernel'
  assert found['crashes']['reason'] == f'exit code {-signal.SIGABRT}'
  assert 'it takes about 1000 s' in found['left_out']['reason']
  assert 4 <= found['hangs']['seconds'] < 15


def test_no_accelerator_is_an_error(run):
  with pytest.raises(ValueError, match=r'machine: .*there is no accelerator'):
    run({'machine': part(20), 'steps_nsl': part()}, platform=None)


@pytest.mark.parametrize('signum', [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_leaves_what_is_done(tmp_path, signum):
  scratch = tmp_path / 'scratch'
  scratch.mkdir()
  killed = subprocess.Popen(
    [sys.executable, '-P', '-m', SETTINGS['module'], 'run', tmp_path, scratch],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  until = time.monotonic() + 60
  while not (scratch / 'pid').is_file() and time.monotonic() < until:
    time.sleep(0.1)
  child = int((scratch / 'pid').read_text())
  killed.send_signal(signum)
  killed.wait(timeout=20)
  found = read(tmp_path)
  assert found['machine']['status'] == 'done'
  if signum == signal.SIGKILL:
    assert found['hangs']['status'] == 'under way'
  else:
    assert found['hangs']['reason'] == 'stopped by SIGTERM'
    assert found['hangs']['rows'][0]['name'] == 'before'
  # The part ends too, instead of keeping the device.
  until = time.monotonic() + 20
  while pathlib.Path(f'/proc/{child}').exists() and time.monotonic() < until:
    time.sleep(0.1)
  assert not pathlib.Path(f'/proc/{child}').exists()


# -------------------------------------------------------------------- the parts


def test_every_part_is_there():
  for name in program.PARTS:
    assert callable(getattr(parts, name)) and name in BODIES
  assert list(program.choose_parts(['attacks'])) == ['machine', 'attacks']
  with pytest.raises(ValueError, match=r"unknown --parts: 'atacks'.*'attacks'"):
    program.choose_parts(['atacks'])


def write_images(path, shape):
  """Random images as npz: 64 to train and 16 to test."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (('train', 64), ('test', 16)):
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    arrays[f'{split}_images'] = images
    arrays[f'{split}_labels'] = np.arange(count) % 10
  np.savez(path, **arrays)


@pytest.fixture(scope='module')
def context(tmp_path_factory):
  """A tiny run on random images."""
  folder = tmp_path_factory.mktemp('accelerator')
  write_images(folder / 'cifar10.npz', (32, 32, 3))
  return parts.Context(
    'cpu',
    'cpu',
    parts.TINY._replace(matmul=64, check_images=8),
    str(folder / 'cifar10.npz'),
    folder,
    RATES,
    pathlib.Path(sys.executable),
    time.monotonic() + 600,
  )


def merged(results):
  """What accelerator.json would hold, and that it can be shown."""
  found = {}
  for result in results:
    found |= json.loads(json.dumps(result))
  return found


def test_work_is_set_against_the_rates(context):
  found = merged(parts.machine(context))
  assert found['platform'] == 'cpu'
  assert all(rate > 0 for rate in found['rates'].values())
  assert 'TFLOP/s' in BODIES['machine'](found)
  # At 1e12 bytes and 2e14 operations in a second the bytes take half of it.
  shares = context.shares(Work(flops=2e13, bytes=5e11), 1.0)
  of_rates = {'share_of_matmul': 0.1, 'share_of_roofline': 0.5}
  assert shares == pytest.approx({'teraflops_per_second': 20, **of_rates})
  row = {'name': 'a step', 'step_milliseconds': 1000.0, **shares}
  line = BODIES['steps_nsl']({'rows': [row]}).splitlines()[2]
  assert line.startswith('| a step | | 1000.00 | | 20.0 | 10.0 % | 50.0 % |')


def test_images_of_another_shape_are_refused(context, tmp_path):
  path = tmp_path / 'mine.npz'
  write_images(path, (28, 28, 1))
  wrong = r'--data: .*mine.npz .*allowed: \(32, 32, 3\)'
  with pytest.raises(ValueError, match=wrong):
    context._replace(path=str(path)).dataset()


@pytest.mark.slow
def test_the_whole_benchmark_on_a_cpu(context, tmp_path):
  subprocess.run(
    [
      *(sys.executable, '-P', '-m', 'experiments.benchmarks.accelerator'),
      *(f'--data={context.path}', f'--workdir={tmp_path}', '--minutes=10'),
      '--platform=cpu',
    ],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    check=True,
  )
  found = read(tmp_path)
  without_torch = {n: e for n, e in found.items() if not n.startswith('torch')}
  assert {entry['status'] for entry in without_torch.values()} == {'done'}
  reference, highest, default, float64 = found['numerics']['rows']
  for row in (highest, default):  # The CPU in the place of an accelerator.
    assert set(row['differences']) == {'logits', 'loss', 'gradient', 'update'}
    assert max(row['differences'].values()) < 1e-6
    assert row['accuracy'] == reference['accuracy']
  assert all(0 < each < 1e-4 for each in float64['differences'].values())
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['accelerator.json', 'accelerator.md']
