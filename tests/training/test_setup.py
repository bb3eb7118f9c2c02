"""What is checked and built before anything runs."""

import pytest

from advjax.data import Split
from advjax.training.checkpoint import restore_checkpoint
from advjax.training.loop import train
from tests.training import runs


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'batch_size': 1}, r'batch_size = 1; allowed: at least the number of dev'),
    ({'num_validation': 22}, r'num_validation = 22; allowed: \[0, 22\)'),
    (
      {'model': {'name': 'cnn'}},
      r"model.name = 'cnn' does not take images of shape \(3, 3, 1\)",
    ),
    (
      {'augmentation__saturation': 0.1},
      r'augmentation.saturation = 0.1; .* 1 channels, not 3',
    ),
    ({'objective': {'name': 'standard'}}, r'hparams.epsilon = 0.1 is not read'),
    (
      {'multiplier_decay__name': 'natural_exp'},
      r"'natural_exp'; allowed: 'constant'.*'fgsm_at' reads no multiplier",
    ),
  ],
  ids=str,
)
def test_a_wrong_config_is_named_before_anything_runs(changes, message):
  with pytest.raises(ValueError, match=message):
    runs.run(num_devices=2, **changes)


def test_the_multiplier_decays_and_the_moving_average_is_reported(tmp_path):
  training = runs.run(
    objective={'name': 'adversarial_regularization', 'norm': 'infinity'},
    hparams={'learning_rate': 0.1, 'multiplier': 0.4, 'step_size': 0.1},
    multiplier_decay__name='inverse_time',
    multiplier_decay__decay_steps=6,
    multiplier_decay__decay_rate=0.5,
    num_epochs=2,
    log_every_steps=1,
    ema_decay=0.9,
  )
  result = train(training, tmp_path)
  multipliers = [
    record['scaled_adversarial_loss'] / record['adversarial_loss']
    for record in result.records
    if record['kind'] == 'steps'
  ]
  expected = [0.4 / (1 + 0.5 * step / 6) for step in range(12)]
  assert multipliers == pytest.approx(expected, rel=1e-5)
  assert training.final_hparams['multiplier'] == pytest.approx(0.2)
  assert training.hparams['multiplier'] == 0.4
  last = restore_checkpoint(tmp_path / 'checkpoints' / 'last').state
  runs.assert_same(result.params, last['ema_params'])
  averaged, newest = (
    last[name]['Dense_0']['bias'] for name in ('ema_params', 'params')
  )
  assert (averaged != newest).all()


@pytest.mark.parametrize('num_validation', [0, 7])
def test_monitoring_images(num_validation):
  data = runs.dataset()
  training = runs.run(data=data, num_validation=num_validation)
  assert len(training.monitor_split.labels) == (num_validation or 8)
  trained_on = training.train_split.images[training.rows]
  assert len(trained_on) == training.plan.num_examples == 22 - num_validation

  def rows(split: Split):
    return {image.tobytes() for image in split.images}

  shared = rows(training.monitor_split) & {x.tobytes() for x in trained_on}
  assert shared == (set() if num_validation else rows(training.monitor_split))
  assert not rows(training.monitor_split) & rows(data.test)
