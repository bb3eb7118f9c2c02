"""What is checked and built before anything runs."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from advjax.data import Split
from advjax.devices import AXIS
from advjax.losses import cross_entropy
from advjax.models import create_model, from_linen
from advjax.training.checkpoint import restore_checkpoint
from advjax.training.loop import train
from advjax.training.setup import (
  create_run,
  device_inputs,
  network_shapes,
)
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


def test_the_least_size_that_a_network_takes_is_named():
  for name, shape, least in (('cnn', (8, 8, 1), r'1[48] x 1[48]'),):
    model = create_model({'name': name}, 3)
    message = rf'{name}. does not .*{shape[0]}.*; allowed: at least {least}$'
    with pytest.raises(ValueError, match=message):
      network_shapes(model, name, shape)
  network_shapes(create_model({'name': 'cnn'}, 3), 'cnn', (18, 18, 1))

  class Coloured(nn.Module):
    """Its size is not what is wrong."""

    @nn.compact
    def __call__(self, images, *, train=False):
      raise ValueError('three channels')

  with pytest.raises(ValueError, match=r'\(8, 8, 1\): three channels'):
    network_shapes(from_linen(Coloured()), 'own', (8, 8, 1))


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


class Network(nn.Module):
  num_classes: int
  in_training: bool = False

  @nn.compact
  def __call__(self, images, train):
    maps = nn.Conv(2, (3, 3))(images)
    logits = nn.Dense(self.num_classes)(maps.reshape(images.shape[0], -1))
    return (logits, maps) if train and self.in_training else logits


def own_run(module, **options):
  config = runs.config(
    objective={'name': 'standard'},
    hparams={'learning_rate': 0.1},
    batch_size=64,
  )
  data = runs.dataset(num_train=64)
  return create_run(
    config, data, jax.devices()[:1], model=from_linen(module), **options
  )


@pytest.mark.parametrize(
  ('module', 'shape'),
  [
    (Network(7), r'\(2, 7\)'),
    (Network(3, in_training=True), r'\(\(2, 3\), \(2, 3, 3, 2\)\)'),
    (nn.Dense(3), r'\(2, 3, 3, 3\)'),
  ],
)
def test_logits_of_another_shape_are_named(module, shape):
  message = rf'returns logits of shape {shape} for 2 images; allowed: \[B, 3\]'
  with pytest.raises(ValueError, match=message):
    own_run(module)


def test_an_own_objective_gets_the_batch_of_the_device():
  sizes = []

  def objective(apply, params, model_state, batch, hparams, key):
    images, labels = batch['image'], batch['label']
    sizes.append(len(images))
    logits, state = apply(params, model_state, images, train=True)
    loss = cross_entropy(logits, labels)
    return (batch['weight'] * loss).sum(), (state, {'loss': loss})

  run = own_run(Network(3), objective=objective)
  sizes.clear()
  steps = jax.vmap(run.device_steps, (0, *[None] * 4), axis_name=AXIS)
  state = jax.eval_shape(run.init_state)
  jax.eval_shape(steps, np.arange(1), state, *device_inputs(run), np.int32(1))
  assert set(sizes) == {64}
