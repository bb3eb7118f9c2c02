"""Sweeps from the flags to the report."""

import contextlib
import csv
import io
import json
import logging
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from advjax import cli
from advjax.files import lock_folder
from advjax.jobs import sweep as job
from advjax.jobs.sweep import sweep
from advjax.jobs.train import train
from advjax.processes.signals import Interrupted
from advjax.sweeps import parse_sweep
from advjax.training import vmapped
from advjax.training.checkpoint import restore_checkpoint, saved_steps
from tests import compiles
from tests.test_configs import FOLDER, load

ROOT = pathlib.Path(__file__).parents[2]

GRID = 'hparams.epsilon=0.05,8/255;hparams.step_size=0.02,0.1;seed=0'


def config(variant='fgsm_at', **changes):
  """A run of seconds on the digits."""
  result = load(FOLDER / 'digits.py', f'{variant}-smoke')
  result.dataset.classes = (3, 7)
  result.model = {'name': 'logistic_regression'}
  result.evaluation.attacks = ('fgsm', 'bim-2')
  result.evaluation.epsilons = (0.0, 0.1)
  result.hparams.learning_rate = 0.01
  result.update(changes)
  return result


def swept(text, workdir, base=None, num_devices=1, **options):
  """Returns the report of a sweep and what it prints."""
  base = base or config()
  devices = jax.devices()[:num_devices]
  with contextlib.redirect_stdout(io.StringIO()) as out:
    report = sweep(base, parse_sweep(text, base), workdir, devices, **options)
  return report, out.getvalue()


@pytest.fixture
def no_pages(monkeypatch):
  """Drawing takes seconds, and is no part of what these tests are about."""
  monkeypatch.setattr(job, 'write_sweep', lambda *args: '')


def params_of(folder):
  found = restore_checkpoint(folder / 'checkpoints' / 'last')
  return found.state['params']


@pytest.fixture(scope='module')
def grid(tmp_path_factory):
  """A 2 x 2 grid: its folder, report, text, and compiles per call."""
  workdir = tmp_path_factory.mktemp('grid')
  calls = []
  once = vmapped.parallelize

  def counting(function, devices, **options):
    mapped = once(function, devices, **options)

    def call(*args):
      with compiles.counted() as count:
        result = mapped(*args)
      calls.extend(count)
      return result

    return call

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vmapped, 'parallelize', counting)
    vmapped.map_train_many.cache_clear()
    report, text = swept(GRID, workdir)
  return workdir, report, text, calls


def test_a_grid_is_compiled_once(grid):
  _, report, _, calls = grid
  # The compiling call, and at least one that trains.
  assert len(calls) > 1 and sum(calls) == 1
  assert len(report.rows) == 4 and report.pending == []
  (group,) = report.groups
  assert (group.members, group.chunks) == (4, [4])
  assert group.how == 'sequential on 1 device, in one program'
  # Of all programs: initialise, train, monitor, attack, predict; not 4 of any.
  # Fewer of those that another process of the tests has compiled.
  assert group.compiles < 60


def test_every_row_is_its_trial(grid):
  workdir, report, _, _ = grid
  lines = (workdir / 'results.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['member'] for row in rows] == [row.member for row in report.rows]
  with (workdir / 'results.csv').open() as file:
    assert [row['member'] for row in csv.DictReader(file)] == [
      row['member'] for row in rows
    ]
  for row in rows:
    saved = json.loads((workdir / row['folder'] / 'config.json').read_text())
    assert saved['hparams']['epsilon'] == row['hparams.epsilon']
    assert saved['hparams']['step_size'] == row['hparams.step_size']
    assert saved['seed'] == row['seed']
    assert row['robust_accuracy'] <= min(row['fgsm'], row['bim'])
    assert row['robust_accuracy'] <= row['clean_accuracy']
    assert row['robust_accuracy_low'] <= row['robust_accuracy']
    curve = report.curves[row['member']]
    assert curve['epsilons'] == [0.0, 0.1]
    assert curve['fgsm'] == [row['clean_accuracy'], row['fgsm']]
    (step,) = saved_steps(workdir / row['folder'] / 'checkpoints' / 'best')
    assert row['checkpoint'] == f'best, step {step}'
  assert len({row['loss'] for row in rows}) == 4


def test_a_trial_is_what_its_command_trains_alone(grid, no_pictures, tmp_path):
  """Bit for bit, with the devices that it had."""
  workdir, report, _, _ = grid
  row = report.rows[3]
  words = shlex.split(row.command)
  fields = dict(word.split('=', 1) for word in words[2:])
  alone = config()
  alone.hparams.epsilon = float(fields.pop('--config.hparams.epsilon'))
  alone.hparams.step_size = float(fields.pop('--config.hparams.step_size'))
  alone.evaluation.epsilon = float(fields.pop('--config.evaluation.epsilon'))
  alone.monitor.epsilon = float(fields.pop('--config.monitor.epsilon'))
  alone.seed = int(fields.pop('--config.seed'))
  devices = jax.devices()[: int(fields.pop('--devices'))]
  assert fields.pop('--platform') == 'cpu'
  assert list(fields) == ['--workdir']
  with contextlib.redirect_stdout(io.StringIO()):
    found = train(alone, tmp_path, devices)
  jax.tree.map(
    np.testing.assert_array_equal,
    params_of(tmp_path),
    params_of(workdir / row.folder),
  )
  (member,) = found.members.values()
  assert member.clean_accuracy == row.clean_accuracy
  assert member.robust_accuracy['bim'].white_box.value == row.attacks['bim']


def watched(monkeypatch):
  """Returns the list that names of members are put on when they are trained."""
  trained = []
  once = job.train_group

  def watching(configs, workdirs, names, *rest, **options):
    trained.extend(names)
    return once(configs, workdirs, names, *rest, **options)

  monkeypatch.setattr(job, 'train_group', watching)
  return trained


def test_shards_share_a_folder(no_pages, tmp_path, monkeypatch):
  trained = watched(monkeypatch)
  text, base = 'hparams.epsilon=0.05,0.1,0.2', config()
  first, _ = swept(text, tmp_path, base, shard='0/2')
  assert trained == ['epsilon=0.05', 'epsilon=0.2']
  assert first.pending == ['epsilon=0.1']
  second, _ = swept(text, tmp_path, base, shard='1/2')
  assert trained[2:] == ['epsilon=0.1']
  assert second.pending == []
  found = [row.fields['hparams.epsilon'] for row in second.rows]
  assert found == [0.05, 0.1, 0.2]
  assert sorted(second.groups[0].chunks) == [1, 2]
  # One with more values trains the new ones.
  more, _ = swept(text.replace('0.2', '0.2,0.3'), tmp_path, base)
  assert trained[3:] == ['epsilon=0.3']
  assert more.rows[:3] == second.rows
  # As after a kill between the attacks on two members.
  lost = tmp_path / first.rows[1].folder / 'result.json'
  lost.unlink()
  again, _ = swept(text, tmp_path, base)
  assert trained[4:] == ['epsilon=0.2']
  assert again.rows == second.rows
  assert again.groups == second.groups


@pytest.mark.parametrize(
  ('variant', 'batch_size', 'reason'),
  [
    ('fgsm_at', 32, 'learning_rate=1e+38: the loss is'),
    # In the last update alone: the losses were finite.
    ('standard', 300, 'logits that are not finite'),
  ],
)
def test_a_trial_that_diverges_leaves_a_row(
  variant, batch_size, reason, no_pages, tmp_path
):
  base = config(variant, batch_size=batch_size)
  report, _ = swept('hparams.learning_rate=0.01,1e38', tmp_path, base)
  done, diverged = report.rows
  assert done.status == 'done' and done.loss > 0
  assert diverged.status == 'diverged'
  assert reason in diverged.reason


def test_a_trial_that_another_program_trains_is_an_error(no_pages, tmp_path):
  folder = tmp_path / 'members' / 'epsilon=0.1'
  folder.mkdir(parents=True)
  with lock_folder(folder), pytest.raises(ValueError, match='another program'):
    swept('hparams.epsilon=0.05,0.1', tmp_path)
  assert not list(tmp_path.rglob('metrics.jsonl'))


def test_a_signal_stops_between_the_attacks_on_two_trials(
  no_pages, tmp_path, monkeypatch
):
  once = job.evaluate_models

  def signalled(*args, **kwargs):
    signal.raise_signal(signal.SIGTERM)
    return once(*args, **kwargs)

  text = 'hparams.epsilon=0.05,0.1'
  with monkeypatch.context() as patch:
    patch.setattr(job, 'evaluate_models', signalled)
    with pytest.raises(Interrupted):
      swept(text, tmp_path)
  results = sorted((tmp_path / 'members').glob('*/result.json'))
  assert [path.parent.name for path in results] == ['epsilon=0.05']
  trained = watched(monkeypatch)
  report, _ = swept(text, tmp_path)
  assert trained == ['epsilon=0.1']
  assert report.groups[0].chunks == [2]


@pytest.mark.parametrize(
  ('text', 'named'),
  [
    ('hparams.epsilom=0.1', 'epsilom'),
    ('num_validation=137,5000', 'num_validation'),
  ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(text, named, tmp_path):
  with pytest.raises(ValueError, match=named):
    swept(text, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


COMBINATIONS = 'optimizer.name=adam,sgd;hparams.learning_rate=0.1'

COMMAND = [
  sys.executable,
  '-m',
  'experiments.sweep',
  '--config=configs/digits.py:standard-smoke',
  '--config.model.name=logistic_regression',
  '--config.dataset.classes=(3,7)',
  '--config.hparams.learning_rate=0.01',
  '--config.evaluation.attacks=fgsm',
  f'--sweep={COMBINATIONS}',
  '--platform=cpu',
  '--devices=1',
]


def test_a_killed_sweep_repeats_no_finished_group(no_pages, tmp_path, caplog):
  """SIGKILL as soon as the first group is written; here it goes on."""
  workdir = tmp_path / 'run'
  command = [*COMMAND, f'--workdir={workdir}']
  with subprocess.Popen(
    command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
  ) as program:
    results = workdir / 'results.jsonl'
    deadline = time.monotonic() + 120
    while not results.exists() and time.monotonic() < deadline:
      assert program.poll() is None, program.stderr.read().decode()
      time.sleep(0.01)
    program.send_signal(signal.SIGKILL)
  rows = [json.loads(line) for line in results.read_text().splitlines()]
  assert [row['optimizer.name'] for row in rows] == ['adam']

  def finished():
    return {
      path: (path.stat().st_mtime_ns, path.stat().st_size)
      for row in rows
      for path in (workdir / row['folder']).rglob('*')
      # Written anew, the same, to see whether the folder can be written to.
      if path.is_file() and path.name != 'config.json'
    }

  before = finished()
  base = config('standard')
  base.evaluation.attacks = ('fgsm',)
  with caplog.at_level(logging.INFO):
    sweep(
      base,
      parse_sweep(COMBINATIONS, base),
      workdir,
      jax.devices()[:1],
      train_command=['./launch.sh', 'train', *cli.config_arguments(command)],
    )
  assert '2 trials in 2 groups; 1 of them done' in caplog.text
  assert finished() == before
  after = [json.loads(line) for line in results.read_text().splitlines()]
  assert after[:1] == rows
  assert [row['group'] for row in after] == [0, 1]
  assert len(list((workdir / 'members').iterdir())) == 2
