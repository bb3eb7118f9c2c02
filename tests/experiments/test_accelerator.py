"""The accelerator benchmark: its time, its failures, and a kill."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from experiments.benchmarks.accelerator import __main__ as program
from experiments.benchmarks.accelerator import parts
from experiments.benchmarks.accelerator.page import BODIES, page
from experiments.benchmarks.roofline import Work
from tests.experiments.accelerator_parts import RATES, SETTINGS, run_parts

ROOT = pathlib.Path(__file__).parents[2]


def read(workdir):
  """Both files; neither may be half-written."""
  report = json.loads((workdir / 'accelerator.json').read_text())
  assert (workdir / 'accelerator.md').read_text() == page(report)
  return report['parts']


def wait_for(condition):
  until = time.monotonic() + 60
  while not condition() and time.monotonic() < until:
    time.sleep(0.1)
  assert condition()


def test_parts_that_fail_or_do_not_fit_keep_nobody_from_going_on(tmp_path):
  seconds = {'machine': 20, 'crashes': 20, 'fails': 20}
  seconds |= {'left_out': 1e3, 'hangs': 0.5, 'steps_nsl': 20}
  run_parts(seconds, tmp_path)
  found = read(tmp_path)
  assert [entry['status'] for entry in found.values()] == [
    *('done', 'failed', 'failed', 'left out', 'stopped', 'done')
  ]
  assert found['machine']['rates'] == RATES
  assert found['steps_nsl']['rows'][0]['step_milliseconds'] == 1.5
  # What was known before stays, and the reason is said.
  assert found['fails']['rows'][0]['name'] == 'before'
  assert found['fails']['reason'] == 'ValueError: no such kernel'
  assert found['crashes']['reason'] == f'exit code {-signal.SIGABRT}'
  assert 'it takes about 1000 s' in found['left_out']['reason']
  assert 1.5 <= found['hangs']['seconds'] < 15


def test_no_accelerator_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r'machine: .*there is no accelerator'):
    run_parts({'machine': 20, 'steps_nsl': 1}, tmp_path, platform=None)


@pytest.mark.parametrize('signum', [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_leaves_what_is_done(tmp_path, signum):
  pid = tmp_path / 'scratch' / 'pid'
  if signum == signal.SIGTERM:

    def stop():
      wait_for(pid.is_file)
      os.kill(os.getpid(), signum)

    threading.Thread(target=stop).start()
    run_parts({'machine': 20, 'hangs': 99}, tmp_path)
  else:
    killed = subprocess.Popen(
      [sys.executable, '-P', '-m', SETTINGS['module'], 'run', tmp_path],
      env=os.environ | {'PYTHONPATH': str(ROOT)},
    )
    wait_for(pid.is_file)
    killed.send_signal(signum)
    killed.wait(timeout=20)
  found = read(tmp_path)
  assert found['machine']['status'] == 'done'
  if signum == signal.SIGTERM:
    assert found['hangs']['reason'] == 'stopped by SIGTERM'
    assert found['hangs']['rows'][0]['name'] == 'before'
  else:
    assert found['hangs']['status'] == 'under way'
  # The part ends too, instead of keeping the device.
  process = pathlib.Path(f'/proc/{pid.read_text()}')
  wait_for(lambda: not process.exists())


# -------------------------------------------------------------------- the parts


def write_images(path, shape):
  """Random images as npz: 64 to train and 16 to test."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count in (('train', 64), ('test', 16)):
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    arrays[f'{split}_images'] = images
    arrays[f'{split}_labels'] = np.arange(count) % 10
  np.savez(path, **arrays)


def context(path):
  """What a part is given, with images at a path."""
  where = str(path), path.parent, RATES, pathlib.Path(sys.executable)
  return parts.Context('cpu', 'cpu', parts.TINY, *where, time.monotonic())


def test_work_is_set_against_the_rates(tmp_path):
  assert set(program.PARTS) == set(BODIES)
  assert all(callable(getattr(parts, name)) for name in program.PARTS)
  # At 1e12 bytes and 2e14 operations in a second the bytes take half of it.
  shares = context(tmp_path).shares(Work(flops=2e13, bytes=5e11), 1.0)
  of_rates = {'share_of_matmul': 0.1, 'share_of_roofline': 0.5}
  assert shares == pytest.approx({'teraflops_per_second': 20, **of_rates})
  row = {'name': 'a step', 'step_milliseconds': 1000.0, **shares}
  line = BODIES['steps_nsl']({'rows': [row]}).splitlines()[2]
  assert line.startswith('| a step | | 1000.00 | | 20.0 | 10.0 % | 50.0 % |')


def test_images_of_another_shape_are_refused(tmp_path):
  path = tmp_path / 'mine.npz'
  write_images(path, (28, 28, 1))
  wrong = r'--data: .*mine.npz .*allowed: \(32, 32, 3\)'
  with pytest.raises(ValueError, match=wrong):
    context(path).dataset()


@pytest.mark.slow
def test_the_whole_benchmark_on_a_cpu(tmp_path):
  path, workdir = tmp_path / 'cifar10.npz', tmp_path / 'results'
  write_images(path, (32, 32, 3))
  subprocess.run(
    [
      *(sys.executable, '-P', '-m', 'experiments.benchmarks.accelerator'),
      *(f'--data={path}', f'--workdir={workdir}', '--minutes=10'),
      '--platform=cpu',
    ],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    check=True,
  )
  found = read(workdir)
  without_torch = {n: e for n, e in found.items() if not n.startswith('torch')}
  assert {entry['status'] for entry in without_torch.values()} == {'done'}
  assert all(rate > 0 for rate in found['machine']['rates'].values())
  reference, highest, default, float64 = found['numerics']['rows']
  for row in (highest, default):  # The CPU in the place of an accelerator.
    assert set(row['differences']) == {'logits', 'loss', 'gradient', 'update'}
    assert max(row['differences'].values()) < 1e-6
    assert row['accuracy'] == reference['accuracy']
  assert all(0 < each < 1e-4 for each in float64['differences'].values())
  names = sorted(path.name for path in workdir.iterdir())
  assert names == ['accelerator.json', 'accelerator.md']
