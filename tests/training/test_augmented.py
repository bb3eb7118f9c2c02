"""Training on augmented images and shares of classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.augmentation import create_augmentation
from advjax.devices import AXIS, replicate
from advjax.training import step
from advjax.training.objectives import OBJECTIVES, create_objective
from advjax.training.setup import create_run, device_inputs
from tests.training import networks, runs

ROWS = np.delete(np.arange(23, dtype=np.int32), [2, 3, 19])


IMAGES = np.random.default_rng(0).integers(0, 256, (23, 6, 6, 1), np.uint8)


# Every example is a class of its own: labels tell who was mixed.
DATA = {'image': IMAGES, 'label': np.arange(23, dtype=np.int32)}


def first_batch(num_devices, batch_size):
  """Images, labels and keys of the real rows of the first step."""
  plan = step.StepPlan(len(ROWS), batch_size, num_devices)
  augment = create_augmentation(
    {'horizontal_flip': 0.5, 'mixup': 1.0}, (6, 6, 1), 23
  )
  take = jax.pmap(
    functools.partial(step._take_batch, plan=plan, augment=augment),
    axis_name=AXIS,
    in_axes=(0, *[None] * 4),
    devices=jax.devices()[:num_devices],
  )
  permutation = np.random.default_rng(1).permutation(ROWS)
  batch, mask, keys = take(
    np.arange(num_devices), DATA, permutation, 0, jax.random.key(0)
  )
  real = np.asarray(mask) == 1
  parts = (batch['image'], batch['label'], jax.random.key_data(keys))
  images, labels, keys = (np.asarray(part)[real] for part in parts)
  expected = jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(0), permutation[:batch_size]
  )
  # The objectives' keys are the same without augmentation.
  np.testing.assert_array_equal(keys, jax.random.key_data(expected))
  return permutation[:batch_size], images, labels


def test_neither_the_devices_nor_the_batch_change_a_bit():
  rows, images, labels = first_batch(2, 19)
  few_rows, few_images, few_labels = first_batch(1, 4)
  np.testing.assert_array_equal(few_rows, rows[:4])
  np.testing.assert_array_equal(few_images, images[:4])
  np.testing.assert_array_equal(few_labels, labels[:4])
  # Each with another example, of which none is held out.
  own = labels[np.arange(19), rows]
  assert (own > 0).all()
  others = labels.copy()
  others[np.arange(19), rows] = 0
  partners = others.argmax(1)
  assert np.isin(partners[own < 1], ROWS).all()
  assert len(np.unique(partners)) > 8
  np.testing.assert_allclose(own + others.sum(1), 1, atol=1e-6)
  # The mixture, each of the two flipped or not by a draw of its own.
  share = own[:, None, None, None]
  flipped = [
    (slice(None, None, first), slice(None, None, second))
    for first in (1, -1)
    for second in (1, -1)
  ]
  matches = np.array(
    [
      abs(
        share * IMAGES[rows][:, :, first] / 255
        + (1 - share) * IMAGES[partners][:, :, second] / 255
        - images
      ).max((1, 2, 3))
      < 1e-5
      for first, second in flipped
    ]
  )
  assert matches.any(0).all()
  assert matches.any(1).all()


def steps(training, counts):
  """Trains so many steps at a time."""
  state = replicate(training.init_state(), training.devices)
  inputs = device_inputs(training)
  losses = []
  for count in counts:
    state, history = training.train_steps(state, *inputs, np.int32(count))
    losses.append(np.asarray(history['loss'][:count]))
  return jax.tree.map(np.asarray, state), np.concatenate(losses)


def assert_resumes(training):
  whole, losses = steps(training, [4])
  broken, same_losses = steps(training, [1, 3])
  assert np.isfinite(losses).all()
  np.testing.assert_array_equal(same_losses, losses)
  runs.assert_same(broken, whole)


def test_chunks_of_steps_change_no_bits():
  config = runs.config(objective={'name': 'standard'})
  config.hparams = {'learning_rate': 0.1}
  config.augmentation.update(horizontal_flip=0.5, cutmix=1.0)
  assert_resumes(create_run(config, runs.dataset(), jax.devices()))


def test_an_augmentation_that_does_not_fit_is_an_error_before_training():
  config = runs.config()
  config.augmentation.saturation = 0.1
  with pytest.raises(
    ValueError, match=r'augmentation.saturation = 0.1; .* 1 channels, not 3'
  ):
    create_run(config, runs.dataset(), jax.devices())


@pytest.mark.parametrize('name', ['adversarial_regularization', 'trades'])
def test_objectives_take_shares_of_classes(name):
  """The loss is that of the mixture, and the attacks take them too."""
  spec = OBJECTIVES[name]
  hparams = dict.fromkeys((*spec.required, *spec.positive), 0.05)
  options = {'num_steps': 1} if name in ('pgd_at', 'trades') else {}
  objective = create_objective({'name': name, **options})

  certain = np.eye(networks.NUM_CLASSES)[networks.LABELS]
  shares = (certain + 1 / networks.NUM_CLASSES) / 2

  @networks.compiled
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
  if name != 'trades':
    # The attack increased the loss of the shares.
    assert (metrics['adversarial_loss'] > metrics['clean_loss']).all()
