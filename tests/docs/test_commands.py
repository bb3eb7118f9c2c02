"""Every command in README.md and docs/ names what is there."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

from advjax import commands
from tests.docs import pages

COMMANDS = [
  (page, command) for page in pages.PAGES for command in pages.commands(page)
]
# Wrong in one thing each: the check must find it.
BAD = [
  ['compare', '--config=configs/nsl.py', '--workdir=runs/a'],
  ['compare', '--config=configs/nsl_digits.py'],
  [
    'train',
    '--config=configs/digits.py:standard',
    '--workdir=a',
    '--config.hparams.epsilon=8/255',
  ],
  ['evaluate', '--checkpoint=a', '--workdir=b', '--attacks=fgsm-20'],
  ['evaluate', '--checkpoint=a', '--workdir=b', '--epsilons=8/255,wide'],
  ['benchmark', '--workdir=a', '--objectives=nsl'],
]


def check(commands: list[list[str]]) -> list[tuple[int, str]]:
  """Reads commands in a process of their own: flags are global."""
  result = subprocess.run(
    [sys.executable, '-m', 'tests.docs.check_commands'],
    input=json.dumps(commands),
    capture_output=True,
    text=True,
    cwd=pages.ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': f'{pages.ROOT}:{pages.ROOT}/docs',
    },
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  return [(code, output) for code, output in json.loads(result.stdout)]


def write_own_images(path):
  """Writes the file that a command names, with images of one's own."""
  images = np.zeros((200, 28, 28, 1), np.uint8)
  labels = np.arange(200) % 10
  np.savez(
    path,
    train_images=images,
    train_labels=labels,
    test_images=images,
    test_labels=labels,
  )


def write_own_folder(path):
  """The same as a folder of images, all alike."""
  for label in range(10):
    (path / str(label)).mkdir(parents=True)
    for number in range(60):
      image = path / str(label) / f'{number}.png'
      Image.new('RGB', (64, 64)).save(image)


def batch_commands():
  """Returns what the batch scripts run, their variables filled in."""
  variables = {'SLURM_ARRAY_TASK_ID': '0', 'SLURM_ARRAY_TASK_COUNT': '2'}
  found = []
  for script in sorted((pages.ROOT / 'docs' / 'cluster').glob('*.sbatch')):
    text = script.read_text().replace('\\\n', ' ')
    text = re.sub(
      r'\$(SLURM_\w+)', lambda match: variables.get(match[1], '1'), text
    )
    (command,) = re.findall(
      r'^(?:srun )?\./launch\.sh (.*?)(?: \|\|.*)?$', text, re.M
    )
    found.append(shlex.split(command))
  return found


def test_launched_commands_are_understood(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  write_own_images(tmp_path / 'mine.npz')
  write_own_folder(tmp_path / 'folder')
  own = {
    '--config.dataset.path=mine.npz': 'mine.npz',
    '--config.dataset.path=~/photos': 'folder',
    '--config.dataset.path=tiny-imagenet-200.zip': 'folder',
  }
  good = [
    [
      f'--config.dataset.path={tmp_path / own[a]}' if a in own else a
      for a in arguments
    ]
    for _, command in COMMANDS
    if (arguments := pages.launched(command)) is not None
  ]
  assert len(good) >= 8
  of_scripts = batch_commands()
  assert len(of_scripts) == 2
  good += of_scripts
  for page, command in COMMANDS:
    if command[0] == 'advjax' and (arguments := pages.launched(command)):
      assert arguments[0] in commands.COMMANDS, page
  for arguments in good:
    experiment = pages.ROOT / 'experiments' / f'{arguments[0]}.py'
    assert experiment.is_file(), arguments
  results = check([*good, *BAD])
  for arguments, (code, output) in zip(good, results, strict=False):
    assert code == 0, f'{" ".join(arguments)}\n{output}'
  for arguments, (code, output) in zip(BAD, results[len(good) :], strict=True):
    assert code == 2, f'{" ".join(arguments)}\n{output}'
    assert 'error:' in output and 'Traceback' not in output


def test_every_experiment_has_its_line():
  shown = {
    arguments[0]
    for page, command in COMMANDS
    if page.name == 'README.md' and (arguments := pages.launched(command))
  }
  there = {path.stem for path in (pages.ROOT / 'experiments').glob('[a-z]*.py')}
  assert shown == there


@pytest.mark.parametrize(
  ('page', 'command'),
  [
    pytest.param(page, command, id=f'{page.name}: {" ".join(command)}')
    for page, command in COMMANDS
    if pages.launched(command) is None
  ],
)
def test_other_commands_name_what_is_there(page, command):
  program, *arguments = command
  if program in ('./launch.sh', 'advjax'):
    assert arguments[0] in ('test', '--help')
    paths = [a for a in arguments[1:] if not a.startswith('-')]
  elif program == 'pip':
    assert arguments[0] == 'install'
    extras = re.findall(r'\[([\w,]+)\]', ' '.join(arguments))
    project = tomllib.loads((pages.ROOT / 'pyproject.toml').read_text())
    there = project['project']['optional-dependencies']
    assert {e for group in extras for e in group.split(',')} <= set(there)
    return
  else:
    assert program == '.venv/bin/python', f'what does {command} run?'
    paths = arguments[:1]
    if paths == ['-m']:
      module = arguments[1].replace('.', '/')
      alone = (pages.ROOT / f'{module}.py').exists()
      paths = [f'{module}.py' if alone else f'{module}/__main__.py']
  for path in paths:
    assert (pages.ROOT / path).exists(), command


@pytest.mark.parametrize('page', pages.PAGES, ids=lambda page: page.name)
def test_variants_are_there(page):
  named = re.findall(r'(configs/\w+\.py)(?::([\w-]+))?', page.read_text())
  for path, variant in set(named):
    module = importlib.import_module(path.removesuffix('.py').replace('/', '.'))
    module.get_config(*[variant] if variant else [])
