"""What launch.sh starts, and how."""

import json
import pathlib
import shutil

import pytest

from tests.launch.projects import FIRST_START, ROOT


def test_main_job_is_the_default(ready):
  job = ready.job(folder=ready.elsewhere)
  default = [
    f'--config={ready.root}/configs/nsl_digits.py',
    f'--workdir={ready.root}/runs/nsl_digits',
  ]
  assert job['name'] == 'experiments.compare'
  assert job['arguments'] == default
  job = ready.job('--config.seed=1', 'two words')
  assert job['arguments'] == [*default, '--config.seed=1', 'two words']


def test_paths_are_the_callers_and_configs_the_projects(ready):
  arguments = ('train', '--config=configs/other.py:fast', '--workdir=my runs')
  job = ready.job(*arguments, folder=ready.elsewhere)
  assert job['folder'] == str(ready.elsewhere)
  assert job['arguments'] == [
    f'--config={ready.root}/configs/other.py:fast',
    '--workdir=my runs',
  ]
  (ready.elsewhere / 'configs').mkdir()
  (ready.elsewhere / 'configs/other.py').touch()
  job = ready.job(*arguments, folder=ready.elsewhere)
  assert job['arguments'] == list(arguments[1:])


def test_callers_folder_shadows_no_module(ready):
  (ready.elsewhere / 'json.py').write_text('raise SystemExit("shadowed")')
  (ready.elsewhere / 'experiments').mkdir()
  (ready.elsewhere / 'experiments/__init__.py').touch()
  job = ready.job('train', folder=ready.elsewhere)
  assert str(ready.elsewhere) not in job['path']
  assert '' not in job['path']


def test_activated_venv_and_settings_do_not_leak(project):
  active = project.elsewhere / 'bin'
  active.mkdir()
  project.add_python('python3', '3.11.7', folder=active)
  leaks = {
    'VIRTUAL_ENV': str(project.elsewhere),
    'PYTHONHOME': '/nonexistent',
    'PYTHONPATH': str(project.elsewhere),
    'PIP_TARGET': '/nonexistent',
    'HOME': '/nonexistent',
    'PATH': f'{active}:{project.bin}',
  }
  for calls in (FIRST_START, ['exp']):
    environment = project.job('train', **leaks)['environment']
    assert project.raw_calls()[-1].startswith(f'{project.root}/.venv/bin/')
    assert project.calls() == calls
    assert environment['PYTHONPATH'] == str(project.root)
    assert not {'VIRTUAL_ENV', 'PYTHONHOME', 'PIP_TARGET'} & set(environment)


def test_two_launches_at_once_set_up_once(project):
  pathlib.Path(f'{project.calls_file}.slow_pip').touch()
  processes = [project.start('train') for _ in range(2)]
  outputs = [process.communicate(timeout=60) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  assert sorted(project.calls()) == sorted([*FIRST_START, 'exp'])


def test_job_takes_the_launchers_place(project):
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


def test_test_runs_ruff_then_pytest_in_the_project(ready):
  ready.launch('test', folder=ready.elsewhere)
  assert ready.calls() == ['ruff', 'pytest']
  ready.launch('test', 'tests/data', '-k', 'a or b')
  call = ready.raw_calls()[0]
  assert call.endswith('-P -m pytest tests/data -k a or b')
  assert ready.calls() == ['pytest']
  ready.make_fail('ruff')
  ready.launch('test', code=1)
  assert ready.calls() == ['ruff']


def test_continuous_integration_runs_the_tests(ready):
  (ready.root / '.ci').mkdir()
  shutil.copy(ROOT / '.ci/run', ready.root / '.ci')
  ready.launch(launcher=ready.root / '.ci/run', folder=ready.elsewhere)
  assert ready.calls() == ['ruff', 'pytest']
