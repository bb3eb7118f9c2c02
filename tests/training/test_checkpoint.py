"""Checkpoints: round trips, kills and files that have changed."""

import errno
import logging
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from advjax.training.checkpoint import (
  checkpoint_directory,
  load_params,
  restore_checkpoint,
  save_checkpoint,
  saved_steps,
)
from advjax.training.step import TrainState
from tests.training.runs import assert_same

ROOT = pathlib.Path(__file__).parents[2]


def make_state(step, *, ema=False):
  rng = np.random.default_rng(step)
  params = {
    'Dense_0': {
      'kernel': rng.normal(size=(40, 30)).astype(np.float32),
      'bias': rng.normal(size=3).astype(np.float32),
    }
  }
  return TrainState(
    step=np.int32(step),
    params=params,
    model_state={'batch_stats': {'mean': np.float32([step])}},
    opt_state=jax.device_get(optax.adam(1.0).init(params)),
    ema_params=jax.tree.map(lambda leaf: leaf / 2, params) if ema else None,
  )


@pytest.fixture(scope='module')
def two_saved(tmp_path_factory):
  """A folder with the checkpoints of steps 3 and 7."""
  path = tmp_path_factory.mktemp('saved') / 'last'
  for step in (3, 7):
    save_checkpoint(path, make_state(step), {'note': f'at {step}'}, keep=2)
  return path


@pytest.fixture
def saved(two_saved, tmp_path):
  return pathlib.Path(shutil.copytree(two_saved, tmp_path / 'last'))


def test_round_trip(tmp_path):
  state = make_state(5, ema=True)
  record = {'losses': [0.1, 1 / 3], 'best_step': None, 'nested': {'a': ['b']}}
  save_checkpoint(tmp_path, state, record, keep=1)
  found = restore_checkpoint(tmp_path, make_state(0, ema=True))
  assert_same(found.state, state)
  assert found.record == record


def test_the_newest_is_restored_and_old_ones_are_dropped(saved):
  assert restore_checkpoint(saved, make_state(0)).record == {'note': 'at 7'}
  save_checkpoint(saved, make_state(9), {'note': 'at 9'}, keep=2)
  assert sorted(p.name for p in saved.iterdir() if p.name.isdigit()) == [
    '7',
    '9',
  ]


def test_a_step_can_be_saved_again(saved):
  state = make_state(1)._replace(step=np.int32(7))
  save_checkpoint(saved, state, {'note': 'again'}, keep=2)
  found = restore_checkpoint(saved, make_state(0))
  assert found.record == {'note': 'again'}
  assert_same(found.state, state)


def test_no_checkpoint_is_none(tmp_path):
  assert restore_checkpoint(tmp_path / 'absent') is None
  assert restore_checkpoint(tmp_path) is None


def files_of(path):
  return sorted(file for file in path.rglob('*') if file.is_file())


def truncate(step):
  for file in files_of(step / 'state'):
    file.write_bytes(file.read_bytes()[:-20])


def flip_middle(file):
  content = bytearray(file.read_bytes())
  if content:
    content[len(content) // 2] ^= 1
  file.write_bytes(bytes(content))


def remove_data(step):
  shutil.rmtree(step / 'state' / 'd')


def remove_state(step):
  shutil.rmtree(step / 'state')


@pytest.mark.parametrize('damage', [truncate, remove_data, remove_state])
def test_a_broken_checkpoint_gives_way_to_the_one_before(saved, damage, caplog):
  damage(saved / '7')
  with caplog.at_level(logging.WARNING):
    found = restore_checkpoint(saved, make_state(0))
  assert_same(found.state, make_state(3))
  assert found.record == {'note': 'at 3'}
  (message,) = [r.getMessage() for r in caplog.records if 'advjax' in r.name]
  assert 'step 7' in message
  assert str(saved) in message
  # Training resumes from there, and comes to the broken one again.
  save_checkpoint(saved, make_state(7), {'note': 'mended'}, keep=2)
  assert restore_checkpoint(saved, make_state(0)).record == {'note': 'mended'}


def test_no_flipped_bit_is_restored(saved):
  expected = {'at 3': make_state(3), 'at 7': make_state(7)}
  notes = []
  for file in files_of(saved / '7'):
    content = file.read_bytes()
    flip_middle(file)
    found = restore_checkpoint(saved, make_state(0))
    assert_same(found.state, expected[found.record['note']])
    notes.append(found.record['note'])
    file.write_bytes(content)
  assert 'at 3' in notes


def test_nothing_but_broken_checkpoints_is_an_error(saved):
  for step in ('3', '7'):
    truncate(saved / step)
  with pytest.raises(ValueError, match='no checkpoint in') as error:
    restore_checkpoint(saved, make_state(0))
  message = str(error.value)
  assert str(saved) in message
  assert 'step 3' in message
  assert 'step 7' in message


def test_a_moving_average_is_what_loads(tmp_path):
  state = make_state(5, ema=True)
  save_checkpoint(tmp_path, state, {}, keep=1)
  params, _ = load_params(tmp_path, state.params, state.model_state)
  assert_same(params, state.ema_params)


class Pair(NamedTuple):
  """Params whose names are not in alphabetical order."""

  weight: Any
  bias: Any


def test_params_load_by_their_names(tmp_path):
  """What was a named tuple comes back as a dictionary, sorted by name."""
  params = Pair(np.ones(2, np.float32), np.zeros(2, np.float32))
  many = [np.full(1, i, np.float32) for i in range(12)]
  state = TrainState(np.int32(1), (params, many), {}, (), None)
  save_checkpoint(tmp_path, state, {}, keep=1)
  like = jax.tree.map(lambda x: x - 5, (params, many))
  assert_same(load_params(tmp_path, like, {})[0], (params, many))


@pytest.mark.parametrize(
  'params',
  [
    {'Dense_0': {'kernel': np.zeros((40, 31)), 'bias': np.zeros(3)}},
    {'Dense_1': {'kernel': np.zeros((40, 30)), 'bias': np.zeros(3)}},
    {'Dense_0': {'kernel': np.zeros((40, 30))}},
  ],
)
def test_another_network_is_named(saved, params):
  with pytest.raises(ValueError, match=r'another network: arrays differ') as e:
    load_params(saved, params, make_state(0).model_state)
  assert 'Dense_0' in str(e.value)


def test_folders_that_a_user_may_mean(tmp_path, two_saved):
  last = tmp_path / 'checkpoints' / 'last'
  best = tmp_path / 'checkpoints' / 'best'
  for path in (last, best):
    shutil.copytree(two_saved, path)
  assert checkpoint_directory(tmp_path) == last
  assert checkpoint_directory(str(tmp_path / 'checkpoints')) == last
  assert checkpoint_directory(best) == best
  for path in (tmp_path / 'absent', best / '7', tmp_path.parent / 'x'):
    with pytest.raises(ValueError, match='no checkpoint found in'):
      checkpoint_directory(path)


def test_later_checkpoints_that_cannot_be_read_are_dropped(saved):
  """The run goes on from before them, and comes to other steps."""
  truncate(saved / '7')
  save_checkpoint(saved, make_state(5), {'note': 'at 5'}, keep=2)
  assert saved_steps(saved) == [5, 3]
  assert not (saved / '7.sha256').exists()


def test_what_is_too_large_for_a_file_is_refused_before_orbax(
  tmp_path, capfd, monkeypatch
):
  """Whose threads print tracebacks; a quota or a full disk gives the same."""
  resource = pytest.importorskip('resource')
  save_checkpoint(tmp_path, make_state(3), {}, keep=2)
  large = make_state(9)._replace(params={'w': np.zeros(10**6)})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
  try:
    with pytest.raises(OSError) as error:
      save_checkpoint(tmp_path, large, {}, keep=2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert error.value.errno == errno.EFBIG
  assert {path.name for path in tmp_path.iterdir()} == {'3', '3.sha256'}
  assert_same(restore_checkpoint(tmp_path, make_state(0)).state, make_state(3))
  assert capfd.readouterr().err == ''
