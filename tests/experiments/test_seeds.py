"""Several seeds in one comparison: runs, means, standard deviations."""

import json
import logging

import jax
import numpy as np
import pytest

from advjax.evaluation.pasted import paste_objects
from advjax.training.loop import train
from experiments.compare import compare
from tests.experiments import comparison

MEMBERS = ('base', 'adversarial')


def smoke_config(seeds=()):
  """A comparison of seconds under one attack."""
  config = comparison.smoke_config()
  config.evaluation.attacks = ('fgsm',)
  config.evaluation.shifts = ('pasted_objects',)
  config.seeds = seeds
  return config


def compared(config, workdir):
  """Returns the report of a comparison, and what it prints."""
  return comparison.printed(compare, config, workdir, jax.devices())


@pytest.fixture(scope='module')
def several(tmp_path_factory):
  """(report, text, workdir) of seeds 0 and 3."""
  workdir = tmp_path_factory.mktemp('several')
  return *compared(smoke_config((0, 3)), workdir), workdir


def test_several_seeds_are_runs_of_their_own(several, run):
  report, _, workdir = several
  single, _, _ = run
  assert report['seeds'] == [0, 3]
  # The adversarial network's seed is one more than the run's.
  for name, first in (('base', 0), ('adversarial', 1)):
    for seed in (0, 3):
      folder = workdir / name / f'seed_{seed}'
      config = json.loads((folder / 'config.json').read_text())
      assert config['seed'] == first + seed
      assert (folder / 'checkpoints' / 'last').is_dir()
    per_seed = [report['per_seed'][seed][name] for seed in ('0', '3')]
    expected = single['members'][name]
    assert per_seed[0]['clean_accuracy'] == expected['clean_accuracy']
    assert (
      per_seed[0]['robust_accuracy']['fgsm']
      == expected['robust_accuracy']['fgsm']
    )
    assert per_seed[0] != per_seed[1]
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  runs = {(r['member'], r['seed']) for r in map(json.loads, lines)}
  assert runs == {(name, seed) for name in MEMBERS for seed in (0, 3)}


def test_several_seeds_are_reported_as_mean_and_std(several):
  report, text, workdir = several

  def check(entry, parts, name):
    values = [part[name] for part in parts]
    assert entry[name] == pytest.approx(np.mean(values))
    assert entry[f'{name}_std'] == pytest.approx(np.std(values, ddof=1))

  for name, other in (MEMBERS, MEMBERS[::-1]):
    member = report['members'][name]
    parts = [report['per_seed'][seed][name] for seed in ('0', '3')]
    check(member, parts, 'clean_accuracy')
    entries = [m['robust_accuracy']['fgsm'] for m in (member, *parts)]
    check(entries[0], entries[1:], 'white_box')
    for index, point in enumerate(entries[0]['curve']):
      check(
        point, [entry['curve'][index] for entry in entries[1:]], 'white_box'
      )
    values = [entry['transfer'][other] for entry in entries[1:]]
    assert entries[0]['transfer'][other] == pytest.approx(np.mean(values))
    assert entries[0]['transfer_std'][other] == pytest.approx(
      np.std(values, ddof=1)
    )
    entry = member['pasted_objects']['1']
    assert 0 < entry['accuracy_std'] < 0.2
    low, high = entry['accuracy_ci']
    assert low < entry['accuracy'] < high
    for metrics in (*member['epochs'], member['test']):
      assert metrics['loss_std'] > 0
  assert ' ± ' in text
  assert 'The run of seed 0.' in (workdir / 'report.html').read_text()


def test_several_seeds_train_nothing_again(several, no_pictures, caplog):
  report, _, workdir = several
  with caplog.at_level(logging.INFO):
    again, _ = compared(smoke_config((0, 3)), workdir)
  assert not [message for message in caplog.messages if 'epoch' in message]
  assert again['per_seed'] == report['per_seed']


@pytest.mark.parametrize(
  ('seeds', 'message'),
  [
    ((0, 0), r'seeds = \(0, 0\); allowed: each seed once'),
    ((1, -1), r'seeds\[1\] = -1; allowed: an integer >= 0'),
    (('a',), r"seeds\[0\] = 'a'; allowed: an integer >= 0"),
  ],
)
def test_seeds_that_are_none_are_refused(seeds, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    compare(smoke_config(seeds), tmp_path / 'run', jax.devices())
  assert not (tmp_path / 'run').exists()


def test_shifts_are_asked_of_every_seed(several, planned):
  """The same images for all; their mean is the report's."""
  report, _, workdir = several
  folders = [workdir / 'base' / f'seed_{seed}' for seed in (0, 3)]
  networks, images, labels = planned(*folders)
  pasted = paste_objects(images, labels, 5, seed=0)
  accuracies = [
    (np.asarray(logits_fn(pasted)).argmax(1) == labels).mean()
    for logits_fn in networks.values()
  ]
  entry = report['members']['base']['pasted_objects']['5']
  assert entry['accuracy'] == pytest.approx(np.mean(accuracies))
  assert entry['accuracy_std'] == pytest.approx(np.std(accuracies, ddof=1))


def test_a_member_with_a_seed_of_its_own_is_refused(tmp_path):
  """It would be the same network every time, with a deviation of 0."""
  config = smoke_config((0, 1))
  config.adversarial.seed = 7
  with pytest.raises(ValueError, match=r'adversarial.seed = 7; .* 2 times'):
    compare(config, tmp_path / 'run', jax.devices())
  assert not (tmp_path / 'run').exists()


def test_a_warning_names_the_seed_of_the_run(
  several, monkeypatch, no_pictures, tmp_path
):
  """Not that of the member: the adversarial network's is one more."""
  workdir = several[2]

  def warned(trainings, folders, *, names):
    del folders
    results = []
    for training, name in zip(trainings, names, strict=True):
      folder = workdir.joinpath(*name.split(' '))
      result = train(training, folder, name=name)
      warnings = ['collapsed'] if name == 'adversarial seed_3' else []
      results.append(result._replace(warnings=warnings))
    return results

  monkeypatch.setattr('experiments.compare.train_seeds', warned)
  report, _ = compared(smoke_config((0, 3)), tmp_path)
  assert report['members']['adversarial']['warnings'] == ['seed 3: collapsed']
  assert report['members']['base']['warnings'] == []
