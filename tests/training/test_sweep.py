"""Groups, chunks and teams of a sweep."""

import logging

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import memory
from advjax.jobs.workdir import prepare_workdir
from advjax.training import sweep
from advjax.training.loop import train
from tests import compiles
from tests.training import runs

EPSILONS = (0.02, 0.05, 0.1, 0.15, 0.2)


def configs(**changes):
  return [
    runs.config(hparams__epsilon=epsilon, num_epochs=1, **changes)
    for epsilon in EPSILONS
  ]


def train_all(path, members=None, num_devices=2):
  members = members or configs()
  names = [str(index) for index in range(len(members))]
  folders = [
    prepare_workdir(path / name, config)
    for name, config in zip(names, members, strict=True)
  ]
  return list(
    sweep.train_group(
      members, folders, names, runs.dataset(), jax.devices()[:num_devices]
    )
  )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return train_all(tmp_path_factory.mktemp('whole'))


@given(st.integers(1, 300), st.integers(1, 300))
def test_chunks_hold_every_run_and_none_is_too_large(num_runs, limit):
  sizes = sweep.cut(num_runs, limit)
  assert sum(sizes) == num_runs
  assert min(sizes) > 0 and max(sizes) <= limit
  # As few as can be, and all of one size but the last.
  assert len(sizes) == -(-num_runs // limit)
  assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_teams_are_equal_and_have_work(num_runs, num_devices, batch_size):
  teams, size = sweep.choose_groups(num_runs, num_devices, batch_size)
  assert num_devices % teams == 0 and teams <= num_runs
  larger = range(teams + 1, min(num_runs, num_devices) + 1)
  assert all(num_devices % count for count in larger)
  assert size == min(num_devices // teams, batch_size)


def test_traced_numbers_alone_stay_in_one_group():
  members = configs()
  members[1].seed = 5
  members[2].init_from = 'somewhere'
  members[3].batch_size = 8
  members[4].objective.norm = 'l2'
  assert sweep.group_by_program(members) == [[0, 1, 2], [3], [4]]


def test_fields_that_others_are_derived_from_make_no_group():
  members = configs()
  for index, config in enumerate(members):
    with config.unlocked():
      config.step_ratio = float(index)
  assert sweep.group_by_program(members) == [list(range(len(members)))]


def test_a_group_that_fits_is_one_chunk_of_teams(whole):
  (chunk,) = whole
  assert chunk.indices == list(range(len(EPSILONS)))
  assert chunk.how == (
    'one after the other in 2 teams of 1 device, in one program'
  )
  assert [training.config.hparams.epsilon for training in chunk.trainings] == [
    *EPSILONS
  ]


def test_too_many_runs_for_the_memory_are_cut(
  whole, tmp_path, monkeypatch, caplog
):
  """Memory for one run per device."""
  training = runs.training()
  leaves = jax.tree.leaves(training.init_state())
  state = sum(leaf.nbytes for leaf in leaves)
  monkeypatch.setattr(memory, '_available_memory', lambda: 2 * 15 * state)
  assert sweep.runs_that_fit(training, 2) == 2
  with caplog.at_level(logging.INFO):
    chunks = train_all(tmp_path)
  assert [chunk.indices for chunk in chunks] == [[0, 1], [2, 3], [4]]
  assert (
    '2 runs of 5 left, for want of memory: one after the other in 2 teams of '
    '1 device, in one program'
  ) in caplog.text
  # A run alone has both devices.
  assert chunks[-1].how == '2 devices'
  found = [result for chunk in chunks for result in chunk.results]
  for one, other in list(zip(found, whole[0].results, strict=True))[:4]:
    runs.assert_same(one.params, other.params)


@pytest.mark.accelerator
def test_out_of_memory_goes_on_with_half_as_many(
  whole, tmp_path, monkeypatch, caplog
):
  once = sweep.train_at_once

  def tight(trainings, workdirs, *, names):
    if len(trainings) > 3:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    return once(trainings, workdirs, names=names)

  monkeypatch.setattr(sweep, 'train_at_once', tight)
  chunks = train_all(tmp_path)
  assert [len(chunk.indices) for chunk in chunks] == [3, 2]
  assert 'out of memory with 5 runs at once: going on with 3' in caplog.text
  found = [result for chunk in chunks for result in chunk.results]
  for one, other in zip(found, whole[0].results, strict=True):
    runs.assert_same_run(one.params, other.params)


def fill(device, left):
  """Takes a device's memory but for so many bytes; returns what holds it."""
  taken = []
  for size in (2**30, 2**27, 2**24):
    while memory.free_memory(device) - size >= left:
      array = jnp.zeros(size, jnp.uint8, device=device)
      taken.append(array.block_until_ready())
  return taken


@pytest.mark.accelerator
def test_a_device_that_is_nearly_full_trains_fewer_at_once(tmp_path, caplog):
  """The states of 16 runs fit, by far, but not what their steps need.

  A step holds two to seven times its images in float32, 96 MiB: one run needs
  less than the 2 GiB that are left, all of them together more.
  """
  device = jax.devices()[0]
  if 'bytes_limit' not in (device.memory_stats() or {}):
    pytest.skip('CPU devices have no memory of their own to run out of')
  data = runs.dataset(num_train=2**13, shape=(32, 32, 3))
  members = [
    runs.config(seed=seed, batch_size=2**13, num_epochs=1) for seed in range(16)
  ]
  names = [str(config.seed) for config in members]
  folders = [
    prepare_workdir(tmp_path / name, config)
    for name, config in zip(names, members, strict=True)
  ]
  taken = fill(device, 2**31)
  try:
    chunks = list(sweep.train_group(members, folders, names, data, [device]))
  finally:
    for array in taken:
      array.delete()
  assert 'out of memory with 16 runs at once: going on with 8' in caplog.text
  assert max(len(chunk.indices) for chunk in chunks) <= 8
  found = [result for chunk in chunks for result in chunk.results]
  assert [result.records[-1]['step'] for result in found] == [1] * 16


def test_a_batch_smaller_than_the_devices_leaves_some_idle(tmp_path):
  (chunk,) = train_all(tmp_path, configs(batch_size=1)[:1])
  assert chunk.how == '1 device'
  assert chunk.trainings[0].plan.num_devices == 1


@pytest.mark.parametrize(
  ('message', 'count'), [('INTERNAL: no', 2), ('RESOURCE_EXHAUSTED: no', 1)]
)
def test_what_smaller_chunks_do_not_mend_is_raised(
  message, count, tmp_path, monkeypatch
):
  def broken(*args, **kwargs):
    raise jax.errors.JaxRuntimeError(message)

  monkeypatch.setattr(sweep, 'train_at_once', broken)
  with pytest.raises(jax.errors.JaxRuntimeError, match=message):
    train_all(tmp_path, configs()[:count])


def test_other_values_compile_nothing(whole, tmp_path):
  members = configs()
  for index, config in enumerate(members):
    config.hparams.epsilon *= 0.9
    config.seed = index
  with compiles.counted() as count:
    (chunk,) = train_all(tmp_path, members)
  assert count == [0]
  # And they count: these are the runs that were asked for.
  alone = runs.training(seed=3, hparams__epsilon=0.9 * 0.15, num_epochs=1)
  result = train(alone, prepare_workdir(tmp_path / 'alone', alone.config))
  runs.assert_same(chunk.results[3].params, result.params)
