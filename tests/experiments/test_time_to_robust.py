"""Seconds to a robust network: what is timed, counted and attacked."""

import jax
import numpy as np
import pytest

from advjax import data
from advjax.evaluation.models import parse_attacks
from advjax.training.loop import Diverged, train
from experiments.benchmarks import runs
from experiments.benchmarks import time_to_robust as program
from tests.test_configs import FOLDER, load
from tests.training import runs as tiny

ATTACKS = parse_attacks(['fgsm'])
STANDARD = {
  'objective': {'name': 'standard'},
  'hparams': {'learning_rate': 0.1},
}


@pytest.fixture(scope='module')
def trainings():
  """The same run with two seeds: one program."""
  test = tiny.dataset()
  return [
    tiny.run(data=test, seed=seed, evaluation__epsilon=0.1, **STANDARD)
    for seed in (0, 1)
  ]


def test_the_network_is_that_of_training(trainings, tmp_path):
  found = runs.train_timed(trainings[0])
  unmonitored = trainings[0]._replace(
    monitor=lambda *_: {'robust_accuracy': 0.0}, evaluate=lambda *_: {}
  )
  expected = train(unmonitored, tmp_path)
  tiny.assert_same(found.params, expected.params)
  tiny.assert_same(found.model_state, expected.model_state)


def test_rows_say_what_was_done(trainings):
  rows = program.measure(trainings, ATTACKS, trainings[0].test_split)
  num_steps = 3 * tiny.STEPS_PER_EPOCH
  assert [row['seed'] for row in rows] == [0, 1]
  assert rows[0]['compile_seconds'] > 0 and rows[1]['compile_seconds'] is None
  for row in rows:
    seconds = row['train_seconds']
    assert row['step_milliseconds'] == pytest.approx(1e3 * seconds / num_steps)
    per_second = 3 * tiny.NUM_TRAIN / seconds
    assert row['images_per_second'] == pytest.approx(per_second)
    rate = row['flops_per_step'] * num_steps / seconds / 1e12
    assert row['teraflops_per_second'] == pytest.approx(rate)
    assert 0 <= row['fgsm'] <= row['clean'] <= 1


def test_it_is_attacked_in_float32():
  training = tiny.run(
    model={'name': 'small_resnet', 'widths': (4,), 'dtype': 'bfloat16'}
  )
  shapes = jax.eval_shape(training.init_state)
  params, state = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), shapes[1:3]
  )
  images = np.asarray(data.to_float(training.test_split.images))
  network = runs.float32_network(training, runs.Trained(params, state, {}))
  assert 'bf16[' not in str(jax.make_jaxpr(network)(images))


def test_a_loss_that_is_not_finite_is_an_error():
  training = tiny.run(**{**STANDARD, 'hparams': {'learning_rate': 1e38}})
  with pytest.raises(Diverged, match='seed 0: no finite loss at step'):
    runs.train_timed(training)


def test_only_whole_trainings_are_timed():
  for changes, message in (
    ({'members': ('base',)}, 'members = .*; allowed: a single network'),
    ({'report_checkpoint': 'best'}, "'best'; allowed: 'last'"),
    ({'init_from': 'runs/one'}, "init_from = 'runs/one'; allowed: ''"),
    ({'unfreezing__name': 'plateau'}, "unfreezing.name = 'plateau'"),
  ):
    with pytest.raises(ValueError, match=message):
      runs.check_trainable(tiny.config(**changes))
  found = program.read_seeds(tiny.config(), [0, 7])
  assert [each.seed for each in found] == [0, 7]
  with pytest.raises(ValueError, match=r'seeds = \(3,\); allowed: \(\)'):
    program.read_seeds(tiny.config(seeds=(3,)), [1])


def test_nothing_of_the_recipe_is_chosen_by_images():
  path = FOLDER / 'cifar10_fast.py'
  for config in (load(path), load(path, 'fgsm_at')):
    assert (config.num_validation, config.report_checkpoint) == (0, 'last')
    assert config.evaluation.epsilon == 8 / 255
    runs.check_trainable(config)
