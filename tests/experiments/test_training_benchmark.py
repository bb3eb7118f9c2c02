"""The comparison of training steps, as far as it needs no other library."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from advjax import data
from experiments.benchmarks import floor, turns
from experiments.benchmarks.floor import Rates, Work
from experiments.benchmarks.training import rows, sides, work
from experiments.benchmarks.training.measure import measure


class Tutorial(nn.Module):
  """With the layers of Flax, whose operations XLA counts."""

  @nn.compact
  def __call__(self, images):
    hidden = images
    for index, filters in enumerate((32, 64, 64)):
      hidden = nn.Conv(filters, (3, 3), padding='VALID')(hidden)
      if index == 1:  # The pool reads no more of the second one.
        hidden = hidden[:, :10, :10]
      hidden = nn.max_pool(hidden, (2, 2), (2, 2)) if index < 2 else hidden
    hidden = nn.Dense(64)(hidden.reshape(len(hidden), -1))
    return nn.Dense(10)(hidden)


def test_operations_are_those_of_xla():
  images = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
  network = Tutorial()
  params = jax.eval_shape(network.init, jax.random.key(0), images)
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == work.PARAMETERS
  counted = jax.jit(network.apply).lower(params, images).cost_analysis()
  # XLA counts the 11 x 11 places of which 10 x 10 are read, and the rest of
  # the network: comparisons and sums.
  unread = 2 * 21 * 288 * 64
  rest = counted['flops'] - unread - work.forward_flops()
  assert 0 <= rest < 0.02 * work.forward_flops()


@pytest.mark.parametrize(
  ('objective', 'passes'), [('standard', 3), ('nsl', 6), ('pgd', 17)]
)
def test_passes_of_objectives(objective, passes):
  forward, first = work.forward_flops(), 2 * 676 * 9 * 32
  one = work.least_work(objective, 1)
  assert one.flops == passes * forward - first
  many = work.least_work(objective, 32)
  assert many.flops == 32 * one.flops
  # The optimizer's bytes do not grow with the batch.
  assert many.bytes < 32 * one.bytes


def test_the_floor_is_what_takes_longer():
  rates = Rates(flops=100.0, bytes=10.0)
  assert Work(200.0, 1.0).seconds(rates) == 2
  assert Work(100.0, 30.0).seconds(rates) == 3


def test_rates_are_those_of_all_devices(monkeypatch):
  monkeypatch.setattr(floor, '_MATMULS', ((64, 32, 16),))
  monkeypatch.setattr(floor, '_COPY_MIB', 1)
  spent = iter([9.0, 2.0, 1.0, 9.0, 4.0, 5.0])
  monkeypatch.setattr(floor, 'timed', lambda run: (run(), next(spent)))
  found = floor.measure_rates(jax.devices(), rounds=3)
  assert found.flops == 2 * 8 * 2 * 64 * 32 * 16 / 1.0
  assert found.bytes == 2 * 8 * 2 * 2**20 / 4.0


def test_quartiles_of_rounds():
  assert turns.spread([2.0]) == (2, 2, 2)
  assert turns.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3, 2, 4)


def test_ratios_are_of_the_same_round():
  # A machine that slows down by and by: theirs takes twice as long throughout.
  seconds = {rows.OURS: [1.0, 2.0, 4.0], 'other': [2.0, 4.0, 8.0]}
  found = rows.make_rows(seconds, 'nsl', 32, Work(1.0, 0.0), Rates(2.0, 1.0))
  assert [row['times_as_fast'] for row in found] == [1, 2, 0.25]
  assert found[2]['name'] == rows.FLOOR and found[2]['bound'] == 'operations'
  lines = rows.table(found).splitlines()
  assert lines[2] == (
    '| nsl | 32 | advjax | 2000.00 | 1500.00 to 3000.00 | 16 | 1.00 |'
  )
  assert lines[4] == '| nsl | 32 | floor | 500.00 | | 64 | 0.25 |'


def test_all_variants_take_turns_from_the_same_weights(monkeypatch):
  asked, dataset = [], data.load({'name': 'digits'})
  rates = Rates(1e11, 1e10)
  monkeypatch.setattr(floor, 'measure_rates', lambda devices: rates)

  def peer(name):
    def run_job(job, arrays):
      asked.append((name, job['task'], job['name']))
      if job['task'] == 'prepare':
        assert arrays['Conv_0/kernel'].shape == (3, 3, 1, 32)
        assert arrays['Dense_1/bias'].shape == (10,)
        assert arrays['train_images'].dtype == np.uint8
        assert job['objective'] == 'standard' and job['batch_size'] == 16
        return {}
      assert not arrays and job['num_steps'] == 2
      return {'seconds': np.asarray(0.5)}

    return run_job

  found = measure(
    dataset,
    jax.devices()[:1],
    {name: peer(name) for name in ('keras', 'torch')},
    ['standard'],
    [16],
    steps=2,
    rounds=1,
    compiled=False,
  )
  names = [row['name'] for row in found['rows']]
  peers = ['Keras', 'Keras, 32 steps per execution', 'PyTorch']
  assert names == ['advjax', *peers, 'floor']
  assert found['rows'][1]['milliseconds'] == 500
  prepared, run = asked[:3], asked[3:]
  assert {task for _, task, _ in prepared} == {'prepare'}
  assert [name for _, _, name in run] == 2 * [name for *_, name in prepared]


@pytest.mark.parametrize('objective', sides.OBJECTIVES)
def test_our_side_is_what_train_runs(objective):
  config = sides.our_config(objective, 32)
  assert config.batch_size == 32
  if objective == 'pgd':
    assert config.objective.num_steps == sides.ATTACK_STEPS
    assert config.hparams.step_size == pytest.approx(0.25 / 7)
  if objective == 'nsl':
    assert config.hparams.step_size == sides.NSL_STEP_SIZE
    assert config.hparams.multiplier == 0.2
