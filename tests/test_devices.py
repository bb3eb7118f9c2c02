"""Devices: which there are, and that results do not depend on their number."""

import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.devices import (
  AXIS,
  Batching,
  map_examples,
  parallelize,
  replicate,
  select_devices,
)
from tests import compiles

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """What `eight_devices.py` leaves: name -> its arrays."""
  path = tmp_path_factory.mktemp('eight_devices') / 'results.npz'
  subprocess.run(
    [sys.executable, '-m', 'tests.training.eight_devices', str(path)],
    check=True,
    cwd=ROOT,
    timeout=300,
  )
  with np.load(path) as results:
    return dict(results)


@pytest.mark.parametrize('name', ['pmap_8', 'shard_map'])
def test_any_number_of_devices_trains_the_same(trained, name):
  """And all devices hold the same state, after a last batch that is smaller."""
  expected = {
    key.removeprefix('pmap_1/'): value
    for key, value in trained.items()
    if key.startswith('pmap_1/')
  }
  assert len(expected) == 9
  for key, value in expected.items():
    np.testing.assert_allclose(
      trained[f'{name}/{key}'], value, rtol=2e-5, atol=1e-6
    )


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
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(11))
  np.testing.assert_array_equal(
    found['noise'], jax.vmap(jax.random.uniform)(keys)
  )
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
    ('gup', None, r"unknown platform 'gup'.*did you mean 'gpu'"),
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
