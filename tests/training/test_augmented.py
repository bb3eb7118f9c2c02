"""Training on augmented images: the same for any devices, batch and break."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data
from advjax.augmentation import create_augmentation
from advjax.training import placement, setup, step
from advjax.training.objectives import OBJECTIVES, create_objective
from advjax.training.objectives.common import accuracy
from advjax.training.parallel import replicate
from tests.training import networks, runs

ROWS = np.delete(np.arange(23, dtype=np.int32), [2, 3, 19])
IMAGES = np.random.default_rng(0).integers(0, 256, (23, 6, 6, 1), np.uint8)
# Every example is a class of its own: labels tell who was mixed.
DATA = {'image': IMAGES, 'label': np.arange(23, dtype=np.int32)}


def first_batch(num_devices, batch_size):
  """Images, labels and keys of the real rows of the first step."""
  plan = step.StepPlan(len(ROWS), batch_size, num_devices)
  augment = create_augmentation(
    {'crop_padding': 1, 'salt_and_pepper': 0.1, 'mixup': 1.0}, (6, 6, 1), 23
  )
  take = jax.pmap(
    functools.partial(step._take_batch, plan=plan, augment=augment),
    axis_name=step.AXIS,
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
  # Those that objectives draw with are as they are without augmentation.
  np.testing.assert_array_equal(keys, jax.random.key_data(expected))
  return permutation[:batch_size], images, labels


def test_neither_the_devices_nor_the_batch_change_a_bit():
  rows, images, labels = first_batch(2, 19)
  few_rows, few_images, few_labels = first_batch(1, 4)
  np.testing.assert_array_equal(few_rows, rows[:4])
  np.testing.assert_array_equal(few_images, images[:4])
  np.testing.assert_array_equal(few_labels, labels[:4])
  assert (images != IMAGES[rows] / np.float32(255)).mean() > 0.9
  # Partners are other examples, none of which is held out.
  np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
  assert (labels[np.arange(19), rows] > 0).all()
  others = labels.copy()
  others[np.arange(19), rows] = 0
  held_out = np.setdiff1d(np.arange(23), ROWS)
  assert (others[:, held_out] == 0).all()
  assert len(np.unique(others.argmax(1))) > 8


def steps(training, counts):
  """Trains so many steps at a time."""
  state = replicate(training.init_state(), training.devices)
  inputs = placement.device_inputs([training])
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


def test_a_run_that_was_interrupted_is_that_which_was_not():
  config = runs.config()
  config.augmentation.update(horizontal_flip=0.5, cutmix=1.0)
  devices = jax.devices()
  assert_resumes(setup.create_training(config, runs.dataset(), devices))
  # And it is another program than that of a run without.
  plain = runs.training(2)
  config.augmentation.update(horizontal_flip=0.0, cutmix=0.0)
  same = setup.create_training(config, runs.dataset(), devices)
  assert same.train_steps is plain.train_steps


@pytest.mark.slow
def test_everything_at_once_on_the_digits():
  config = runs.config()
  for name, value in config.augmentation.items():
    if name in ('crop_padding', 'cutout'):
      config.augmentation[name] = 4
    elif name not in ('saturation', 'hue', 'resized_crop_ratio'):
      config.augmentation[name] = 0.2 if value == 0 else value
  config.augmentation.poisson = 100.0
  assert_resumes(
    setup.create_training(config, data.digits.load(), jax.devices())
  )


def test_an_augmentation_that_does_not_fit_is_an_error_before_training():
  config = runs.config()
  config.augmentation.saturation = 0.1
  with pytest.raises(
    ValueError, match=r'augmentation.saturation = 0.1; .* 1 channels, not 3'
  ):
    setup.create_training(config, runs.dataset(), jax.devices())


# ---------------------------------------------------------------- soft labels


def test_accuracy_counts_the_largest_share():
  logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
  shares = jnp.array([[0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
  assert accuracy(logits, shares).tolist() == [1.0, 0.0]
  assert accuracy(logits, jnp.array([1, 0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize('name', sorted(set(OBJECTIVES) - {'fgsm_at'}))
def test_objectives_take_shares_of_classes(name):
  """Certain ones are classes; every loss of mixed ones is the mixture."""
  spec = OBJECTIVES[name]
  hparams = dict.fromkeys((*spec.required, *spec.positive), 0.1)
  options = {} if name in ('standard', 'trades') else {'num_steps': 1}
  objective = create_objective({'name': name, **options})

  @networks.compiled
  def run(labels):
    batch = networks.batch() | {'label': labels}
    loss, (_, metrics) = objective(
      networks.apply, networks.params(), {}, batch, hparams, networks.keys()
    )
    return loss, metrics

  certain = jax.nn.one_hot(networks.LABELS, networks.NUM_CLASSES)
  whole, expected = run(jnp.asarray(networks.LABELS)), run(certain)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    whole,
    expected,
  )
  uniform = jnp.full_like(certain, 1 / networks.NUM_CLASSES)
  loss, metrics = run((certain + uniform) / 2)
  assert np.isfinite(loss)
  logits = networks.MLP.logits(networks.IMAGES)
  log_probs = np.log(networks.softmax(logits))
  shares = np.asarray(certain + uniform) / 2
  np.testing.assert_allclose(
    metrics['clean_loss'], -(shares * log_probs).sum(1), rtol=1e-4
  )
  np.testing.assert_array_equal(
    metrics['clean_accuracy'], expected[1]['clean_accuracy']
  )
