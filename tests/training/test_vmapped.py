"""Several runs trained at once end where each of them ends alone."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax import devices
from advjax.jobs.workdir import prepare_workdir
from advjax.training import vmapped
from advjax.training.loop import Diverged, train
from advjax.training.vmapped import (
  many_inputs,
  map_train_many,
  place,
  train_many,
)
from tests import compiles
from tests.training import runs

SEEDS = (0, 1, 7)
# 9 held out: other seeds hold out other images and train on others.
CHANGES = {'num_validation': 9, 'num_epochs': 2}


def make_runs():
  data = runs.dataset()
  return [runs.run(data=data, seed=seed, **CHANGES) for seed in SEEDS]


def folders(path, members):
  return [
    prepare_workdir(path / str(member.config.seed), member.config)
    for member in members
  ]


def names(members):
  return [f'seed {member.config.seed}' for member in members]


def together(path):
  members = make_runs()
  return train_many(members, folders(path, members), names=names(members))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  path = tmp_path_factory.mktemp('whole')
  return together(path), path


def steps_in(folder):
  return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def log_of(path, name):
  return (path / name / 'metrics.jsonl').read_bytes()


def numbers(records):
  """What a run logged, as a pytree without what the clock has a say in."""
  return [
    {k: v for k, v in record.items() if k not in ('images_per_second', 'kind')}
    for record in records
  ]


@pytest.mark.accelerator
def test_every_run_ends_where_it_ends_alone(whole, tmp_path):
  results, _ = whole
  for member, result in zip(make_runs(), results, strict=True):
    path = tmp_path / f'alone_{member.config.seed}'
    alone = train(member, prepare_workdir(path, member.config))
    runs.assert_same_run(result.params, alone.params)
    runs.assert_same_run(numbers(result.records), numbers(alone.records))
  # The runs are different ones.
  kernels = [result.params['Dense_0']['kernel'] for result in results]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.mark.parametrize('lost', [('1',), ('0', '7')])
def test_runs_that_were_saved_at_several_steps_go_on(lost, whole, tmp_path):
  """As after a kill while the checkpoints of some were written."""
  results, path = whole
  path = shutil.copytree(path, tmp_path / 'run')
  for name in lost:
    last = path / name / 'checkpoints' / 'last'
    shutil.rmtree(last / str(max(steps_in(last))))
  kept = {name: log_of(path, name) for name in {'0', '1', '7'} - set(lost)}
  for found, expected in zip(together(path), results, strict=True):
    runs.assert_close(found.params, expected.params)
    assert [r['step'] for r in found.records] == [
      r['step'] for r in expected.records
    ]
  # What was finished is left alone.
  for name, log in kept.items():
    assert log_of(path, name) == log
    assert len(steps_in(path / name / 'checkpoints' / 'last')) == 2


@pytest.mark.accelerator
def test_batched_steps_are_those_of_one_run_after_the_other():
  """What accelerators run, on the CPU."""
  members = make_runs()
  states = [member.init_state() for member in members]
  data, inputs = many_inputs(members)
  steps, devices = members[0].device_steps, tuple(members[0].devices)
  found = []
  for batched in (True, False):
    program = map_train_many(steps, devices, batched)
    placement = place(members)
    counts = placement.num_steps(5, (0, 2))
    assert counts.tolist() == [[5, 0, 5]]
    state, history = program(placement.put(states), data, inputs, counts)
    found.append((state, history['loss'][0, np.array([0, 2])]))
    assert state.step.tolist() == [[5, 0, 5]]
    waiting = placement.get(state)[1]
    runs.assert_same(waiting, jax.tree.map(np.asarray, states[1]))
  runs.assert_close(*found)


def test_a_run_that_diverges_takes_no_other_with_it(tmp_path, caplog):
  data = runs.dataset()
  members = [
    runs.run(data=data, hparams__learning_rate=rate, **CHANGES)
    for rate in (0.1, 1e38, 0.2)
  ]
  paths = [
    prepare_workdir(tmp_path / str(i), member.config)
    for i, member in enumerate(members)
  ]
  results = train_many(members, paths, names=['a', 'b', 'c'])
  assert isinstance(results[1], Diverged)
  assert str(results[1]).startswith('b: ')
  assert [record.message for record in caplog.records].count(
    f'error: {results[1]}'
  ) == 1
  for index in (0, 2):
    alone = runs.run(
      data=data, hparams__learning_rate=(0.1, None, 0.2)[index], **CHANGES
    )
    path = prepare_workdir(tmp_path / f'alone_{index}', alone.config)
    runs.assert_same(results[index].params, train(alone, path).params)


EPSILONS = (0.02, 0.1, 0.2)


def configs(**changes):
  return [
    runs.config(hparams__epsilon=epsilon, num_epochs=1, **changes)
    for epsilon in EPSILONS
  ]


def train_all(path, members=None, num_runs=None):
  members = members or configs()
  names = [str(index) for index in range(len(members))]
  folders = [
    prepare_workdir(path / name, config)
    for name, config in zip(names, members, strict=True)
  ]
  return list(
    vmapped.train_group(
      members,
      folders,
      names,
      runs.dataset(),
      jax.devices()[:2],
      num_runs=num_runs or len(members),
    )
  )


@pytest.fixture(scope='module')
def group(tmp_path_factory):
  """A group of runs that fits in memory."""
  (chunk,) = train_all(tmp_path_factory.mktemp('group'))
  assert chunk.how == ('sequential on 2 groups of 1 device, in one program')
  return chunk


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_device_groups_are_equal_and_have_work(
  num_runs, num_devices, batch_size
):
  groups, size = vmapped.choose_groups(num_runs, num_devices, batch_size)
  assert num_devices % groups == 0 and groups <= num_runs
  larger = range(groups + 1, min(num_runs, num_devices) + 1)
  assert all(num_devices % count for count in larger)
  assert size == min(num_devices // groups, batch_size)


def test_too_many_runs_for_the_memory_are_cut(
  group, tmp_path, monkeypatch, caplog
):
  """Memory for one run per device."""
  training = runs.run()
  leaves = jax.tree.leaves(training.init_state())
  state = sum(leaf.nbytes for leaf in leaves)
  monkeypatch.setattr(devices, '_available_memory', lambda: 2 * 15 * state)
  assert vmapped.runs_that_fit(training, 2) == 2
  with caplog.at_level(logging.INFO):
    chunks = train_all(tmp_path)
  assert [chunk.indices for chunk in chunks] == [[0, 1], [2]]
  assert (
    '2 runs of 3 left (limited memory): sequential on 2 groups of '
    '1 device, in one program'
  ) in caplog.text
  # A run that is left over has as many devices as the others.
  assert chunks[-1].how == '1 device'
  found = [result for chunk in chunks for result in chunk.results]
  for one, other in zip(found, group.results, strict=True):
    runs.assert_same(one.params, other.params)


def test_the_runs_left_have_the_devices_of_all(group, tmp_path):
  """A sweep that resumes ends as one that was not interrupted."""
  (chunk,) = train_all(tmp_path, configs()[1:2], num_runs=3)
  assert chunk.how == '1 device'
  runs.assert_same(chunk.results[0].params, group.results[1].params)


@pytest.mark.accelerator
def test_out_of_memory_goes_on_with_half_as_many(
  group, tmp_path, monkeypatch, caplog
):
  once = vmapped.train_many

  def tight(members, workdirs, *, names):
    if len(members) > 2:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    return once(members, workdirs, names=names)

  monkeypatch.setattr(vmapped, 'train_many', tight)
  chunks = train_all(tmp_path)
  assert [len(chunk.indices) for chunk in chunks] == [2, 1]
  assert (
    'out of memory with 3 simultaneous runs: resuming with 2' in caplog.text
  )
  found = [result for chunk in chunks for result in chunk.results]
  for one, other in zip(found, group.results, strict=True):
    runs.assert_same_run(one.params, other.params)


def fill(device, left):
  """Takes a device's memory but for so many bytes; returns what holds it."""
  taken = []
  for size in (2**30, 2**27, 2**24):
    while devices.free_memory(device) - size >= left:
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
    chunks = list(
      vmapped.train_group(members, folders, names, data, [device], num_runs=16)
    )
  finally:
    for array in taken:
      array.delete()
  assert (
    'out of memory with 16 simultaneous runs: resuming with 8' in caplog.text
  )
  assert max(len(chunk.indices) for chunk in chunks) <= 8
  found = [result for chunk in chunks for result in chunk.results]
  assert [result.records[-1]['step'] for result in found] == [1] * 16


def test_other_values_compile_nothing(group, tmp_path):
  members = configs()
  for index, config in enumerate(members):
    config.hparams.epsilon *= 0.9
    config.seed = index
  with compiles.counted() as count:
    (chunk,) = train_all(tmp_path, members)
  assert count == [0]
  # And they count: these are the runs that were asked for.
  alone = runs.run(seed=1, hparams__epsilon=0.9 * 0.1, num_epochs=1)
  result = train(alone, prepare_workdir(tmp_path / 'alone', alone.config))
  runs.assert_same(chunk.results[1].params, result.params)
