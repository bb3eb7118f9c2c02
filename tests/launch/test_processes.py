"""launch.sh with several processes."""

import pytest


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
