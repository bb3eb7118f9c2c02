"""launch.sh makes the virtual environment, and says why it cannot."""

import json
import pathlib
from glob import glob

import pytest

FIRST_START = ['venv', 'pip', 'experiments.train']


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


@pytest.mark.parametrize('fails', [False, True])
def test_changed_requirements_are_installed(ready, fails):
  """Into the same .venv; one whose installation has failed is made again."""
  with open(ready.root / 'requirements.txt', 'a') as file:
    file.write('einops\n')
  if fails:
    ready.make_fail('pip')
    ready.launch('train', code=1)
    assert ready.calls() == ['pip']
    ready.make_work('pip')
  ready.launch('train')
  assert ready.calls() == (FIRST_START if fails else FIRST_START[1:])
  _, errors = ready.launch('train')
  assert ready.calls() == FIRST_START[2:]
  assert errors == ''


@pytest.mark.parametrize('stamp', ['', '3.12 cpu\n', '3.11 cpu\njax\n'])
def test_half_made_venv_is_made_again(ready, stamp):
  ready.stamp.unlink()
  (ready.root / '.venv/leftover').touch()
  ready.launch('train')
  assert ready.calls() == FIRST_START
  assert not (ready.root / '.venv/leftover').exists()
  ready.stamp.write_text(stamp)
  ready.launch('train')
  assert ready.calls()[-2:] == ['pip', 'experiments.train']


def test_venv_whose_python_is_gone_is_made_again(ready):
  python = ready.root / '.venv/bin/python'
  python.unlink()
  python.symlink_to('/nonexistent/python3.12')
  ready.launch('train')
  assert ready.calls() == FIRST_START


def test_failed_install_is_one_clear_message(project):
  project.make_fail('pip')
  _, errors = project.launch('train', code=1)
  assert errors.count('error:') == 1
  assert 'installing requirements.txt failed' in errors
  assert errors.endswith('PyPI):\nERROR: No matching pip\n')
  assert project.calls() == ['venv', 'pip']


def test_failed_venv_is_one_clear_message(project):
  project.make_fail('venv')
  _, errors = project.launch('train', code=1)
  assert errors.count('error:') == 1
  assert 'making .venv failed: venv broke' in errors
  assert project.calls() == ['venv']


def test_two_launches_at_once_set_up_once(project):
  pathlib.Path(f'{project.calls_file}.slow_pip').touch()
  processes = [project.start('train') for _ in range(2)]
  outputs = [process.communicate(timeout=60) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  calls = sorted(project.calls())
  assert calls == sorted([*FIRST_START, 'experiments.train'])


def test_folder_that_cannot_be_written_is_reported(project):
  (project.root / '.venv.lock').mkdir()  # Stops root, too, from writing it.
  _, errors = project.launch('train', code=1)
  assert errors.count('\n') == 1
  assert f"cannot write to '{project.root}'" in errors


@pytest.mark.parametrize(
  ('name', 'options', 'messages'),
  [
    ('python3', {'version': '3.10.14'}, ['3.11 or newer', 'python3 is 3.10']),
    ('python', {}, ['tried: python3.13 python3.12 python3.11 python3)']),
    (
      'python3.12',
      {'has_venv': False},
      ['Python 3.12 lacks its venv module', 'apt install python3.12-venv'],
    ),
  ],
)
def test_a_python_that_will_not_do(project, name, options, messages):
  (project.bin / 'python3.12').unlink()
  project.add_python(name, **options)
  _, errors = project.launch('train', code=1)
  assert errors.count('\n') == 1
  for message in messages:
    assert message in errors
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
  assert ready.calls() == ['experiments.train', 'experiments.train']
  _, errors = ready.launch('train', PYTHON='/nonexistent/python', code=1)
  assert '/nonexistent/python' in errors
  assert ready.stamp.exists()


@pytest.mark.skipif(
  bool(glob('/dev/accel[0-9]*') + glob('/dev/vfio/[0-9]*')),
  reason='the machine has a TPU, or what looks like one',
)
@pytest.mark.parametrize(
  ('nvidia_smi', 'variables', 'build'),
  [
    (None, {}, 'cpu'),
    ('echo 580.65.06, 9.0', {}, 'cuda13'),
    ('echo 570.124.06, 9.0', {}, 'cuda12'),
    ('echo 580.65.06, 7.0', {}, 'cuda12'),
    ('echo 580.65.06, 9.0; echo 580.65.06, 7.0', {}, 'cuda12'),
    ('echo 470.82.01, 7.5', {}, 'cpu'),
    ('echo NVIDIA-SMI has failed; exit 9', {}, 'cpu'),
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
  assert ready.calls() == ['pip', 'experiments.train']
  (ready.bin / 'nvidia-smi').unlink()
  ready.launch('train', JAX_PLATFORMS='')
  assert ready.calls() == ['experiments.train']
