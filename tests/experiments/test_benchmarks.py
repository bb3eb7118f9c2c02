"""The harness of comparisons, the program that runs all, and small ends."""

import jax
import pytest
from absl import flags

from advjax.models import create_model
from advjax.training.objectives import read_hparams
from experiments.benchmarks import harness, objectives, peers

# ----------------------------------------------------------------- the harness


def side(seconds, calls, name):
  """A side whose runs take given seconds, the first one included, or fail."""

  def prepare():
    calls.append(f'{name} prepares')
    left = iter(seconds)

    def run():
      calls.append(name)
      for each in left:
        return each
      raise peers.PeerError('it went wrong')

    return run

  return prepare


def test_sides_take_turns_and_ratios_are_of_the_same_round():
  calls = []
  # A machine that slows down by and by: theirs takes twice as long throughout.
  times = harness.in_turns(
    {
      'advjax': side([9.0, 1.0, 2.0, 4.0], calls, 'advjax'),
      'other': side([8.0, 2.0, 4.0, 8.0], calls, 'other'),
      'broken': side([1.0] * 2, calls, 'broken'),
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


def test_integers_of_a_flag_are_checked(monkeypatch):
  message = r'--sizes = .*; allowed: integers from 1 to 9, each once'
  for texts in [], ['0'], ['2', '2'], ['1.5'], ['99']:
    values = flags.FlagValues()
    flags.DEFINE_list('sizes', texts, '', flag_values=values)
    values.mark_as_parsed()
    monkeypatch.setattr(harness.flags, 'FLAGS', values)
    with pytest.raises(ValueError, match=message):
      harness.integers('sizes', 1, 9)


# ----------------------------------------------------- benchmarks of our own


def test_objectives_and_attacks_are_measured_with_both_kinds_of_layers(
  monkeypatch,
):
  for name, hparams in objectives.OBJECTIVES.items():
    wanted = hparams | {'learning_rate': 0.1}
    assert read_hparams(wanted, name) == wanted
  with pytest.raises(
    ValueError, match="'deepfool'; allowed: attacks of a radius"
  ):
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
