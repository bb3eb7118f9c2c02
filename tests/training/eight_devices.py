"""Trains on noise with 1 and 8 devices, and writes the parameters.

A program of its own, since a process has one number of CPU devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from advjax.config import default_config
from advjax.devices import AXIS, replicate
from advjax.training.setup import create_run, device_inputs
from tests.training import runs

NUM_STEPS = 4


def make_training(num_devices):
  config = default_config()
  config.model = {'name': 'mlp', 'hidden_units': (16,)}
  # Every batch is padded on 8 devices, and the last of 27 more so.
  config.batch_size = 30
  # Not Adam: it would take a gradient of any scale for the same.
  config.optimizer.name = 'sgd'
  config.hparams.learning_rate = 0.1
  config.objective = {
    'name': 'adversarial_regularization',
    'norm': 'l2',
    'num_steps': 1,
    'random_start': True,
  }
  config.hparams.update(multiplier=0.5, step_size=0.5, epsilon=0.8)
  config.num_validation = 0
  # Three batches, the last of 27.
  dataset = runs.dataset(num_train=87)
  return create_run(config, dataset, jax.devices()[:num_devices])


def run(training, train_steps):
  """Steps over the end of an epoch, and so over its smaller last batch."""
  state = training.init_state()
  start = training.plan.steps_per_epoch - NUM_STEPS // 2
  step = jnp.full_like(state.step, start)
  state = replicate(state._replace(step=step), training.devices)
  inputs = device_inputs(training)
  losses = []
  for _ in range(2):
    state, history = train_steps(state, *inputs, np.int32(NUM_STEPS // 2))
    losses.append(np.asarray(history['loss'][: NUM_STEPS // 2]))
  kept = (state.params, state.opt_state)
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(kept)]
  return leaves, np.concatenate(losses)


def main(path):
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  results = {}
  for num_devices in (1, 8):
    training = make_training(num_devices)
    results[f'pmap_{num_devices}'] = run(training, training.train_steps)
  per_device = training.device_steps
  mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.jit(
    jax.shard_map(
      lambda ranks, *args: jax.tree.map(
        lambda x: x[None], per_device(ranks[0], *args)
      ),
      mesh=mesh,
      in_specs=(PartitionSpec(AXIS), *[PartitionSpec()] * 4),
      out_specs=PartitionSpec(AXIS),
    )
  )

  def first_copies(*args):
    """The state and losses of the first device, after a look at the others."""
    copies = jax.tree.map(np.asarray, sharded(np.arange(8), *args))
    for leaf in jax.tree.leaves(copies):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    first = jax.tree.map(lambda x: x[0], copies)
    return replicate(first, training.devices)

  results['shard_map'] = run(training, first_copies)
  np.savez(
    path,
    **{f'{name}/losses': losses for name, (_, losses) in results.items()},
    **{
      f'{name}/{index}': leaf
      for name, (leaves, _) in results.items()
      for index, leaf in enumerate(leaves)
    },
  )


if __name__ == '__main__':
  main(sys.argv[1])
