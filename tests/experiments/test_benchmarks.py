"""The harness of comparisons, the program that runs all, and small ends."""

import json
import subprocess

import jax
import pytest
from absl import flags

from advjax.models import create_model
from advjax.training.objectives import read_hparams
from experiments.benchmarks import __main__ as program
from experiments.benchmarks import (
  harness,
  objectives,
  operations,
  peers,
  sweep,
)
from experiments.benchmarks.runs import Round

# ----------------------------------------------------------------- the harness


def side(seconds, calls, name, fails_at=None):
  """A side whose runs take given seconds, the first one included."""

  def prepare():
    calls.append(f'{name} prepares')
    left = iter(seconds)

    def run():
      calls.append(name)
      if calls.count(name) == fails_at:
        raise peers.PeerError('it went wrong')
      return next(left)

    return run

  return prepare


def test_sides_take_turns_and_ratios_are_of_the_same_round():
  calls = []
  # A machine that slows down by and by: theirs takes twice as long throughout.
  times = harness.in_turns(
    {
      'advjax': side([9.0, 1.0, 2.0, 4.0], calls, 'advjax'),
      'other': side([8.0, 2.0, 4.0, 8.0], calls, 'other'),
      'broken': side([1.0] * 4, calls, 'broken', fails_at=3),
    },
    rounds=3,
  )
  assert calls[:6] == [
    *('advjax prepares', 'advjax', 'other prepares', 'other'),
    *('broken prepares', 'broken'),
  ]
  turn = ['advjax', 'other']
  assert calls[6:] == [*turn, 'broken', *turn, 'broken', *turn]
  assert times.first == {'advjax': 9, 'other': 8, 'broken': 1}
  rows = harness.compare(times, 32, case='nsl')
  assert [row['name'] for row in rows] == ['advjax', 'other', 'broken']
  ours, other, broken = rows
  assert ours['milliseconds'] == 2000 and ours['quartiles'] == [1500, 3000]
  assert ours['images_per_second'] == 16 and ours['rounds'] == [1, 2, 4]
  assert other['times_as_fast'] == 2
  assert broken == {'case': 'nsl', 'name': 'broken', 'error': 'it went wrong'}
  text = harness.table(
    rows,
    ('', 'name', ''),
    ('ms', 'milliseconds', '.1f'),
    ('quartiles', 'quartiles', ',.0f'),
    ('share', lambda row: row['times_as_fast'] / 10, '.0%'),
    ('none', 'none', 'd'),
  )
  assert text.splitlines() == [
    '| | ms | quartiles | share | none |',
    '| --- | --- | --- | --- | --- |',
    '| advjax | 2000.0 | 1,500 to 3,000 | 10 % | |',
    '| other | 4000.0 | 3,000 to 6,000 | 20 % | |',
    '',
    'broken: it went wrong',
  ]


@pytest.mark.parametrize('texts', [[], ['0'], ['2', '2'], ['1.5'], ['99']])
def test_integers_of_a_flag_are_checked(monkeypatch, texts):
  values = flags.FlagValues()
  flags.DEFINE_list('sizes', texts, '', flag_values=values)
  values.mark_as_parsed()
  monkeypatch.setattr(harness.flags, 'FLAGS', values)
  message = r'--sizes=.*; allowed: integers from 1 to 9, each once'
  with pytest.raises(ValueError, match=message):
    harness.integers('sizes', 1, 9)


# ----------------------------------------------------------- all parts in turn

ROW = {
  **{'objective': 'nsl', 'batch_size': 32, 'name': 'advjax'},
  **{'milliseconds': 1.0, 'quartiles': [1.0, 2.0]},
  **{'images_per_second': 32000.0, 'times_as_fast': 1.0},
}
OURS = {
  **{'milliseconds_per_step': 2.0, 'images_per_second': 10.0},
  **{'compile_seconds': 1.0, 'temporary_mib': 3.0},
}
# What a part leaves, and the line of it on the page.
LEFT = {
  'training': (
    {'rows': [ROW]},
    '| nsl | 32 | advjax | 1.00 | 1.00 to 2.00 | 32000 | 1.00 |',
  ),
  'objectives': (
    {'rows': {'nsl': {'advjax': OURS, 'ratio': 1.5}}},
    '| nsl | 2.00 | 10 | 1.50 | 1.0 | 3.0 |',
  ),
  'startup': (
    {'rounds': {'filled': [{'seconds': 2.0, 'processor_seconds': 1.5}]}},
    '| filled | 2.00 | 2.00 to 2.00 | 1.50 |',
  ),
  'tutorial': (
    {'members': {'base': {'train_seconds': 3.0, 'step_milliseconds': 2.5}}},
    '| base | 3.0 | 2.50 |',
  ),
  'scaling': (
    {'images': [{'series': 'pgd', 'images': 64, 'seconds': 0.5}]},
    '| images | pgd | 64 | 0.5000 |',
  ),
}
VENVS = ('nsl_venv', 'torch_venv', 'foolbox_jax_venv')
GIVEN = dict.fromkeys(('platform', 'devices', 'data_dir', *VENVS))


def test_parts_run_in_turn_and_all_tables_are_on_the_page(
  tmp_path, monkeypatch
):
  commands = []

  def run(command):
    commands.append(command[1:])
    workdir = command[3].removeprefix('--workdir=')
    name = workdir.rpartition('/')[2]
    path = tmp_path / name / program.PARTS[name].file
    path.parent.mkdir()
    path.write_text(json.dumps(LEFT[name][0] | {'environment': {'jax': '1'}}))
    return subprocess.CompletedProcess(command, int(name == 'scaling'))

  monkeypatch.setattr(program.subprocess, 'run', run)
  given = GIVEN | {'platform': 'cpu', 'data_dir': 'sets', 'torch_venv': 't'}
  first = [name for name in LEFT if name != 'scaling']
  program.run_parts(first, tmp_path, given)
  assert commands[0] == [
    *('-m', 'experiments.benchmarks.training'),
    f'--workdir={tmp_path / "training"}',
    *('--data_dir=sets', '--torch_venv=t', '--platform=cpu'),
  ]
  assert commands[2][3:] == ['--platform=cpu']
  with pytest.raises(ValueError, match="'scaling' ended with exit code 1"):
    program.run_parts(['scaling'], tmp_path, given)
  (tmp_path / 'scaling' / 'seconds.json').write_text('{"seconds": 1}')
  lines = program.page(tmp_path).splitlines()
  assert lines.count('jax 1; 0 s') == 4 and 'jax 1; 1 s' in lines
  assert {line for _, line in LEFT.values()} <= set(lines)


# ----------------------------------------------------- benchmarks of our own


def test_objectives_and_attacks_are_measured_with_both_kinds_of_layers(
  monkeypatch,
):
  for name, hparams in objectives.OBJECTIVES.items():
    wanted = hparams | {'learning_rate': 0.1}
    assert read_hparams(wanted, name) == wanted
  with pytest.raises(ValueError, match="'deepfool' is not measured here"):
    objectives.check_attack('deepfool')
  # The same weights fit both.
  given = jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), 'float32')
  models = [create_model({'name': n}, 10) for n in objectives.NETWORKS.values()]
  ours, plain = (jax.eval_shape(model.init, *given) for model in models)
  assert ours == plain
  small = dict.fromkeys(objectives.NETWORKS, 'logistic_regression')
  monkeypatch.setattr(objectives, 'NETWORKS', small)
  sizes = {'batch_size': 2, 'attack_batch_size': 2, 'steps': 1, 'rounds': 1}
  found = objectives.measure(['standard'], ['fgsm'], jax.devices()[:1], **sizes)
  trained, attacked = found['rows']['standard'], found['rows']['fgsm']
  for layer in ('advjax', 'plain'):
    per_second = trained[layer]['images_per_second']
    milliseconds = trained[layer]['milliseconds_per_step']
    assert milliseconds * per_second == pytest.approx(2000)
    assert 'milliseconds_per_step' not in attacked[layer]
    assert attacked[layer]['compile_seconds'] > 0
  ours, plain = (trained[n]['images_per_second'] for n in ('advjax', 'plain'))
  assert trained['ratio'] == pytest.approx(ours / plain)
  assert len(objectives.table(found).splitlines()) == 4


def test_ways_to_train_a_sweep():
  taken = {'in turn': [Round(1.0, 2.0)], 'map': [Round(2.0, 1.0)] * 3}
  first, second = sweep.rows_of(4, 5, taken)
  assert first['seconds'] == second['seconds'] == 3 and second['ratio'] == 1
  assert first['step_milliseconds'] == 100
  assert sweep.ways_of(1, 2, 4) == ['in turn']
  assert sweep.ways_of(8, 1, 4) == ['in turn', 'map', 'vmap']
  assert sweep.ways_of(4, 2, 4) == list(sweep.WAYS)


HLO = """
  %dot.1 = f32[9,32]{1,0} dot(%a, %b), lhs_contracting_dims={0}, \
metadata={op_name="jit(f)/while/body/transpose(jvp(CNN))/Conv_0/x/dot_general"}
  ROOT %pad_fusion = f32[8]{0} fusion(%c), kind=kLoop, \
metadata={op_name="jit(f)/jvp(CNN)/Conv_1/pad" stack_frame_id=3}
  %copy.2 = f32[8]{0} copy(%d)
"""


def test_operations_of_a_program_are_added_up_by_kind():
  found = operations.read_operations(HLO)
  assert found == {
    'dot.1': ('f32[9,32]', 'Conv_0', True, 'dot_general'),
    'pad_fusion': ('f32[8]', 'Conv_1', False, 'pad'),
  }
  # Two steps, each operation twice in each; one event was disturbed.
  events = [('dot.1', 1e6)] * 3 + [('dot.1', 9e6), ('pad_fusion', 4e6)]
  taken = operations.milliseconds_per_step([*events, ('run', 1e9)], found, 2)
  assert taken == {'dot.1': 2.0, 'pad_fusion': 2.0}
  lines = operations.tables(taken, found, top=1).splitlines()
  operation = '| dot.1 | f32[9,32] | backward Conv_0 | dot_general | 2.000 |'
  assert lines[2] == operation
  assert '| matrix products | 2.00 |' in lines
