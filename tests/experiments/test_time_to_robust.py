"""Seconds to a robust network: what is timed, counted and attacked."""

import jax
import numpy as np
import pytest

from advjax import data
from advjax.evaluation.members import parse_attacks
from advjax.jobs.train import _training
from advjax.training.loop import Diverged, train
from advjax.training.setup import create_run
from experiments.benchmarks.time_to_robust import __main__ as program
from experiments.benchmarks.time_to_robust import table, timed
from tests import stand_ins
from tests.test_configs import FOLDER, load
from tests.training import runs

ATTACKS = parse_attacks(['pgd-2', 'fgsm'], step_size=0.05)


@pytest.fixture(scope='module')
def trainings():
  """The same run with two seeds: one program."""
  test = runs.dataset()
  return [
    runs.run(
      data=test,
      seed=seed,
      objective={'name': 'fgsm_at', 'clean_metrics': False},
      evaluation__epsilon=0.1,
    )
    for seed in (0, 1)
  ]


@pytest.fixture(scope='module')
def rows(trainings):
  test = trainings[0].test_split
  return program.measure(trainings, ATTACKS, data.Split(*test))


def test_the_network_is_that_of_training(trainings, tmp_path):
  found = timed.train_timed(trainings[0])
  expected = train(trainings[0], tmp_path)
  runs.assert_same(found.params, expected.params)
  runs.assert_same(found.model_state, expected.model_state)
  # The report does without what the objective did not measure.
  report = _training([trainings[0]], [expected], [0]).to_json()
  assert {'loss', 'adversarial_accuracy'} <= set(report['test'])
  assert 'accuracy' not in report['test'] | report['epochs'][-1]


def test_rows_say_what_was_done(trainings, rows):
  num_steps = 3 * runs.STEPS_PER_EPOCH
  assert [row['seed'] for row in rows] == [0, 1]
  assert rows[0]['compile_seconds'] > 0 and rows[1]['compile_seconds'] is None
  for row in rows:
    seconds = row['train_seconds']
    assert seconds > 0
    assert row['step_milliseconds'] == pytest.approx(1e3 * seconds / num_steps)
    assert row['images_per_second'] == pytest.approx(
      3 * runs.NUM_TRAIN / seconds
    )
    rate = row['flops_per_step'] * num_steps / seconds / 1e12
    assert row['teraflops_per_second'] == pytest.approx(rate)
    assert 0 <= row['pgd'] <= row['clean'] <= 1


def test_it_is_attacked_in_float32():
  training = runs.run(
    data=runs.dataset(),
    model={'name': 'small_resnet', 'widths': (4,), 'dtype': 'bfloat16'},
  )
  params, state = training.init_state()[1:3]
  trained = timed.Trained(params, state, {})
  images = np.asarray(data.to_float(training.test_split.images))
  network = timed.float32_network(training, trained)

  def dtypes(function):
    text = str(jax.make_jaxpr(function)(images))
    return {name for name in ('bf16', 'f32') if f'{name}[' in text}

  def as_trained(images):
    return training.model.apply(params, state, images, train=False)[0]

  assert dtypes(network) == {'f32'}
  assert dtypes(as_trained) == {'bf16', 'f32'}


def test_wrong_images_stay_wrong(monkeypatch):
  """An attack may lead a misclassified image back to its class."""
  labels = np.array([0, 1, 1])
  images = np.array([[0.2, 0.1], [0.2, 0.1], [0.1, 0.9]], np.float32)

  def mirror(*arguments, **options):
    class Found:
      predictions = {'itself': np.array([[1, 1, 1]])}  # noqa: RUF012

    return Found

  monkeypatch.setattr(program, 'attack_and_predict', mirror)
  found = program.attack(
    lambda images: 10 * images,
    {'pgd': ATTACKS['pgd']},
    images,
    labels,
    0.1,
    batch_size=3,
    devices=jax.devices()[:1],
  )
  assert found.pop('pgd_seconds') >= 0
  assert found == pytest.approx({'clean': 2 / 3, 'pgd': 1 / 3})


def test_a_loss_that_is_not_finite_is_an_error():
  training = runs.run(
    objective={'name': 'fgsm_at', 'clean_metrics': False},
    hparams__learning_rate=1e38,
  )
  with pytest.raises(Diverged, match='seed 0: no finite loss at step'):
    timed.train_timed(training)


def test_the_table_has_mean_and_deviation(rows):
  rows = [
    row
    | {'train_seconds': seconds, 'clean': 0.8, 'pgd': robust, 'peak_mib': None}
    for row, seconds, robust in zip(rows, (2.0, 4.0), (0.44, 0.45), strict=True)
  ]
  lines = table.markdown(rows, list(ATTACKS), 0.45).splitlines()
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')] for line in lines
  ]
  header, _, first, second, mean, std = cells
  assert header[-3:] == ['pgd', 'fgsm', '45 % reached']
  assert len({len(line) for line in cells}) == 1
  seconds, pgd, peak = (header.index(n) for n in ('s', 'pgd', 'peak MiB'))
  assert (first[seconds], second[seconds]) == ('2.00', '4.00')
  assert (mean[seconds], std[seconds]) == ('3.00', '1.41')
  assert (mean[pgd], std[pgd]) == ('44.50 %', '0.71 %')
  assert (first[-1], second[-1], mean[-1]) == ('no', 'yes', '')
  assert mean[peak] == 'n/a'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'members': ('base',)}, 'the config has members'),
    ({'init_from': 'runs/one'}, "init_from = 'runs/one'; allowed: ''"),
    ({'unfreezing__name': 'plateau'}, "unfreezing.name = 'plateau'"),
  ],
)
def test_only_whole_trainings_are_timed(changes, message):
  with pytest.raises(ValueError, match=message):
    timed.check_trainable(runs.config(**changes))


def test_seeds_are_those_of_the_flag():
  config = runs.config()
  found = program.read_seeds(config, ['0', '7'])
  assert [each.seed for each in found] == [0, 7]
  for wrong, texts, message in (
    (config, ['1', '1'], r'seeds = \(1, 1\); allowed: each seed once'),
    (config, [], r'--seeds: \[\]; allowed'),
    (config, ['-1'], r'--seeds'),
    (runs.config(seeds=(3,)), ['1'], r'seeds = \(3,\); allowed: \(\)'),
  ):
    with pytest.raises(ValueError, match=message):
      program.read_seeds(wrong, texts)


# ------------------------------------------------------------------- the config


def test_the_config_is_the_recipe():
  path = FOLDER / 'cifar10_fast.py'
  config = load(path)
  assert (config.model.name, config.model.dtype) == (
    'preact_resnet18',
    'bfloat16',
  )
  assert load(path, 'resnet9').model.name == 'resnet9'
  for each in (config, load(path, 'resnet9')):
    assert each.hparams.step_size == 8 / 255
    assert each.hparams.noise_size == 16 / 255
  wong = load(path, 'fgsm_at')
  assert wong.objective.name == 'fgsm_at'
  assert wong.hparams.step_size == pytest.approx(10 / 255)
  assert wong.hparams.epsilon == 8 / 255
  for each in (config, wong):
    # Nothing is chosen by test images, nor by any others.
    assert (each.num_validation, each.report_checkpoint) == (0, 'last')
    assert each.evaluation.epsilon == 8 / 255
    assert not each.objective.clean_metrics
    timed.check_trainable(each)


@pytest.mark.slow
def test_the_smoke_variant_learns_and_is_reported(tmp_path):
  """Of bright and dark noise, in bfloat16."""
  config = load(FOLDER / 'cifar10_fast.py', 'smoke')
  config.evaluation.attacks = ('fgsm',)
  config.batch_size = 32
  split = stand_ins.load(config.dataset).train
  images, labels = split.images[:256].copy(), split.labels[:256] % 2
  images[labels == 0] //= 4
  split = data.Split(images, labels)
  dataset = data.Dataset('noise', split, split, 2, ('dark', 'bright'))
  config.num_epochs = 10
  training = create_run(config, dataset, jax.devices()[:1])
  found = train(training, tmp_path)
  losses = [each['loss'] for each in found.records if 'loss' in each]
  assert losses[-1] < 0.3 * np.log(2) < losses[0]
  trained = timed.Trained(found.params, found.model_state, {})
  row = program.attack(
    timed.float32_network(training, trained),
    parse_attacks(['pgd-5']),
    np.asarray(data.to_float(images)),
    labels,
    config.evaluation.epsilon,
    batch_size=64,
    devices=training.devices,
  )
  assert row['clean'] > 0.95 and row['pgd'] > 0.9
