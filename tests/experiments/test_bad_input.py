"""Bad input: exit code 2, one clear line, nothing written."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# {} is a folder: 'new' in it is not there yet, 'file' is a file, 'other' holds
# another config's run. The workdir is {}/new where none is given.
DIGITS = ['train', '--config=configs/digits.py:pgd_at']
NSL = ['compare', '--config=configs/nsl_digits.py']
TIME = ['benchmarks.time_to_robust', '--config=configs/digits.py:standard']
EVALUATE = ['evaluate', '--checkpoint={}/other']

CASES = {
  'no config': (['train'], r'--config=configs/FILE.py\[:variant\] is missing'),
  'no workdir': (DIGITS, r'--workdir=None.*must have a value'),
  'empty workdir': ([*DIGITS, '--workdir='], r'--workdir=: is empty'),
  'empty workdir of evaluate': (
    ['evaluate', '--checkpoint={}/other', '--workdir='],
    r'--workdir=: is empty',
  ),
  'config not there': (
    ['train', '--config=configs/digit.py'],
    r"there is no file 'configs/digit.py'",
  ),
  'config without get_config': (
    ['train', '--config=experiments/__init__.py'],
    r'has no function get_config',
  ),
  'variant': (
    ['train', '--config=configs/digits.py:pgd_ta'],
    r"unknown variant 'pgd_ta'.*did you mean 'pgd_at'",
  ),
  'variant of nsl': (
    ['compare', '--config=configs/nsl_digits.py:smok'],
    r"unknown variant 'smok'.*did you mean 'smoke'",
  ),
  'field': (
    [*DIGITS, '--config.num_epoch=3'],
    r"unknown config field.*'num_epoch'.*did you mean 'num_epochs'",
  ),
  'field, apart': (
    [*DIGITS, '--config.num_epoch', '3'],
    r"unknown config field.*'num_epoch'.*did you mean 'num_epochs'",
  ),
  'negated field': (
    [*DIGITS, '--noconfig.optimizer.nesterof'],
    r"unknown config field.*'nesterof'.*did you mean 'nesterov'",
  ),
  'nested field': (
    [*DIGITS, '--config.hparams.epsilo=8/255'],
    r"unknown config field.*'epsilo'.*did you mean 'epsilon'",
  ),
  'field of a number': (
    [*DIGITS, '--config.seed.x=1'],
    r"there is no 'x' in a plain value",
  ),
  'flag': ([*DIGITS, '--wrokdir=x'], r"Unknown command line flag 'wrokdir'"),
  'argument': ([*DIGITS, 'more'], r'arguments not understood: more'),
  'text for a number': (
    [*DIGITS, '--config.batch_size=many'],
    r'config.batch_size=many',
  ),
  'part for a whole': (
    [*DIGITS, '--config.batch_size=1.5'],
    r'config.batch_size=1.5',
  ),
  'fraction by zero': (
    [*DIGITS, '--config.hparams.epsilon=8/0'],
    r"not a number: '8/0'",
  ),
  'negative epsilon': (
    [*DIGITS, '--config.hparams.epsilon=-8/255'],
    r'hparams.epsilon = -0.0313\d*; allowed: a finite number >= 0',
  ),
  'no steps': (
    [*DIGITS, '--config.objective.num_steps=0'],
    r'num_steps = 0; allowed: an integer >= 1',
  ),
  'objective': (
    [*DIGITS, '--config.objective.name=pdg_at'],
    r"unknown objective 'pdg_at'.*did you mean 'pgd_at'",
  ),
  'norm': (
    [*DIGITS, '--config.objective.norm=l3'],
    r"unknown norm 'l3'; allowed: 'l1', 'l2', 'linf'",
  ),
  'hparam that is not read': (
    [
      'train',
      '--config=configs/digits.py:trades',
      '--config.objective.name=pgd_at',
    ],
    r'hparams.beta = 6.0 is not read by .*pgd_at.*reads learning_rate, epsilon',
  ),
  'hparam that is missing': (
    [*DIGITS, '--config.objective.name=trades'],
    r'hparams.beta is missing: .*trades.* reads learning_rate, epsilon',
  ),
  'model': (
    [*DIGITS, '--config.model.name=cnm'],
    r"unknown model 'cnm'.*did you mean 'cnn'",
  ),
  'data set': (
    [*DIGITS, '--config.dataset.name=digit'],
    r"unknown data set 'digit'.*did you mean 'digits'",
  ),
  'npz without a path': (
    [*DIGITS, '--config.dataset.name=npz'],
    r"data set 'npz' needs the field 'path'",
  ),
  'npz not there': (
    [*DIGITS, '--config.dataset.name=npz', '--config.dataset.path={}/a.npz'],
    r'a.npz: there is no such file',
  ),
  'npz that is none': (
    [*DIGITS, '--config.dataset.name=npz', '--config.dataset.path={}/file'],
    r'invalid or truncated .npz file',
  ),
  'optimizer': (
    [*DIGITS, '--config.optimizer.name=adma'],
    r"unknown optimizer 'adma'.*did you mean 'adam'",
  ),
  'schedule': (
    [*DIGITS, '--config.schedule.name=cosin'],
    r"unknown schedule 'cosin'.*did you mean 'cosine'",
  ),
  'attack': (
    [*DIGITS, "--config.evaluation.attacks=('fgms',)"],
    r"unknown attack 'fgms'; allowed: NAME",
  ),
  'steps of an attack': (
    [*DIGITS, "--config.evaluation.attacks=('pgd-0',)"],
    r"attack 'pgd-0' is not of the form",
  ),
  'norm of the evaluation': (
    [*DIGITS, '--config.evaluation.norm=l3'],
    r"norm = 'l3'; allowed",
  ),
  'negative epsilon of the evaluation': (
    [*DIGITS, '--config.evaluation.epsilon=-0.1'],
    r'evaluation.epsilon = -0.1; allowed',
  ),
  'bounds that images lie outside of': (
    [*DIGITS, '--config.evaluation.bounds=(0.25, 0.75)'],
    r'evaluation.bounds = .*; allowed: two numbers, at most 0 and at least 1',
  ),
  'bounds that are none': (
    [*DIGITS, '--config.evaluation.bounds=None'],
    r'evaluation.bounds = .*None.*; allowed: two numbers',
  ),
  'a seed twice': (
    [*DIGITS, '--config.seeds=1,1'],
    r'seeds = \(1, 1\); allowed: each seed once',
  ),
  'no epsilons': (
    [*DIGITS, '--config.evaluation.epsilons=()'],
    r'evaluation.epsilons = \(\); allowed',
  ),
  'batch smaller than the devices': (
    [*DIGITS, '--config.batch_size=1', '--devices=2'],
    r'batch_size = 1; allowed: at least the number of devices, 2',
  ),
  'more held out than there is': (
    [*DIGITS, '--config.num_validation=1437'],
    r'num_validation = 1437; allowed: \[0, 1437\)',
  ),
  'best of none held out': (
    [*DIGITS, '--config.num_validation=0'],
    r'needs num_validation > 0',
  ),
  'platform': (
    [*DIGITS, '--platform=tpu'],
    r"platform = 'tpu' was asked for, but JAX finds no such device",
  ),
  'unknown platform': ([*DIGITS, '--platform=gpx'], r'--platform=gpx'),
  'no devices': ([*DIGITS, '--devices=0'], r'devices = 0; allowed'),
  'init_from nowhere': (
    [*DIGITS, '--config.init_from={}/new'],
    r'no checkpoint found in',
  ),
  'workdir is a file': (
    [*DIGITS, '--workdir={}/file'],
    r"file' is a file; give a folder",
  ),
  'workdir below a file': (
    [*DIGITS, '--workdir={}/file/new'],
    r'cannot be written to: Not a directory',
  ),
  'workdir of another run': (
    [*DIGITS, '--workdir={}/other'],
    r'holds a run of another config \(',
  ),
  'workdir of another comparison': (
    [*NSL, '--workdir={}/other'],
    r'holds a run of another config \(',
  ),
  'compare one network': (
    ['compare', '--config=configs/digits.py'],
    r"no members to compare.*belongs to 'train'",
  ),
  'train several networks': (
    ['train', '--config=configs/nsl_digits.py'],
    r"has members, base, adversarial: it belongs to 'compare'",
  ),
  'hparam of a member': (
    [*NSL, '--config.adversarial.hparams.step_size=-1'],
    r'hparams.step_size = -1.0; allowed',
  ),
  'member that is not there': (
    [*NSL, "--config.members=('base', 'robust')"],
    r"section for member 'robust'",
  ),
  'seed of a time': ([*TIME, '--seeds=0,x'], r"seeds: \['0', 'x'\]; allowed"),
  'target of a time': ([*TIME, '--target=45'], r'target = 45.0; allowed: .* 1'),
  'attack of a time': ([*TIME, '--attacks=pdg'], r"unknown attack 'pdg'"),
  'images of a time': (
    [*TIME, '--num_images=361'],
    r'num_images = 361; allowed: an integer from 1 to 360',
  ),
  'time to the best checkpoint': (
    [TIME[0], '--config=configs/digits.py:pgd_at'],
    r"report_checkpoint = 'best'; allowed: 'last'",
  ),
  'no checkpoint given': (['evaluate'], r'checkpoint'),
  'checkpoint not there': (
    ['evaluate', '--checkpoint={}/new'],
    r"no checkpoint found in '.*new'",
  ),
  'workdir without a checkpoint': (EVALUATE, r"no checkpoint found in '.*othe"),
  'attack of evaluate': (
    [*EVALUATE, '--attacks=fgsm,pdg'],
    r"unknown attack 'pdg'",
  ),
  'attack named twice': (
    [*EVALUATE, '--attacks=pgd,pgd'],
    r'one attack or more, each named once',
  ),
  'norm of evaluate': ([*EVALUATE, '--norm=l0'], r"norm = 'l0'; allowed"),
  'epsilon of evaluate': (
    [*EVALUATE, '--epsilons=0.1,-0.1'],
    r'epsilons\[1\] = -0.1; allowed',
  ),
  'text for an epsilon': (
    [*EVALUATE, '--epsilons=8/x'],
    r"not a number: '8/x'",
  ),
  'no epsilons of evaluate': ([*EVALUATE, '--epsilons='], r'epsilons|number'),
  'step size of evaluate': ([*EVALUATE, '--step_size=0'], r'step_size = 0.0'),
  'batch size of evaluate': (
    [*EVALUATE, '--batch_size=0'],
    r'batch_size = 0; allowed',
  ),
  'seed of evaluate': ([*EVALUATE, '--seed=-1'], r'seed = -1; allowed'),
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """Name -> (what the command left, its folder)."""
  folders = {name: tmp_path_factory.mktemp('bad') for name in CASES}
  commands = []
  for name, (command, _) in CASES.items():
    folder = folders[name]
    (folder / 'file').write_text('precious')
    (folder / 'other').mkdir()
    (folder / 'other' / 'config.json').write_text('{"seed": 7}')
    arguments = [argument.replace('{}', str(folder)) for argument in command]
    given = any(argument.startswith('--workdir') for argument in arguments)
    if not given and name != 'no workdir':
      arguments.append(f'--workdir={folder}/new')
    commands.append(arguments)
  # Not in the project: a command that is not stopped would write there.
  elsewhere = tmp_path_factory.mktemp('elsewhere')
  for name in ('configs', 'experiments'):
    (elsewhere / name).symlink_to(ROOT / name)
  finished = subprocess.run(
    [sys.executable, '-m', 'tests.experiments.commands'],
    check=True,
    cwd=elsewhere,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    input=json.dumps(commands),
    stdout=subprocess.PIPE,
    text=True,
    timeout=300,
  )
  return dict(
    zip(
      CASES,
      zip(json.loads(finished.stdout), folders.values(), strict=True),
      strict=True,
    )
  )


@pytest.mark.parametrize('name', CASES)
def test_bad_input(results, name):
  result, folder = results[name]
  assert result['code'] == 2, result['stderr']
  lines = result['stderr'].splitlines()
  assert 'Traceback' not in result['stderr']
  # Beside the error there is at most the line that names the devices.
  errors = [line for line in lines if not line.startswith('devices: ')]
  assert len(errors) == 1, result['stderr']
  assert errors[0].startswith('error: ')
  assert re.search(CASES[name][1], errors[0]), errors[0]
  assert result['stdout'] == ''
  # And nothing was written, or written over.
  assert sorted(path.name for path in folder.iterdir()) == ['file', 'other']
  assert (folder / 'file').read_text() == 'precious'
  other = list((folder / 'other').iterdir())
  assert [path.name for path in other] == ['config.json']
  assert other[0].read_text() == '{"seed": 7}'
