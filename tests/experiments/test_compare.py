"""A comparison from end to end, and its output files."""

import json
import logging

import jax
import numpy as np
import pytest

from advjax import data
from advjax.jobs.train import compare, train
from tests.experiments.comparison import printed, smoke_config

# Output files of training, and of a report.
TRAINED = {'config.json', 'metrics.jsonl', 'events', 'checkpoints', '.lock'}

REPORTED = {'report.json', 'report.html', 'figures', 'adversarial_examples.npz'}

MEMBERS = ('base', 'adversarial')


def test_all_files_are_there(run):
  workdir = run[2]
  files = {path.name for path in workdir.iterdir()}
  assert files == {*MEMBERS, 'config.json', 'metrics.jsonl', '.lock'} | REPORTED
  for name in MEMBERS:
    files = {path.name for path in (workdir / name).iterdir()}
    assert files == TRAINED
    assert any((workdir / name / 'events').iterdir())
    for kind in ('last', 'best'):
      folder = workdir / name / 'checkpoints' / kind
      assert any(path.name.isdigit() for path in folder.iterdir())
  pictures = list((workdir / 'figures').iterdir())
  assert len(pictures) >= 5
  for path in pictures:
    assert path.read_bytes().startswith(b'\x89PNG')


def test_report_json_has_what_the_design_names(run):
  report, _, workdir = run
  saved = json.loads(
    (workdir / 'report.json').read_text(), parse_constant=pytest.fail
  )
  assert saved == json.loads(json.dumps(report))
  assert saved['dataset'] == {
    'name': 'digits',
    'num_train': 1437,
    'num_test': 360,
    'largest_class_share': 37 / 360,
  }
  assert saved['seeds'] == [0]
  assert tuple(saved['members']) == MEMBERS
  assert {'members', 'command', 'environment', 'config'} <= set(saved)
  for name, member in saved['members'].items():
    assert {'objective', 'hparams', 'warnings'} <= set(member)
    assert member['num_validation'] == 0
    assert member['num_params'] == 784 * 16 + 16 + 16 * 10 + 10
    for field in ('train_seconds', 'step_milliseconds'):
      assert member[field] > 0
    assert member['eval_step_milliseconds'] > 0
    (epoch,) = member['epochs']
    expected = {'loss', 'clean_loss', 'clean_accuracy'}
    if name == 'adversarial':
      expected |= {'adversarial_loss', 'scaled_adversarial_loss'}
    for metrics in (epoch, member['test']):
      assert expected <= set(metrics)
    low, high = member['clean_accuracy_ci']
    assert low < member['clean_accuracy'] < high
    assert member['test']['clean_accuracy'] == pytest.approx(
      member['clean_accuracy'], abs=1e-6
    )
    assert list(member['robust_accuracy']) == ['fgsm', 'bim']
    (other,) = set(MEMBERS) - {name}
    for entry in member['robust_accuracy'].values():
      assert (entry['epsilon'], entry['norm']) == (0.1, 'linf')
      assert set(entry['transfer']) == {other}
      assert set(entry['transfer_ci']) == {other}
      low, high = entry['white_box_ci']
      assert low <= entry['white_box'] <= high
      assert [point['epsilon'] for point in entry['curve']] == [0.0, 0.1]
      at_zero, at_headline = entry['curve']
      assert at_zero['white_box'] == member['clean_accuracy']
      for field in ('white_box', 'white_box_ci', 'transfer'):
        assert at_headline[field] == entry[field]
      assert entry['max_perturbation'] == pytest.approx(0.1, abs=1e-5)


def test_the_examples_say_what_the_report_says(run):
  report, _, workdir = run
  test = data.load({'name': 'digits'}).test
  with np.load(workdir / 'adversarial_examples.npz') as saved:
    arrays = dict(saved)
  np.testing.assert_array_equal(arrays['images'], data.to_float(test.images))
  np.testing.assert_array_equal(arrays['labels'], test.labels)
  correct = arrays['predictions'] == arrays['labels'][None, None]
  assert len(correct) == 4
  for pair, (source, attack) in enumerate(
    zip(arrays['source'], arrays['attack'], strict=True)
  ):
    entry = report['members'][source]['robust_accuracy'][attack]
    for index, name in enumerate(arrays['members']):
      expected = entry['white_box' if name == source else 'transfer']
      if name != source:
        expected = expected[name]
      assert correct[pair, index].mean() == pytest.approx(expected)
  moved = np.abs(arrays['perturbed'] - arrays['images'][None])
  assert moved.max() <= 0.1 + 1e-6
  assert arrays['perturbed'].min() >= 0
  assert arrays['perturbed'].max() <= 1


def test_the_same_command_trains_nothing_again(run, no_pictures, caplog):
  report, _, workdir = run
  before = {
    name: (workdir / name / 'metrics.jsonl').read_bytes() for name in MEMBERS
  }
  with caplog.at_level(logging.INFO):
    again, _ = printed(compare, smoke_config(), workdir, jax.devices())
  again = again.to_json()
  assert not [message for message in caplog.messages if 'epoch' in message]
  for name in MEMBERS:
    assert (workdir / name / 'metrics.jsonl').read_bytes() == before[name]
    old, new = report['members'][name], again['members'][name]
    for field in ('train_seconds', 'step_milliseconds', 'epochs'):
      assert new[field] == old[field]
    assert new['robust_accuracy'] == old['robust_accuracy']


def test_train_starts_from_another_objective_and_needs_it_once(
  run, planned, no_pictures, tmp_path
):
  config = smoke_config('digits', 'fgsm_at-smoke')
  start = tmp_path / 'start'
  (run[2] / 'adversarial').rename(start)
  try:
    config.init_from = str(start)
    report, text = printed(train, config, tmp_path / 'run', jax.devices())
  finally:
    start.rename(run[2] / 'adversarial')
  (member,) = report.to_json()['members'].values()
  assert member['objective'] == 'fgsm_at'
  # Its first epoch is a second one.
  before = run[0]['members']['adversarial']['epochs'][0]['clean_loss']
  assert member['epochs'][0]['clean_loss'] < before - 0.1
  files = {path.name for path in (tmp_path / 'run').iterdir()}
  assert files == TRAINED | REPORTED
  assert 'accuracy in batch 0: fgsm_at' in text
  # The run that it started from is gone; the checkpoint has all there is.
  networks, images, labels = planned(tmp_path / 'run' / 'checkpoints' / 'best')
  accuracy = (networks['fgsm_at'](images).argmax(-1) == labels).mean()
  assert float(accuracy) == pytest.approx(member['clean_accuracy'])
