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

CASES = {
  'no config': (
    ['train'],
    r'--config = None; allowed: configs/FILE.py\[:variant\]',
  ),
  'no workdir': (DIGITS, r'--workdir=None.*must have a value'),
  'empty workdir': ([*DIGITS, '--workdir='], r'--workdir=: allowed: a folder'),
  'config not there': (
    ['train', '--config=configs/digit.py'],
    r"--config = 'configs/digit.py'; .*did you mean 'configs/digits.py'",
  ),
  'field': (
    [*DIGITS, '--config.num_epoch=3'],
    r"field of --config = 'num_epoch'; .*did you mean 'num_epochs'",
  ),
  'field of a number': (
    [*DIGITS, '--config.seed.x=1'],
    r'--config.seed = 0 has no fields; allowed: --config.seed=',
  ),
  'flag': ([*DIGITS, '--wrokdir=x'], r"Unknown command line flag 'wrokdir'"),
  'argument': ([*DIGITS, 'more'], r"arguments = 'more'; allowed: flags"),
  'text for a number': (
    [*DIGITS, '--config.batch_size=many'],
    r'config.batch_size=many',
  ),
  'workdir is a file': (
    [*DIGITS, '--workdir={}/file'],
    r"file' is a file; allowed: a folder",
  ),
  'workdir of another run': (
    [*DIGITS, '--workdir={}/other'],
    r'holds the output of another command',
  ),
  'compare one network': (
    ['compare', '--config=configs/digits.py'],
    r"members = \(\); .*belongs to 'train'",
  ),
  'no checkpoint given': (['evaluate'], r'checkpoint'),
  'variant of a config without': (
    ['goodfellow', '--config=configs/tiny_imagenet.py:nope'],
    r"variant = 'nope'; allowed: ",
  ),
  'nothing for a number': (
    [
      *(
        'train',
        '--config=configs/digits:standard',
        '--config.num_validation=',
      ),
    ],
    r'--config.num_validation = ; allowed: a value',
  ),
  'section': (
    [*DIGITS, '--config.model=mlp'],
    r'--config.model = mlp; allowed: a value of --config.model.FIELD',
  ),
  'seed': (
    [*DIGITS, '--config.seed=4294967296'],
    r'seed = 4294967296; allowed: an integer from 0 to 4294967295',
  ),
  'epsilon in linf': (
    [*DIGITS, '--config.hparams.epsilon=8'],
    r'hparams.epsilon = 8 .*; allowed: a number below 1, .*mean 8/255\?',
  ),
  'epsilon in l2': (
    [*DIGITS, '--config.evaluation.norm=l2', '--config.evaluation.epsilon=28'],
    r'evaluation.epsilon = 28 .*; allowed: a number below 28, ',
  ),
  'epsilon of a sweep': (
    ['sweep', *DIGITS[1:], '--sweep=hparams.epsilon=0.1,8,'],
    r"trial 'epsilon=8' .*hparams.epsilon = 8 .*allowed: a number below 1, ",
  ),
  'epsilon of a comparison': (
    [
      *('compare', '--config=configs/nsl_digits.py'),
      '--config.monitor.epsilon=1',
    ],
    r'monitor.epsilon = 1 .*; allowed: a number below 1, ',
  ),
  'home of nobody': (
    [*DIGITS, '--workdir=~nobody-at-all/x'],
    r'~nobody-at-all/x: there is no such home folder; allowed: ',
  ),
  'no folder for a benchmark': (
    ['benchmark', '--workdir=/proc/x'],
    r'/proc/x: No such file',
  ),
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
