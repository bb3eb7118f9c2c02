"""Several seeds of networks of several sizes in one comparison."""

import itertools
import json

import jax
import numpy as np
import pytest

from advjax.jobs.train import compare
from tests.experiments.comparison import printed, smoke_config

# The large one is that of other tests here, with its programs.
UNITS = {'small': (), 'large': (16,)}


@pytest.fixture(autouse=True, scope='module')
def no_pictures_at_all():
  """Drawing takes seconds, and is no part of what this is about."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      'advjax.reporting.figures.run.run_figures', lambda *a, **k: {}
    )
    yield


def two_sizes(seeds=(0, 3)):
  config = smoke_config()
  config.evaluation.update(
    attacks=('fgsm',), epsilons=(0.1,), top_k=3, shifts=('pasted_objects',)
  )
  config.seeds = seeds
  config.members = tuple(UNITS)
  for name, units in UNITS.items():
    config[name] = {'model': {'name': 'mlp', 'hidden_units': units}}
  config.large.seed = config.get_ref('seed') + 1
  return config


def compared(config, workdir):
  return printed(compare, config, workdir, jax.devices())


@pytest.fixture(scope='module')
def several(tmp_path_factory):
  """(report, text, workdir) of seeds 0 and 3."""
  workdir = tmp_path_factory.mktemp('several')
  report, text = compared(two_sizes(), workdir)
  return report.to_json(), text, workdir


def test_several_seeds_are_runs_of_their_own(several):
  report, _, workdir = several
  assert report['seeds'] == [0, 3]
  for name, first in (('small', 0), ('large', 1)):
    for seed in (0, 3):
      folder = workdir / name / f'seed_{seed}'
      config = json.loads((folder / 'config.json').read_text())
      assert config['seed'] == first + seed
      assert (folder / 'checkpoints' / 'last').is_dir()
    per_seed = [report['per_seed'][seed][name] for seed in ('0', '3')]
    assert per_seed[0] != per_seed[1]
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  runs = {(r['member'], r['seed']) for r in map(json.loads, lines)}
  assert runs == {(name, seed) for name in UNITS for seed in (0, 3)}


def test_several_seeds_are_reported_as_mean_and_std(several):
  report, text, _ = several

  def check(entry, parts, name):
    values = [part[name] for part in parts]
    assert entry[name] == pytest.approx(np.mean(values))
    assert entry[f'{name}_std'] == pytest.approx(np.std(values, ddof=1))

  for name, units in UNITS.items():
    member = report['members'][name]
    (other,) = set(UNITS) - {name}
    sizes = itertools.pairwise((784, *units, 10))
    assert member['num_params'] == sum((a + 1) * b for a, b in sizes)
    parts = [report['per_seed'][seed][name] for seed in ('0', '3')]
    check(member, parts, 'clean_accuracy')
    check(member, parts, 'clean_top_k_accuracy')
    entries = [m['robust_accuracy']['fgsm'] for m in (member, *parts)]
    check(entries[0], entries[1:], 'white_box')
    check(entries[0], entries[1:], 'white_box_top_k')
    curves = [entry['curve'][0] for entry in entries]
    check(curves[0], curves[1:], 'white_box')
    values = [entry['transfer'][other] for entry in entries[1:]]
    assert entries[0]['transfer'][other] == pytest.approx(np.mean(values))
    std = entries[0]['transfer_std'][other]
    assert std == pytest.approx(np.std(values, ddof=1))
    assert list(member['pasted_objects']) == ['1', '2', '3', '4', '5']
    entry = member['pasted_objects']['1']
    assert entry['accuracy_std'] < 0.5
    low, high = entry['accuracy_ci']
    assert low < entry['accuracy'] < high
    for metrics in (*member['epochs'], member['test']):
      assert metrics['loss_std'] > 0
  assert ' ± ' in text


def changed(field, value):
  config = two_sizes()
  section, _, name = field.rpartition('.')
  (config[section] if section else config)[name] = value
  return config


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('seeds', (0, 0), r'seeds = \(0, 0\); allowed: each seed once'),
    ('seeds', (1, -1), r'seeds\[1\] = -1; allowed: an integer from 0'),
    ('large.seed', 7, r'large.seed = 7; .* 2 times'),
    ('evaluation.top_k', 10, r'evaluation.top_k = 10; allowed: .* from 1 to 9'),
    ('evaluation.shifts', ('noises',), r"did you mean 'noise'"),
  ],
)
def test_wrong_configs_are_refused_before_anything_is_written(
  field, value, message, tmp_path
):
  with pytest.raises(ValueError, match=message):
    compared(changed(field, value), tmp_path / 'new')
  assert not (tmp_path / 'new').exists()
