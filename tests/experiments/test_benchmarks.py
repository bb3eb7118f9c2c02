"""The program that runs all benchmarks, and the charts of scaling."""

import importlib.util
import json
import subprocess
import sys

import jax
import pytest

from advjax import data
from experiments.benchmarks import __main__ as program
from experiments.benchmarks import operations
from experiments.benchmarks.scaling import figure, measure
from experiments.benchmarks.training import sides

TRAINING_ROW = {
  'objective': 'nsl',
  'batch_size': 32,
  'name': 'advjax',
  'milliseconds': 1.0,
  'quartiles': [1.0, 2.0],
  'images_per_second': 32000.0,
  'times_as_fast': 1.0,
}
LEFT = {
  'training': {'rows': [TRAINING_ROW]},
  'scaling': {'images': [{'series': 'pgd', 'images': 64, 'seconds': 0.5}]},
}
VENVS = ('nsl_venv', 'torch_venv', 'foolbox_jax_venv')
GIVEN = dict.fromkeys(('platform', 'devices', 'data_dir', *VENVS))


def test_a_part_gets_the_flags_that_it_takes(tmp_path):
  given = GIVEN | {'platform': 'cpu', 'data_dir': 'sets', 'torch_venv': 't'}
  made = program.command(program.PARTS['training'], tmp_path, given)
  assert made[1:] == [
    *('-m', 'experiments.benchmarks.training', f'--workdir={tmp_path}'),
    *('--data_dir=sets', '--torch_venv=t', '--platform=cpu'),
  ]
  made = program.command(program.PARTS['scaling'], tmp_path, given)
  assert made[4:] == ['--platform=cpu']


def test_parts_run_in_turn_and_all_tables_are_on_the_page(
  tmp_path, monkeypatch
):
  def run(command):
    workdir = command[3].removeprefix('--workdir=')
    name = workdir.rpartition('/')[2]
    path = tmp_path / name / program.PARTS[name].file
    path.parent.mkdir()
    path.write_text(json.dumps(LEFT[name] | {'environment': {'jax': '1'}}))
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(program.subprocess, 'run', run)
  program.run_parts(['training', 'scaling'], tmp_path, GIVEN)
  lines = program.page(tmp_path).splitlines()
  assert lines.count('jax 1; 0 s') == 2
  assert '| nsl | 32 | advjax | 1.00 | 1.00 to 2.00 | 32000 | 1.00 |' in lines
  assert '| images | pgd | 64 | 0.5000 |' in lines


def test_a_part_that_fails_is_named(tmp_path, monkeypatch):
  failed = subprocess.CompletedProcess([], 2)
  monkeypatch.setattr(program.subprocess, 'run', lambda command: failed)
  with pytest.raises(ValueError, match="'attacks' ended with exit code 2"):
    program.run_parts(['attacks'], tmp_path, GIVEN)


def test_the_tables_of_all_parts_are_made_of_what_they_leave():
  row = {
    'milliseconds_per_step': 2.0,
    'images_per_second': 10.0,
    'compile_seconds': 1.0,
    'temporary_mib': 3.0,
  }
  result = {'rows': {'nsl': {'advjax': row, 'ratio': 1.5}}}
  line = program.objectives_table(result).splitlines()[2]
  assert line == '| nsl | 2.00 | 10 | 1.50 | 1.0 | 3.0 |'
  start = {'seconds': 2.0, 'processor_seconds': 1.5}
  result = {'rounds': {'filled': [start]}}
  line = program.startup_table(result).splitlines()[2]
  assert line == '| filled | 2.00 | 2.00 to 2.00 | 1.50 |'
  member = {'train_seconds': 3.0, 'step_milliseconds': 2.5}
  line = program.tutorial_table({'members': {'base': member}}).splitlines()[2]
  assert line == '| base | 3.0 | 2.50 |'
  for part in program.PARTS.values():
    assert importlib.util.find_spec(part.module), part


def test_the_platform_is_asked_of_another_process(monkeypatch):
  assert program.platform('gpu') == 'gpu'
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert program.platform(None) == 'cpu'


def test_steps_are_measured_on_so_many_devices(monkeypatch):
  seen = []

  def our_steps(training, num_steps):
    seen.append((training.config.objective.name, len(training.devices)))
    assert num_steps == 8
    return lambda: float(len(training.devices))

  monkeypatch.setattr(sides, 'our_steps', our_steps)
  dataset = data.load({'name': 'digits'})
  rows = measure.by_devices([1, 2], 128, dataset, jax.devices(), rounds=1)
  assert [count for _, count in seen] == [1, 2] * 3
  assert [row['seconds'] for row in rows] == [1, 2] * 3
  drawn = figure.draw({'devices': rows})
  (panel,) = drawn.axes
  assert panel.get_xlabel() == 'devices'
  assert list(panel.lines[0].get_ydata()) == [1, 2]


HLO = """
  %dot.1 = f32[9,32]{1,0} dot(%a, %b), lhs_contracting_dims={0}, \
metadata={op_name="jit(f)/while/body/transpose(jvp(CNN))/Conv_0/x/dot_general"}
  ROOT %pad_fusion = f32[8]{0} fusion(%c), kind=kLoop, \
metadata={op_name="jit(f)/jvp(CNN)/Conv_1/pad" stack_frame_id=3}
  %copy.2 = f32[8]{0} copy(%d)
"""


def test_operations_of_a_program_are_added_up_by_kind():
  found = operations.read_operations(HLO)
  assert set(found) == {'dot.1', 'pad_fusion'}
  assert found['dot.1'] == ('f32[9,32]', 'Conv_0', True, 'dot_general')
  assert found['pad_fusion'].layer == 'Conv_1'
  assert not found['pad_fusion'].backward
  # Two steps, each operation twice in each; one event was disturbed.
  events = [('dot.1', 1e6)] * 3 + [('dot.1', 9e6), ('pad_fusion', 4e6)]
  taken = operations.milliseconds_per_step([*events, ('run', 1e9)], found, 2)
  assert taken == {'dot.1': 2.0, 'pad_fusion': 2.0}
  lines = operations.tables(taken, found, top=1).splitlines()
  assert lines[2] == (
    '| dot.1 | f32[9,32] | backward Conv_0 | dot_general | 2.000 |'
  )
  assert '| matrix products | 2.00 |' in lines


@pytest.mark.slow
def test_every_axis_is_measured_and_drawn(tmp_path):
  command = [sys.executable, '-m', 'experiments.benchmarks.scaling']
  arguments = ['--batch_sizes=8,16', '--batch_size=16', '--members=1,2']
  arguments += ['--images=8,16', '--rounds=1', '--platform=cpu']
  result = subprocess.run(
    [*command, f'--workdir={tmp_path}', *arguments],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / 'scaling.json').read_text())
  assert set(figure.PANELS) < set(found)
  for axis in figure.PANELS:
    assert all(row['seconds'] > 0 for row in found[axis])
  assert (tmp_path / 'scaling.png').stat().st_size > 10_000
