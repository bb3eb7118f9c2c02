"""Tests of launch.sh itself, in a copy of the project with a stub for Python.

The stub records how it is called. It answers the launcher's questions with the
real interpreter, and stands in for venv, pip, ruff and pytest: no network, and
nothing is installed.
"""

import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from glob import glob

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# fmt: off
TOOLS = [
  'awk', 'bash', 'cat', 'cp', 'dirname', 'env', 'grep', 'ls', 'mkdir', 'mv',
  'paste', 'readlink', 'rm', 'sed', 'sh', 'sleep', 'tail',
]
# fmt: on

STUB = r"""#!/usr/bin/env bash
# What a Python {version} would do. Files beside it make venv or pip fail.
case "$*" in
  *sys.version_info* | *fcntl*)
    exec {real} -I -S -c "
import sys
sys.version_info = tuple(map(int, '{version}'.split('.')))
sys._base_executable = '$0'
if not {has_venv}:
  sys.modules['ensurepip'] = None
${{@: -1}}" ;;
esac
echo "$0 $*" >> "$CALLS"
case "$*" in
  '-m venv --clear '*)
    [[ ! -e $CALLS.no_venv ]] || {{ echo 'venv broke'; exit 1; }}
    rm -rf "${{@: -1}}"
    mkdir -p "${{@: -1}}/bin"
    cp "$0" "${{@: -1}}/bin/python" ;;
  '-m pip install '*)
    [[ ! -e $CALLS.no_pip ]] || {{
      echo 'WARNING: Retrying'; echo 'ERROR: No matching jax'; exit 1; }}
    [[ ! -e $CALLS.slow_pip ]] || sleep 1 ;;
  '-m ruff '*) [[ ! -e $CALLS.no_ruff ]] ;;
  '-P -m experiments.'*) exec {real} "$@" ;;
esac
"""

EXPERIMENT = '''"""{summary}

More about it.
"""

import json
import os
import sys


def is_open(descriptor):
  try:
    os.fstat(descriptor)
  except OSError:
    return False
  return True


if __name__ == '__main__':
  print(json.dumps({{
    'name': __spec__.name, 'arguments': sys.argv[1:], 'folder': os.getcwd(),
    'path': sys.path, 'environment': dict(os.environ), 'process': os.getpid(),
    'holds_lock': is_open(9),
  }}))
  sys.exit(int(os.environ.get('EXIT_CODE', 0)))
'''


class Project:
  """A copy of the project that the tests launch, and what was called."""

  def __init__(self, folder: pathlib.Path):
    self.root = folder / 'a project'
    self.bin = folder / 'bin'
    self.elsewhere = folder / 'else where'
    self.calls_file = folder / 'calls'
    for path in ('experiments', 'configs'):
      (self.root / path).mkdir(parents=True)
    self.bin.mkdir()
    self.elsewhere.mkdir()
    for name in ('launch.sh', 'requirements.txt'):
      shutil.copy(ROOT / name, self.root)
    for name in ('nsl_digits', 'other'):
      (self.root / f'configs/{name}.py').touch()
    for name in ('benchmark', 'compare', 'evaluate', 'train'):
      source = EXPERIMENT.format(summary=f'Would {name} models.')
      (self.root / f'experiments/{name}.py').write_text(source)
    (self.root / 'experiments/__init__.py').touch()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(shutil.which(tool))
    self.add_python('python3.12')
    self.environment = {
      'PATH': str(self.bin),
      'CALLS': str(self.calls_file),
      'JAX_PLATFORMS': 'cpu',
    }

  def add_python(self, name, version='3.12.1', has_venv=True, folder=None):
    """Puts a stub on the PATH, or into another folder."""
    path = (folder or self.bin) / name
    path.write_text(
      STUB.format(
        version=version, has_venv=has_venv, real=shlex.quote(sys.executable)
      )
    )
    path.chmod(0o755)
    return path

  def add_tool(self, name, script):
    """Puts a shell script on the PATH."""
    (self.bin / name).write_text(f'#!/usr/bin/env bash\n{script}\n')
    (self.bin / name).chmod(0o755)

  def start(self, *arguments, folder=None, launcher=None, **environment):
    """Starts the launcher."""
    return subprocess.Popen(
      [launcher or self.root / 'launch.sh', *arguments],
      cwd=folder or self.root,
      env=self.environment | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def launch(self, *arguments, code=0, **options):
    """Runs the launcher to its end; returns what it wrote to both streams."""
    process = self.start(*arguments, **options)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    return output, errors

  def job(self, *arguments, **options):
    """Runs the launcher; returns what the experiment saw."""
    return json.loads(self.launch(*arguments, **options)[0])

  def calls(self):
    """Returns the calls since the last time, shortened to their gist."""
    if not self.calls_file.exists():
      return []
    lines = self.calls_file.read_text().splitlines()
    self.calls_file.unlink()
    gist = ('-m venv', '-m pip install', '-m ruff', '-m pytest', '-m exp')
    return [next(g[3:] for g in gist if g in line) for line in lines]

  def raw_calls(self):
    """Returns the calls as they were made."""
    return self.calls_file.read_text().splitlines()

  def make_fail(self, what):
    """Lets the stub's venv, pip or ruff fail from now on."""
    pathlib.Path(f'{self.calls_file}.no_{what}').touch()

  def make_work(self, what):
    """Lets it work again."""
    pathlib.Path(f'{self.calls_file}.no_{what}').unlink()

  @property
  def stamp(self):
    return self.root / '.venv/launch-stamp'


FIRST_START = ['venv', 'pip install', 'exp']


@pytest.fixture
def project(tmp_path) -> Project:
  return Project(tmp_path)


@pytest.fixture
def ready(project) -> Project:
  """A project that was set up before."""
  project.launch('train')
  assert project.calls() == FIRST_START
  return project


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_lists_every_experiment_without_set_up(project, flag):
  output, errors = project.launch(flag)
  for name in ('benchmark', 'compare', 'evaluate', 'train'):
    assert f'  {name:<12} Would {name} models.\n' in output
  assert '__init__' not in output
  assert errors == ''
  assert project.calls() == []


def test_help_finds_the_docstrings_of_the_real_experiments():
  output = subprocess.run(
    [ROOT / 'launch.sh', '--help'],
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  ).stdout
  experiments = list((ROOT / 'experiments').glob('[a-z]*.py'))
  assert experiments
  for file in experiments:
    summary = file.read_text().split('"""')[1].splitlines()[0]
    assert f'  {file.stem:<12} {summary}\n' in output


@pytest.mark.parametrize(
  ('name', 'suggestion'),
  [
    ('comapre', 'did you mean compare?'),
    ('eval', 'did you mean evaluate?'),
    ('train.py', 'did you mean train?'),
    ('../compare', None),
    ('__init__', None),
    ('configs/nsl_digits.py', 'did you mean compare?'),
  ],
)
def test_unknown_experiment_names_the_known(project, name, suggestion):
  output, errors = project.launch(name, '--workdir=x', code=2)
  assert output == ''
  assert f"unknown experiment '{name}'" in errors
  assert 'known are: benchmark compare evaluate train' in errors
  assert ('did you mean' in errors) == (suggestion is not None)
  assert (suggestion or '') in errors
  assert project.calls() == []


def test_unknown_config_names_the_known(project):
  _, errors = project.launch('train', '--config=configs/nsl.py:x', code=2)
  assert "no config file 'configs/nsl.py'" in errors
  assert 'configs/nsl_digits.py configs/other.py' in errors
  assert project.calls() == []


def test_first_start_sets_up_then_runs(project):
  output, errors = project.launch('train', '--workdir=w')
  job = json.loads(output)
  assert job['name'] == 'experiments.train'
  assert job['arguments'] == ['--workdir=w']
  venv, pip, run = project.raw_calls()
  python = project.root / '.venv/bin/python'
  assert venv.endswith(f'-m venv --clear {project.root}/.venv')
  assert pip.startswith(f'{python} -m pip install --quiet')
  assert pip.endswith(f'-r {project.root}/requirements.txt')
  assert run.startswith(f'{python} -P -m experiments.train')
  before, after = errors.splitlines()
  assert 'setting up .venv (Python 3.12, jax for cpu)' in before
  assert '.venv is ready' in after


def test_second_start_installs_nothing_and_is_silent(ready):
  _, errors = ready.launch('train')
  assert errors == ''
  assert ready.calls() == ['exp']


def test_changed_requirements_are_installed_into_the_same_venv(ready):
  with open(ready.root / 'requirements.txt', 'a') as file:
    file.write('einops\n')
  ready.launch('train')
  assert ready.calls() == ['pip install', 'exp']
  ready.launch('train')
  assert ready.calls() == ['exp']


def test_failed_update_leaves_no_venv_that_passes_for_whole(ready):
  with open(ready.root / 'requirements.txt', 'a') as file:
    file.write('einops\n')
  ready.make_fail('pip')
  ready.launch('train', code=1)
  assert ready.calls() == ['pip install']
  assert not ready.stamp.exists()
  ready.make_work('pip')
  ready.launch('train')
  assert ready.calls() == FIRST_START


@pytest.mark.parametrize('stamp', [None, '', '3.12 cpu\n', '3.11 cpu\njax\n'])
def test_half_made_venv_is_made_anew(ready, stamp):
  ready.stamp.unlink()
  (ready.root / '.venv/leftover').touch()
  ready.launch('train')
  assert ready.calls() == FIRST_START
  assert not (ready.root / '.venv/leftover').exists()
  if stamp is not None:
    ready.stamp.write_text(stamp)
    ready.launch('train')
    assert ready.calls()[-2:] == ['pip install', 'exp']


def test_venv_whose_python_is_gone_is_made_anew(ready):
  python = ready.root / '.venv/bin/python'
  python.unlink()
  python.symlink_to('/nonexistent/python3.12')
  ready.launch('train')
  assert ready.calls() == FIRST_START


def test_failed_install_is_one_clear_message(project):
  project.make_fail('pip')
  output, errors = project.launch('train', code=1)
  assert output == ''
  assert errors.count('error:') == 1
  assert 'installing requirements.txt failed' in errors
  assert errors.endswith('PyPI):\nERROR: No matching jax\n')
  assert project.calls() == ['venv', 'pip install']
  project.make_work('pip')
  project.launch('train')
  assert project.calls() == FIRST_START


def test_failed_venv_is_one_clear_message(project):
  project.make_fail('venv')
  _, errors = project.launch('train', code=1)
  assert errors.count('error:') == 1
  assert 'making .venv failed: venv broke' in errors
  assert project.calls() == ['venv']


def test_folder_that_cannot_be_written_is_said(project):
  (project.root / '.venv.lock').mkdir()  # Stops root, too, from writing it.
  _, errors = project.launch('train', code=1)
  assert errors.count('\n') == 1
  assert f"cannot write to '{project.root}'" in errors


def test_too_old_python_is_said(project):
  (project.bin / 'python3.12').unlink()
  project.add_python('python3', version='3.10.14')
  _, errors = project.launch('train', code=1)
  assert errors.count('\n') == 1
  assert 'Python 3.11 or newer is needed' in errors
  assert 'python3 is 3.10' in errors
  assert project.calls() == []


def test_missing_python_is_said(project):
  (project.bin / 'python3.12').unlink()
  _, errors = project.launch('train', code=1)
  assert errors.count('\n') == 1
  assert 'tried: python3.13 python3.12 python3.11 python3)' in errors


def test_missing_venv_module_is_said(project):
  project.add_python('python3.12', has_venv=False)
  _, errors = project.launch('train', code=1)
  assert errors.count('\n') == 1
  assert 'Python 3.12 lacks its venv module' in errors
  assert 'apt install python3.12-venv' in errors
  assert project.calls() == []


def test_a_python_that_will_do_is_found_behind_others(project):
  project.add_python('python3.13', version='3.13.0', has_venv=False)
  project.add_python('python3.12', version='3.10.1')
  project.add_python('python3', version='3.14.0')
  _, errors = project.launch('train')
  assert 'Python 3.14' in errors


def test_python_variable_chooses_the_interpreter(ready):
  python = ready.add_python('python', '3.11.7', folder=ready.elsewhere)
  _, errors = ready.launch('train', PYTHON=str(python))
  assert 'Python 3.11' in errors
  assert ready.calls() == FIRST_START
  ready.launch('train', PYTHON=str(python))
  ready.launch('train')
  assert ready.calls() == ['exp', 'exp']
  _, errors = ready.launch('train', PYTHON='/nonexistent/python', code=1)
  assert '/nonexistent/python' in errors
  assert ready.stamp.exists()


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


@pytest.mark.skipif(
  bool(glob('/dev/accel[0-9]*') + glob('/dev/vfio/[0-9]*')),
  reason='the machine has a TPU, or what looks like one',
)
@pytest.mark.parametrize(
  ('nvidia_smi', 'variables', 'build'),
  [
    (None, {}, 'cpu'),
    ('echo 580.65.06, 9.0', {}, 'cuda13'),
    ('echo 595.1, 12.0', {}, 'cuda13'),
    ('echo 570.124.06, 9.0', {}, 'cuda12'),
    ('echo 580.65.06, 7.0', {}, 'cuda12'),
    ('echo 580.65.06, 9.0; echo 580.65.06, 7.0', {}, 'cuda12'),
    ('echo 470.82.01, 7.5', {}, 'cpu'),
    ('echo NVIDIA-SMI has failed; exit 9', {}, 'cpu'),
    ('exit 6', {}, 'cpu'),
    ('echo 580.65.06, 9.0', {'JAX_PLATFORMS': 'cpu'}, 'cpu'),
    (None, {'TPU_ACCELERATOR_TYPE': 'v5litepod-8'}, 'tpu'),
  ],
)
def test_jax_build_fits_the_machine(project, nvidia_smi, variables, build):
  if nvidia_smi:
    project.add_tool('nvidia-smi', nvidia_smi)
  _, errors = project.launch('train', **{'JAX_PLATFORMS': ''} | variables)
  pip = project.raw_calls()[1]
  assert f'jax for {build})' in errors
  assert pip.endswith('txt' if build == 'cpu' else f'txt jax[{build}]')


def test_accelerator_that_appears_is_used_and_one_that_is_gone_harms_not(ready):
  ready.add_tool('nvidia-smi', 'echo 580.65.06, 9.0')
  ready.launch('train', JAX_PLATFORMS='')
  assert ready.calls() == ['pip install', 'exp']
  (ready.bin / 'nvidia-smi').unlink()
  ready.launch('train', JAX_PLATFORMS='')
  assert ready.calls() == ['exp']


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


@pytest.mark.parametrize(
  'arguments',
  [
    ['--processes=2', 'train', '--config.seed=1', 'two words'],
    ['train', '--config.seed=1', '--processes=2', 'two words'],
  ],
)
def test_processes_are_left_to_the_launcher_module(ready, arguments):
  ready.launch(*arguments)
  python = f'{ready.root}/.venv/bin/python'
  assert ready.raw_calls() == [
    f'{python} -P -m advjax.processes.launcher 2 {python} -P '
    '-m experiments.train --config.seed=1 two words'
  ]


def test_processes_of_the_main_job(ready):
  ready.launch('--processes=3', '--config.seed=1')
  (call,) = ready.raw_calls()
  assert ' -m advjax.processes.launcher 3 ' in call
  assert ' -m experiments.compare --config=' in call
  assert call.endswith(' --config.seed=1')


def test_one_process_needs_no_launcher(ready):
  job = ready.job('--processes=1', 'train', '--config.seed=1')
  assert job['arguments'] == ['--config.seed=1']


@pytest.mark.parametrize('value', ['0', '-1', 'two', '', '1.5', '08'])
def test_wrong_number_of_processes_is_said(ready, value):
  _, errors = ready.launch(f'--processes={value}', 'train', code=2)
  assert errors == (
    f'launch.sh: error: --processes={value}: allowed is an integer >= 1\n'
  )
  assert ready.calls() == []


def test_other_wrong_uses_of_processes_are_said(ready):
  _, errors = ready.launch('train', '--processes', '2', code=2)
  assert 'write --processes=N, in one word' in errors
  _, errors = ready.launch('--processes=2', 'test', code=2)
  assert 'the tests run in one process' in errors
  assert ready.calls() == []
