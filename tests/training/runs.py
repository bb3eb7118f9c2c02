"""Runs of seconds: a tiny data set, a tiny network, few steps."""

import signal

import jax
import numpy as np

from advjax.config import default_config
from advjax.data import Dataset, Split
from advjax.training.setup import create_run

NUM_TRAIN, NUM_TEST, NUM_CLASSES = 22, 10, 3

# 22 examples in batches of 4: six steps per epoch, two examples in the last.
STEPS_PER_EPOCH = 6

UNFREEZING = {
  'name': 'plateau',
  'patience': 1,
  # Unreachable: every second epoch ends a plateau.
  'min_improvement': 0.9,
  'rate_factor': 0.5,
}


def dataset(seed=0, num_train=NUM_TRAIN, shape=(3, 3, 1)):
  """Noise with a bright column per class, uint8 `[N, *shape]`."""
  rng = np.random.default_rng(seed)

  def split(count):
    labels = np.arange(count, dtype=np.int32) % NUM_CLASSES
    images = rng.integers(0, 150, size=(count, *shape), dtype=np.uint8)
    images[np.arange(count), :, labels] += 80
    return Split(images, labels)

  names = tuple('abc')
  train, test = split(num_train), split(NUM_TEST)
  return Dataset('tiny', train, test, NUM_CLASSES, names)


def config(**changes):
  """A config of three epochs under FGSM training."""
  result = default_config()
  result.model = {'name': 'logistic_regression'}
  result.objective = {'name': 'fgsm_at'}
  result.hparams.update(learning_rate=0.1, epsilon=0.1, step_size=0.125)
  result.batch_size = 4
  result.num_epochs = 3
  result.num_validation = 0
  result.monitor.update(num_images=8, num_steps=1)
  result.evaluation.batch_size = 8
  with result.unlocked():
    for field, value in changes.items():
      section, _, name = field.rpartition('__')
      (result[section] if section else result)[name] = value
  return result


def run(num_devices=1, data=None, **changes):
  return create_run(
    config(**changes),
    data or dataset(),
    jax.devices()[:num_devices],
  )


def stopped_after(run, steps):
  """The same run, which a signal stops once it has made so many steps."""

  def frozen_steps(count):
    steps_of = run.frozen_steps(count)

    def train_steps(state, data, inputs, num_steps):
      if int(num_steps) and int(state.step) >= steps:
        signal.raise_signal(signal.SIGTERM)
      return steps_of(state, data, inputs, num_steps)

    return train_steps

  return run._replace(frozen_steps=frozen_steps)


def assert_close(found, expected):
  """Asserts that two pytrees are equal but for rounding."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    found,
    expected,
  )


def assert_same_run(found, expected):
  """Asserts that a run ended alike with others and alone, or with fewer.

  Bit for bit on CPUs, where one run follows the other; elsewhere they are
  vmapped, and a batched product may round differently.
  """
  cpu = jax.default_backend() == 'cpu'
  (assert_same if cpu else assert_close)(found, expected)


def assert_same(found, expected):
  """Asserts that two pytrees are equal, bit for bit."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)
