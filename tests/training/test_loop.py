"""The training loop: resuming, stopping, diverging, and what is kept."""

import errno
import logging
import os
import signal

import jax
import numpy as np
import pytest

from advjax.processes.signals import Interrupted
from advjax.training import checkpoint, loop
from advjax.training.checkpoint import restore_checkpoint
from advjax.training.loop import Diverged, read_metrics, train
from tests import compiles
from tests.training import runs
from tests.training.runs import STEPS_PER_EPOCH, assert_same

NUM_STEPS = 3 * STEPS_PER_EPOCH


@pytest.fixture(scope='module')
def training():
  """Has no state of its own, so that all tests can share its program."""
  return runs.run()


def with_config(training, **changes):
  return training._replace(config=runs.config(**changes))


@pytest.fixture(scope='module')
def whole(training, tmp_path_factory):
  """An uninterrupted run."""
  path = tmp_path_factory.mktemp('whole')
  return train(training, path), path


@pytest.fixture
def one_by_one(monkeypatch):
  """Every chunk is one step, as if steps were slow."""
  monkeypatch.setattr(loop, '_CHUNK_SECONDS', 0.0)


def signalling(training, steps, signum=signal.SIGTERM):
  """Raises a signal during the calls that begin with one of these steps."""

  def train_steps(state, data, hparams, count):
    if int(count) and int(state.step) in steps:
      signal.raise_signal(signum)
    return training.train_steps(state, data, hparams, count)

  return training._replace(train_steps=train_steps)


def timeless(records):
  """Records without what differs from run to run."""
  return [
    {k: v for k, v in record.items() if k != 'images_per_second'}
    for record in records
  ]


def test_records_of_an_uninterrupted_run(whole):
  result, path = whole
  assert result.records == read_metrics(path / 'metrics.jsonl')
  kinds = [(r['kind'], r['step'], r['epoch']) for r in result.records]
  assert kinds == [
    (kind, STEPS_PER_EPOCH * epoch, epoch)
    for epoch in (1, 2, 3)
    for kind in ('steps', 'epoch')
  ]
  losses = [r['losses'] for r in result.records if r['kind'] == 'steps']
  assert [len(values) for values in losses] == 3 * [STEPS_PER_EPOCH]
  epochs = [r for r in result.records if r['kind'] == 'epoch']
  for values, epoch in zip(losses, epochs, strict=True):
    # Two examples in the last step: means over examples, not over steps.
    expected = (4 * sum(values[:-1]) + 2 * values[-1]) / 22
    assert epoch['loss'] == pytest.approx(expected)
    for name in (
      'clean_loss',
      'clean_accuracy',
      'adversarial_loss',
      'monitor_robust_accuracy',
      'monitor_clean_accuracy',
    ):
      assert np.isfinite(epoch[name])
  assert epochs[-1]['loss'] < epochs[0]['loss']
  assert result.train_seconds > 0
  assert result.step_milliseconds > 0
  assert result.warnings == []


def test_checkpoints_of_an_uninterrupted_run(whole, training):
  result, path = whole
  last = restore_checkpoint(
    path / 'checkpoints' / 'last', training.init_state()
  )
  assert int(last.state.step) == NUM_STEPS
  assert_same(last.state.params, result.params)
  names = {
    kind: sorted(
      int(p.name)
      for p in (path / 'checkpoints' / kind).iterdir()
      if p.name.isdigit()
    )
    for kind in ('last', 'best')
  }
  assert names['last'] == [2 * STEPS_PER_EPOCH, NUM_STEPS]
  assert len(names['best']) == 1
  assert any((path / 'events').iterdir())


def test_a_finished_run_is_not_trained_again(whole, training):
  result, path = whole
  before = (path / 'metrics.jsonl').read_bytes()

  def fail(*args):
    raise AssertionError

  again = train(training._replace(train_steps=fail), path)
  assert_same(again.params, result.params)
  assert again.records == result.records
  assert again.train_seconds == result.train_seconds
  assert again.step_milliseconds == result.step_milliseconds
  assert (path / 'metrics.jsonl').read_bytes() == before


def test_log_every_steps_adds_records_and_changes_no_bits(whole, whole_runs):
  result, _ = whole_runs[4]
  steps = [r for r in result.records if r['kind'] == 'steps']
  assert [r['step'] for r in steps] == [4, 6, 10, 12, 16, 18]
  assert [len(r['losses']) for r in steps] == 3 * [4, 2]
  for record in steps:
    assert record['loss'] == pytest.approx(np.mean(record['losses']))
  assert_same(result.params, whole[0].params)
  losses = [loss for record in steps for loss in record['losses']]
  assert losses == [
    loss
    for record in whole[0].records
    if record['kind'] == 'steps'
    for loss in record['losses']
  ]


@pytest.fixture(scope='module')
def whole_runs(training, whole, tmp_path_factory):
  """Uninterrupted runs that log every so many steps."""
  path = tmp_path_factory.mktemp('logged')
  logged = train(with_config(training, log_every_steps=4), path)
  return {0: whole, 4: (logged, path)}


@pytest.mark.usefixtures('reproducible_bits')
@pytest.mark.parametrize(
  ('steps', 'signum', 'log_every_steps'),
  [
    ([0, 5], signal.SIGINT, 0),
    pytest.param([6, 7, 13], signal.SIGTERM, 4, marks=pytest.mark.accelerator),
  ],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
  training, whole_runs, tmp_path, one_by_one, steps, signum, log_every_steps
):
  training = with_config(training, log_every_steps=log_every_steps)
  expected, whole_path = whole_runs[log_every_steps]
  path, stopping = tmp_path, list(steps)
  while stopping:
    with pytest.raises(Interrupted) as stop:
      train(signalling(training, stopping, signum), path)
    assert stop.value.signum == signum
    # The step that the signal came in is the last, and it is saved.
    found = restore_checkpoint(path / 'checkpoints' / 'last')
    assert int(found.state['step']) == stopping.pop(0) + 1
  result = train(training, path)
  assert_same(result.params, expected.params)
  assert_same(result.model_state, expected.model_state)
  assert timeless(result.records) == timeless(expected.records)
  ends = [
    restore_checkpoint(p / 'checkpoints' / kind, training.init_state()).state
    for kind in ('last', 'best')
    for p in (path, whole_path)
  ]
  assert_same(ends[0], ends[1])
  assert_same(ends[2], ends[3])


def test_a_signal_in_the_last_look_still_stops(training, whole, tmp_path):
  """The attacks come after training: they must not start."""

  def monitor(*args):
    metrics = training.monitor(*args)
    if len(read_metrics(tmp_path / 'metrics.jsonl')) == 5:
      signal.raise_signal(signal.SIGINT)
    return metrics

  with pytest.raises(Interrupted):
    train(training._replace(monitor=monitor), tmp_path)
  assert_same(train(training, tmp_path).params, whole[0].params)


def test_a_program_is_compiled_once_for_all_its_runs(whole, tmp_path):
  """Resumed runs, other seeds and other hparams compile nothing again."""
  fresh = runs.run()
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
  with compiles.counted() as count, pytest.raises(Interrupted):
    train(signalling(fresh, [6]), tmp_path / 'a')
  assert count == [0]
  with compiles.counted() as count:
    result = train(runs.run(), tmp_path / 'a')
  assert count == [0]
  assert_same(result.params, whole[0].params)
  other = runs.run(seed=5, hparams__epsilon=0.2)
  with compiles.counted() as count:
    train(other, tmp_path / 'b')
  assert count == [0]


def watching(training, accuracies):
  """A training whose robust accuracy is what the list says."""
  values = iter(accuracies)

  def monitor(*args):
    return {'robust_accuracy': next(values), 'clean_accuracy': 0.5}

  return training._replace(monitor=monitor)


def test_the_best_epoch_is_kept_and_reported(training, whole, tmp_path):
  chosen = with_config(training, report_checkpoint='best', num_validation=6)
  result = train(watching(chosen, [0.2, 0.8, 0.5]), tmp_path)
  best = restore_checkpoint(tmp_path / 'checkpoints' / 'best')
  assert int(best.state['step']) == 2 * STEPS_PER_EPOCH
  assert_same(result.params, best.state['params'])
  last = restore_checkpoint(tmp_path / 'checkpoints' / 'last')
  assert_same(last.state['params'], whole[0].params)
  assert (
    result.params['Dense_0']['bias'] != whole[0].params['Dense_0']['bias']
  ).any()


def test_the_monitor_looks_when_it_is_told_to_and_at_the_end(
  training, tmp_path
):
  result = train(with_config(training, monitor__every_epochs=2), tmp_path)
  looked = [
    r['epoch'] for r in result.records if 'monitor_robust_accuracy' in r
  ]
  assert looked == [2, 3]


def test_a_collapse_is_said_once_and_the_state_before_it_stays(
  training, tmp_path, caplog
):
  longer = with_config(training, num_epochs=5)
  accuracies = [0.6, 0.7, 0.05, 0.04, 0.05]
  result = train(watching(longer, accuracies), tmp_path, name='robust')
  (warning,) = result.warnings
  assert '0.700' in warning and '0.050' in warning
  assert 'epoch 3: catastrophic overfitting' in warning
  assert f'step {2 * STEPS_PER_EPOCH}' in warning
  assert caplog.messages == [f'robust: {warning}']
  best = restore_checkpoint(tmp_path / 'checkpoints' / 'best')
  assert int(best.state['step']) == 2 * STEPS_PER_EPOCH
  # Also for those who only look at the finished run.
  assert train(longer, tmp_path).warnings == [warning]


def test_a_loss_that_is_not_finite_stops_the_run(
  training, tmp_path, one_by_one
):
  with pytest.raises(Interrupted):
    train(signalling(training, [5]), tmp_path)
  good = restore_checkpoint(tmp_path / 'checkpoints' / 'last')
  records = read_metrics(tmp_path / 'metrics.jsonl')
  wild = training._replace(hparams=training.hparams | {'learning_rate': 1e38})
  for _ in range(2):  # The same again, from the same checkpoint.
    with pytest.raises(Diverged, match=r'loss is (nan|inf) at step \d+') as e:
      train(wild, tmp_path)
    message = str(e.value)
    assert str(tmp_path / 'checkpoints' / 'last') in message
    assert 'learning_rate' in message
  found = restore_checkpoint(tmp_path / 'checkpoints' / 'last')
  assert_same(found.state, good.state)
  assert read_metrics(tmp_path / 'metrics.jsonl')[: len(records)] == records


def test_params_that_are_not_finite_are_not_saved(training, tmp_path):
  """The last step's loss was computed before its update."""

  def train_steps(state, data, hparams, count):
    state, history = training.train_steps(state, data, hparams, count)
    if int(state.step) == STEPS_PER_EPOCH:
      bad = jax.tree.map(lambda leaf: leaf * np.float32('nan'), state.params)
      state = state._replace(params=bad)
    return state, history

  with pytest.raises(Diverged, match='a parameter is not finite at step 6'):
    train(training._replace(train_steps=train_steps), tmp_path)
  assert restore_checkpoint(tmp_path / 'checkpoints' / 'last') is None


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': {'name': 'mlp', 'hidden_units': (4,)}}, 'another network'),
    ({'init_from': 'no-such-run'}, "no checkpoint found in 'no-such-run'"),
  ],
)
def test_init_from_must_fit(whole, changes, message):
  with pytest.raises(ValueError, match=message):
    runs.run(**{'init_from': str(whole[1]), **changes})


def test_a_full_disk_while_saving_ends_the_run_and_loses_nothing(
  training, whole, tmp_path, monkeypatch
):
  reserve, calls = checkpoint._reserve_space, []

  def full_at_the_fourth(*args):
    calls.append(args)
    if len(calls) == 4:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return reserve(*args)

  with monkeypatch.context() as patch:
    # The saves are: best and last of step 6, perhaps best, and last of step 12.
    patch.setattr(checkpoint, '_reserve_space', full_at_the_fourth)
    with pytest.raises(OSError) as error:
      train(training, tmp_path)
  message = str(error.value)
  assert error.value.errno == errno.ENOSPC
  assert 'No space left on device' in message
  assert str(tmp_path / 'checkpoints') in message
  assert 'stays in' in message
  assert list(tmp_path.rglob('.*')) == []
  # With space again, the same call goes on.
  assert_same(train(training, tmp_path).params, whole[0].params)


def test_a_killed_run_warns_of_what_it_lost(
  training, tmp_path, monkeypatch, caplog
):
  """But one that ended as it should says nothing."""
  monkeypatch.setattr(loop, '_CHUNK_SECONDS', 0.0)

  def train_steps(state, data, hparams, count):
    if int(state.step) == STEPS_PER_EPOCH + 4:
      raise SystemExit
    return training.train_steps(state, data, hparams, count)

  logged = training._replace(config=runs.config(log_every_steps=1))
  with pytest.raises(SystemExit):
    train(logged._replace(train_steps=train_steps), tmp_path)
  with (tmp_path / 'metrics.jsonl').open('ab') as file:
    file.write(b'{"kind": "steps", "step": 11, "epo')
  assert 'was killed' not in caplog.text
  with caplog.at_level(logging.INFO):
    train(logged, tmp_path)
  (line,) = [text for text in caplog.messages if 'was killed' in text]
  assert line.startswith(f'{tmp_path}: ')
  assert 'of step 6' in line and 'at least 10' in line
  assert 'resuming from step 6' in caplog.text
  steps = [r['step'] for r in read_metrics(tmp_path / 'metrics.jsonl')]
  assert sorted(set(steps)) == list(range(1, 3 * STEPS_PER_EPOCH + 1))
