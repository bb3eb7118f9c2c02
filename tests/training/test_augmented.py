"""Training on augmented images and shares of classes."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.devices import replicate
from advjax.training.objectives import create_objective
from advjax.training.setup import create_run, device_inputs
from tests.training import networks, runs


def test_chunks_of_steps_change_no_bits():
  config = runs.config(objective={'name': 'standard'})
  config.hparams = {'learning_rate': 0.1}
  config.augmentation.cutmix = 1.0
  training = create_run(config, runs.dataset(), jax.devices()[:1])
  inputs = device_inputs(training)
  found = []
  for counts in ([4], [1, 3]):
    state = replicate(training.init_state(), training.devices)
    losses = []
    for count in counts:
      state, history = training.train_steps(state, *inputs, np.int32(count))
      losses.extend(np.asarray(history['loss'])[:count])
    assert np.isfinite(losses).all()
    found.append((state, losses))
  runs.assert_same(*found)


def test_objectives_take_shares_of_classes():
  """The loss is that of the mixture, and the attacks take them too."""
  objective = create_objective({'name': 'adversarial_regularization'})
  hparams = {'multiplier': 0.05, 'step_size': 0.05}
  certain = np.eye(networks.NUM_CLASSES)[networks.LABELS]
  shares = (certain + 1 / networks.NUM_CLASSES) / 2

  @jax.jit
  def run(labels):
    batch = networks.batch() | {'label': labels}
    loss, (_, metrics) = objective(
      networks.apply, networks.params(), {}, batch, hparams, networks.keys()
    )
    return loss, metrics

  loss, metrics = run(jnp.asarray(shares, jnp.float32))
  assert np.isfinite(loss)
  logits = networks.MLP.logits(networks.IMAGES)
  log_probs = np.log(networks.softmax(logits))
  np.testing.assert_allclose(
    metrics['clean_loss'], -(shares * log_probs).sum(1), rtol=1e-4
  )
  np.testing.assert_array_equal(
    metrics['clean_accuracy'], logits.argmax(1) == networks.LABELS
  )
  # The attack increased the loss of the shares.
  assert (metrics['adversarial_loss'] > metrics['clean_loss']).all()
