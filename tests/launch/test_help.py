"""What launch.sh says of itself, and of names that it does not know."""

import subprocess

import pytest

from tests.launch.projects import ROOT


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
