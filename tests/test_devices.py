"""Devices: which there are, and that results do not depend on their number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from advjax.devices import (
  AXIS,
  Batching,
  map_examples,
  parallelize,
  replicate,
  select_devices,
)
from advjax.training.setup import device_inputs
from tests import compiles
from tests.training import runs

NUM_STEPS = 4


def make_training(num_devices):
  """Batches of 31 and a last one of 9, of which the second device has none."""
  return runs.run(
    num_devices,
    runs.dataset(num_train=71),
    batch_size=31,
    # Not Adam: it would take a gradient of any scale for the same.
    optimizer__name='sgd',
    objective={'name': 'fgsm_at', 'random_start': True},
    hparams__step_size=0.05,
    hparams__epsilon=0.08,
  )


def train(training, train_steps):
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
  leaves = jax.tree.leaves((state.params, state.opt_state))
  return [*map(np.asarray, leaves), np.concatenate(losses)]


def test_any_number_of_devices_trains_the_same():
  """And all devices hold the same state, after a last batch that is smaller."""
  one, two = make_training(1), make_training(2)
  mesh = jax.make_mesh((2,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.jit(
    jax.shard_map(
      lambda ranks, *args: jax.tree.map(
        lambda x: x[None], two.device_steps(ranks[0], *args)
      ),
      mesh=mesh,
      in_specs=(PartitionSpec(AXIS), *[PartitionSpec()] * 4),
      out_specs=PartitionSpec(AXIS),
    )
  )

  def first_copies(*args):
    """The state and losses of the first device, after a look at the other."""
    copies = jax.tree.map(np.asarray, sharded(np.arange(2), *args))
    for leaf in jax.tree.leaves(copies):
      np.testing.assert_array_equal(leaf[0], leaf[1])
    return replicate(jax.tree.map(lambda x: x[0], copies), two.devices)

  expected = train(one, one.train_steps)
  assert len(expected) == 5
  for train_steps in (two.train_steps, first_copies):
    for found, value in zip(train(two, train_steps), expected, strict=True):
      np.testing.assert_allclose(found, value, rtol=2e-5, atol=1e-6)


def test_parallelize_runs_on_every_device():
  where = parallelize(
    lambda rank, x: jax.lax.psum(x + rank, AXIS), jax.devices(), num_args=1
  )
  assert len(jax.devices()) == 2
  assert float(where(np.float32(3))) == 7.0


def draw(values, keys, factor):
  """A pytree of results; arrays of several ranks and dtypes."""
  noise = jax.vmap(jax.random.uniform)(keys)
  return {'noise': noise, 'scaled': (factor['a'] * values, values.astype(int))}


VALUES = np.arange(22, dtype=np.float32).reshape(11, 2)


@pytest.mark.parametrize(
  ('batch_size', 'num_devices', 'fill'), [(3, 2, True), (11, 1, False)]
)
def test_a_map_does_not_depend_on_batches_or_devices(
  batch_size, num_devices, fill
):
  key = jax.random.key(3)
  batching = Batching(batch_size, jax.devices()[:num_devices], key)
  found = map_examples(
    draw, [VALUES], {'a': np.float32(2)}, batching=batching, fill=fill
  )
  drawn = jax.jit(
    jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))
  )
  np.testing.assert_array_equal(found['noise'], drawn(np.arange(11)))
  scaled, integers = found['scaled']
  np.testing.assert_array_equal(scaled, 2 * VALUES)
  np.testing.assert_array_equal(integers, VALUES.astype(int))


def test_full_batches_of_other_numbers_of_examples_compile_nothing():
  batching = Batching(4, jax.devices())
  add = lambda x, y, keys: x + y  # noqa: E731
  assert (
    map_examples(
      add, [VALUES[:, 0], VALUES[:, 1]], batching=batching, fill=True
    ).tolist()
    == VALUES.sum(1).tolist()
  )
  with compiles.counted() as count:
    for size in (1, 7, 8):
      part = VALUES[:size]
      found = map_examples(
        add, [part[:, 0], part[:, 1]], batching=batching, fill=True
      )
      np.testing.assert_array_equal(found, part.sum(1))
  assert count == [0]


def test_replicate_keeps_one_array_per_leaf():
  found = replicate({'a': np.arange(3)}, jax.devices())['a']
  assert found.shape == (3,)
  assert found.sharding.device_set == set(jax.devices())
  assert found.is_fully_replicated


def test_select_devices():
  assert select_devices() == jax.devices()
  assert select_devices('cpu') == jax.devices()
  assert select_devices('cpu', 1) == jax.devices()[:1]
  assert select_devices(None, 2) == jax.devices()


def test_devices_that_are_not_there():
  for platform, num_devices, message in [
    ('tpu', None, r"platform = 'tpu'; allowed: 'cpu'"),
    ('gup', None, r"platform = 'gup'.*did you mean 'gpu'"),
    ('cpu', 0, r'devices = 0; allowed: an integer >= 1'),
    ('cpu', 3, r"devices = 3; allowed: at most 2, .*'cpu'"),
  ]:
    with pytest.raises(ValueError, match=message):
      select_devices(platform, num_devices)


class FakeDevice(NamedTuple):
  """What `select_devices` looks at."""

  process_index: int
  id: int
  platform: str = 'tpu'


def test_devices_of_several_processes(monkeypatch):
  """So many of each process, one process after the other."""
  found = [FakeDevice(index % 2, index) for index in range(8)]
  monkeypatch.setattr(jax, 'devices', lambda platform=None: found)
  by_id = [device.id for device in select_devices('tpu')]
  assert by_id == [0, 2, 4, 6, 1, 3, 5, 7]
  assert [device.id for device in select_devices('tpu', 2)] == [0, 2, 1, 3]
  with pytest.raises(
    ValueError, match=r'devices = 5; allowed: at most 4, .* of a process'
  ):
    select_devices('tpu', 5)


def test_processes_with_different_numbers_of_devices(monkeypatch):
  found = [FakeDevice(0, 0), FakeDevice(0, 1), FakeDevice(1, 2)]
  monkeypatch.setattr(jax, 'devices', lambda platform=None: found)
  with pytest.raises(ValueError, match=r'devices per process = \[2, 1\]'):
    select_devices('tpu')
