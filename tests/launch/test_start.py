"""What launch.sh starts, and how."""

import json
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_help_lists_every_experiment_without_set_up(project):
  output, errors = project.launch('--help')
  assert '  train        Would train models.\n' in output
  assert errors == ''
  assert project.calls() == []
  command = [ROOT / 'launch.sh', '-h']
  output = subprocess.run(
    command, capture_output=True, text=True, check=True
  ).stdout
  experiments = list((ROOT / 'experiments').glob('[a-z]*.py'))
  assert experiments
  for file in experiments:
    summary = file.read_text().split('"""')[1].splitlines()[0]
    assert f'  {file.stem:<12} {summary}\n' in output


@pytest.mark.parametrize(
  ('name', 'suggestion'),
  [
    ('comapre', '; did you mean compare?'),
    ('train.py', '; did you mean train?'),
    ('../compare', ''),
    ('__init__', ''),
  ],
)
def test_unknown_experiments(project, name, suggestion):
  _, errors = project.launch(name, '--workdir=x', code=2)
  assert errors == (
    f"launch.sh: error: unknown experiment '{name}'; allowed: benchmark "
    f'compare evaluate train{suggestion}\n'
  )
  assert project.calls() == []


def test_the_default_experiment(ready):
  job = ready.job('--config.seed=1', 'two words', folder=ready.elsewhere)
  assert job['name'] == 'experiments.compare'
  assert job['arguments'] == [
    f'--config={ready.root}/configs/nsl_digits.py',
    f'--workdir={ready.root}/runs/nsl_digits',
    '--config.seed=1',
    'two words',
  ]


def test_paths_are_the_callers(ready):
  arguments = ('train', '--config=configs/other.py:fast', '--workdir=my runs')
  job = ready.job(*arguments, folder=ready.elsewhere)
  assert job['folder'] == str(ready.elsewhere)
  assert job['arguments'] == list(arguments[1:])


def test_the_callers_folder_shadows_no_module(ready):
  (ready.elsewhere / 'json.py').write_text('raise SystemExit("shadowed")')
  job = ready.job('train', folder=ready.elsewhere)
  assert not {str(ready.elsewhere), ''} & set(job['path'])


def test_an_activated_venv_and_settings_do_not_leak(project):
  active = project.elsewhere / 'bin'
  active.mkdir()
  project.add_python('python3', '3.11.7', folder=active)
  leaks = {
    'VIRTUAL_ENV': str(project.elsewhere),
    'PYTHONHOME': '/nonexistent',
    'PYTHONPATH': str(project.elsewhere),
    'PIP_TARGET': '/nonexistent',
    'PATH': f'{active}:{project.bin}',
  }
  for _ in range(2):
    environment = project.job('train', **leaks)['environment']
    assert project.raw_calls()[-1].startswith(f'{project.root}/.venv/bin/')
    # Of the caller's settings this alone: where the caller's modules are.
    assert environment['ADVJAX_PYTHONPATH'] == str(project.elsewhere)
    assert environment['PYTHONPATH'] == str(project.root)
    assert not {'VIRTUAL_ENV', 'PYTHONHOME', 'PIP_TARGET'} & set(environment)
  root = str(project.root)
  assert project.paths() == ['', '', root, root]  # venv, pip, train, train
  project.launch('test', 'tests/data', **leaks)
  assert project.paths()[4:] == [root]


def test_the_job_replaces_the_launcher(project):
  process = project.start('train', EXIT_CODE='7')
  job = json.loads(process.communicate(timeout=60)[0])
  assert process.returncode == 7
  assert job['process'] == process.pid  # So signals reach it.
  assert not job['holds_lock']


@pytest.mark.parametrize('how', ['symbolic link', 'sh'])
def test_other_ways_to_call_it(ready, how):
  if how == 'sh':
    job = ready.job('launch.sh', 'train', launcher='sh')
  else:
    (ready.elsewhere / 'start').symlink_to(ready.root / 'launch.sh')
    job = ready.job('train', launcher=ready.elsewhere / 'start')
  assert job['environment']['PYTHONPATH'] == str(ready.root)


def test_several_processes_are_left_to_the_launcher_module(ready):
  ready.launch('train', '--config.seed=1', '--processes=2', 'two words')
  python = f'{ready.root}/.venv/bin/python'
  assert ready.raw_calls() == [
    f'{python} -P -m advjax.processes.launcher 2 {python} -P '
    '-m experiments.train --config.seed=1 two words'
  ]
  job = ready.job('--processes=1', 'train', '--config.seed=1')
  assert job['arguments'] == ['--config.seed=1']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--processes=0', 'train'], '--processes = 0; allowed: an integer >= 1'),
    (['--processes=', 'train'], '--processes = ; allowed: an integer >= 1'),
    (['--processes=1.5'], '--processes = 1.5; allowed: an integer >= 1'),
    (
      ['train', '--processes', '2'],
      '--processes = ; allowed: --processes=N, in one word',
    ),
    (['--processes=2', 'test'], '--processes = 2; allowed: 1 for the tests'),
  ],
)
def test_wrong_numbers_of_processes(ready, arguments, message):
  _, errors = ready.launch(*arguments, code=2)
  assert errors == f'launch.sh: error: {message}\n'
  assert ready.calls() == []


def test_continuous_integration_runs_all_checks(ready):
  (ready.root / '.ci').mkdir()
  shutil.copy(ROOT / '.ci/run', ready.root / '.ci')
  _, errors = ready.launch(
    launcher=ready.root / '.ci/run', folder=ready.elsewhere
  )
  assert errors == ''
  ruff, also_ruff, *others = ready.calls()
  assert (ruff, also_ruff, sorted(others)) == (
    'ruff',
    'ruff',
    ['mypy', 'pytest'],
  )


@pytest.mark.parametrize('module', ['ruff', 'mypy', 'pytest'])
def test_each_check_can_fail(ready, module):
  ready.make_fail(module)
  output, errors = ready.launch('test', code=1)
  assert f'{module} broke' in output + errors
  if module != 'pytest':
    assert f"launch.sh: error: '{module}" in errors
  assert ('pytest' in ready.calls()) == (module != 'ruff')


def test_some_of_the_tests_run_without_the_linters(ready):
  ready.launch('test', 'tests/data', '-k', 'a or b', folder=ready.elsewhere)
  (call,) = ready.raw_calls()
  assert call.endswith('-P -m pytest tests/data -k a or b')
