"""Several runs trained at once end where each of them ends alone."""

import shutil

import jax
import numpy as np
import optax
import pytest

from advjax.devices import parallelize
from advjax.jobs.workdir import prepare_workdir
from advjax.training.loop import Diverged, train, train_at_once
from advjax.training.optimizers import create_optimizer
from advjax.training.setup import device_inputs
from advjax.training.step import make_train_step, make_train_steps
from advjax.training.vmapped import Placement, make_train_many
from tests import compiles
from tests.training import runs

SEEDS = (0, 1, 7)
# 9 held out: other seeds hold out other images and train on others.
CHANGES = {'num_validation': 9, 'num_epochs': 2}


def trainings(num_devices=1, num_groups=1):
  data = runs.dataset()
  return [
    runs.training(
      num_devices, data=data, num_groups=num_teams, seed=seed, **CHANGES
    )
    for seed in SEEDS
  ]


def folders(path, members):
  return [
    prepare_workdir(path / str(member.config.seed), member.config)
    for member in members
  ]


def names(members):
  return [f'seed {member.config.seed}' for member in members]


def together(path, members=None):
  members = members or trainings()
  return train_at_once(members, folders(path, members), names=names(members))


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


@pytest.mark.parametrize(
  ('num_devices', 'num_teams'),
  [pytest.param(1, 1, marks=pytest.mark.accelerator), (2, 1), (2, 2)],
  ids=['one device', 'two devices', 'two teams of one'],
)
def test_every_run_ends_where_it_ends_alone(num_devices, num_teams, tmp_path):
  """With as many devices as a team has; three runs leave a place in the second
  team empty."""
  members = trainings(num_devices, num_teams)
  results = together(tmp_path / 'together', members)
  for member, result in zip(
    trainings(num_devices // num_teams), results, strict=True
  ):
    path = tmp_path / f'alone_{member.config.seed}'
    alone = train(member, prepare_workdir(path, member.config))
    runs.assert_same_run(result.params, alone.params)
    runs.assert_same_run(numbers(result.records), numbers(alone.records))
  # The runs are different ones.
  kernels = [result.params['Dense_0']['kernel'] for result in results]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_a_folder_of_one_run_can_be_trained_on_alone(whole, tmp_path):
  """The folders are those of single runs: a longer run goes on from one."""
  results, path = whole
  alone = shutil.copytree(path / '7', tmp_path / '7')
  member = trainings()[2]
  with compiles.counted() as count:
    result = train(member, alone)
  assert count == [0]
  runs.assert_same(result.params, results[2].params)
  assert result.records == results[2].records


@pytest.mark.parametrize('lost', [('1',), ('0', '7'), ('0', '1', '7')])
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


def test_a_run_that_has_lost_everything_takes_no_other_with_it(whole, tmp_path):
  results, path = whole
  path = shutil.copytree(path, tmp_path / 'run')
  shutil.rmtree(path / '1' / 'checkpoints')
  before = log_of(path, '0')
  for found, expected in zip(together(path), results, strict=True):
    runs.assert_close(found.params, expected.params)
  assert log_of(path, '0') == before


@pytest.mark.accelerator
def test_batched_steps_are_those_of_one_run_after_the_other():
  """What accelerators run, on the CPU."""
  members = trainings()
  states = [member.init_state() for member in members]
  data, inputs = device_inputs(members)
  found = []
  for batched in (True, False):
    program = parallelize(
      make_train_many(
        make_train_steps(
          make_train_step(
            members[0].model.apply,
            members[0].objective,
            create_optimizer(members[0].config.optimizer),
            optax.constant_schedule(1.0),
          ),
          members[0].plan,
        ),
        batched=batched,
      ),
      members[0].devices,
      num_args=4,
    )
    placement = place(members)
    counts = placement.num_steps(5, (0, 2))
    assert counts.tolist() == [5, 0, 5]
    state, history = program(placement.put(states), data, inputs, counts)
    found.append((state, history['loss'][np.array([0, 2])]))
    assert state.step.tolist() == [5, 0, 5]
    waiting = placement.get(state)[1]
    runs.assert_same(waiting, jax.tree.map(np.asarray, states[1]))
  runs.assert_close(*found)


def test_a_run_that_diverges_takes_no_other_with_it(tmp_path, caplog):
  data = runs.dataset()
  members = [
    runs.training(
      2, data=data, num_groups=2, hparams__learning_rate=rate, **CHANGES
    )
    for rate in (0.1, 1e38, 0.2)
  ]
  paths = [
    prepare_workdir(tmp_path / str(i), member.config)
    for i, member in enumerate(members)
  ]
  results = train_at_once(members, paths, names=['a', 'b', 'c'])
  assert isinstance(results[1], Diverged)
  assert str(results[1]).startswith('b: ')
  assert [record.message for record in caplog.records].count(
    f'error: {results[1]}'
  ) == 1
  for index in (0, 2):
    alone = runs.training(
      data=data, hparams__learning_rate=(0.1, None, 0.2)[index], **CHANGES
    )
    path = prepare_workdir(tmp_path / f'alone_{index}', alone.config)
    runs.assert_same(results[index].params, train(alone, path).params)


def test_runs_may_differ_in_traced_numbers_alone(tmp_path):
  data = runs.dataset()
  members = [
    runs.training(data=data, hparams__epsilon=epsilon, **CHANGES)
    for epsilon in (0.1, 0.2)
  ]
  results = train_at_once(
    members,
    [
      prepare_workdir(tmp_path / str(i), member.config)
      for i, member in enumerate(members)
    ],
    names=['a', 'b'],
  )
  sizes = [
    max(r['perturbation_size'] for r in result.records if r['kind'] == 'epoch')
    for result in results
  ]
  # At the borders of the box a perturbation can be a little smaller.
  assert sizes == pytest.approx([0.1, 0.2], rel=0.02)


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'batch_size': 5}, 'differ in batch_size; allowed: seed, hparams'),
    ({'log_every_steps': 3}, 'differ in log_every_steps'),
    ({'num_devices': 2}, 'differ in the devices'),
    ({'data': runs.dataset(seed=1)}, 'differ in the training images'),
  ],
  ids=['batch size', 'log', 'devices', 'data'],
)
def test_runs_that_differ_in_more_are_refused(changes, named, tmp_path):
  data = runs.dataset()
  members = [
    runs.training(data=data),
    runs.training(**{'data': data} | changes),
  ]
  with pytest.raises(ValueError, match=f'b and a cannot be trained .*{named}'):
    train_at_once(members, [tmp_path, tmp_path], names=['a', 'b'])
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('num_runs', 'num_teams', 'shape'),
  [(1, 1, ()), (3, 1, (3,)), (3, 2, (2, 2)), (4, 2, (2, 2)), (2, 2, (2, 1))],
)
def test_what_is_put_on_the_devices_comes_back(num_runs, num_teams, shape):
  trees = [{'a': np.full(2, i), 'key': np.float32(i)} for i in range(num_runs)]
  placement = Placement(num_runs, num_teams, jax.devices()[:2])
  placed = placement.put(trees)
  assert placed['key'].shape == shape
  assert placed['a'].shape == (*shape, 2)
  found = placement.get(placed)
  assert len(found) == num_runs
  for tree, expected in zip(found, trees, strict=True):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)
