"""Evaluations of trained runs from end to end, and what they leave."""

import json
import pathlib
import shutil

import jax
import pytest

from advjax.evaluation import shifts
from advjax.evaluation.autoattack import versions
from advjax.files import lock_folder
from advjax.jobs import evaluate as job
from advjax.jobs.evaluate import evaluate
from advjax.reporting.figures import run as figures
from advjax.reporting.sanity import CHECKS
from advjax.training import trained
from tests.experiments.comparison import printed

NUM_IMAGES = 360
EPSILONS = [0.1]
# Where no network can be right; always evaluated.
LARGE = 0.5
OWN = 'tests.attacks.own:uniform'
ATTACKS = ['fgsm', 'deepfool-4', OWN, 'autoattack']
NAMES = ('standard', 'adversarial_regularization')
FOLDERS = ('base', 'adversarial')


# --------------------------------------------------------- several checkpoints


@pytest.fixture(scope='module', autouse=True)
def short_attacks():
  """AutoAttack of two attacks and one step, one noise, and two corruptions.

  One step leaves so many images robust that all batches have one size.
  """
  make = versions.make_component

  def make_short(*args):
    component = make(*args)
    return component._replace(search=component.search._replace(num_steps=1))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(versions, 'make_component', make_short)
    patch.setitem(versions.VERSIONS, 'standard', ('apgd-ce', 'square'))
    noises = shifts.noises
    patch.setattr(
      shifts, 'noises', lambda *args: {'uniform': noises(*args)['uniform']}
    )
    patch.setattr(shifts, 'KINDS', ('gaussian_noise', 'contrast'))
    # Drawing takes seconds, and is no part of what this is about.
    patch.setattr(figures, 'run_figures', lambda *args: {})
    yield


def evaluate_both(run, workdir):
  return evaluate(
    [str(run[2] / folder) for folder in FOLDERS],
    ATTACKS,
    EPSILONS,
    workdir,
    jax.devices(),
  )


@pytest.fixture(scope='module')
def both(run, short_attacks, tmp_path_factory):
  """(report.json, text, workdir) of both networks, attacked in all ways."""
  workdir = tmp_path_factory.mktemp('evaluated') / 'both'
  report, text = printed(evaluate_both, run, workdir)
  path = workdir / 'report.json'
  saved = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert saved == json.loads(json.dumps(report.to_json()))
  return saved, text, workdir


def test_every_network_has_every_part(both):
  report, text, _ = both
  assert f'\n{OWN}, ' in text
  assert report['dataset'] == {
    'name': 'digits',
    'num_train': 1437,
    'num_test': NUM_IMAGES,
    'image_shape': [28, 28, 1],
    'largest_class_share': 37 / NUM_IMAGES,
  }
  assert report['classes'] == [str(digit) for digit in range(10)]
  assert tuple(report['members']) == tuple(report['config']) == NAMES
  for name in NAMES:
    member = report['members'][name]
    assert list(member['per_class']) == ['clean', *member['robust_accuracy']]
    assert len(member['per_class']['clean']) == 10
    (noise,) = member['noise'].values()
    assert noise['epsilon'] == EPSILONS[-1]
    assert list(member['corruptions']) == ['gaussian_noise', 'contrast']
    assert 0 < member['corruption_accuracy'] < 1
    assert member['seen_corruptions'] == []
    assert list(member['pasted_objects']) == ['1', '2', '3', '4', '5']
    assert list(member['rounded']) == list(member['robust_accuracy'])
    assert len(member['traces']['fgsm']['loss']) == 2
    assert list(member['traces']) == ['fgsm']
    own = member['robust_accuracy'][OWN]
    assert own['attack'] == OWN and 0 < own['max_perturbation'] <= 0.1 + 1e-6
    (minimal,) = member['minimal'].values()
    assert minimal['norm'] == 'linf' and minimal['median_epsilon'] > 0
    findings = [f for f in report['sanity'] if f['member'] == name]
    assert [f['check'] for f in findings] == list(CHECKS)
    passed = {f['check'] for f in findings if f['passed']}
    assert {'perturbations within epsilon', 'gradients do not vanish'} <= passed


def test_it_finds_what_compare_found(run, both):
  names = dict(zip(FOLDERS, NAMES, strict=True))
  for folder, name in names.items():
    found, compared = both[0]['members'][name], run[0]['members'][folder]
    for field in ('num_params', 'clean_accuracy', 'clean_accuracy_ci'):
      assert found[field] == compared[field]
    entry, other = (m['robust_accuracy']['fgsm'] for m in (found, compared))
    for field in ('white_box', 'white_box_ci', 'epsilon', 'step_size'):
      assert entry[field] == other[field]
    for member, accuracy in other['transfer'].items():
      assert entry['transfer'][names[member]] == accuracy


def test_autoattack_is_there_once_for_each_epsilon(both):
  report, _, workdir = both
  files = set()
  for name in NAMES:
    member = report['members'][name]
    curve = member['robust_accuracy']['autoattack']['curve']
    entries = member['autoattack']
    assert [entry['epsilon'] for entry in entries] == [*EPSILONS, LARGE]
    for entry, point in zip(entries, curve, strict=True):
      assert (entry['norm'], entry['version']) == ('linf', 'standard')
      assert entry['clean_accuracy'] == member['clean_accuracy']
      assert entry['accuracy'] == point['white_box']
      first, last = entry['attacks']
      assert (first['name'], last['name']) == ('apgd-ce', 'square')
      assert last['accuracy'] == entry['accuracy']
      fooled = (first['fooled'] + last['fooled']) / NUM_IMAGES
      assert entry['accuracy'] == pytest.approx(
        entry['clean_accuracy'] - fooled
      )
      assert 0 < first['forward'] == first['backward'] <= NUM_IMAGES
      assert last['backward'] == 0
      files.add(f'{name}_autoattack_{entry["epsilon"]:g}.npz')
  assert {path.name for path in (workdir / 'autoattack').iterdir()} == files


def test_networks_are_named_by_what_tells_them_apart(run, planned, tmp_path):
  base = run[2] / 'base'
  other = tmp_path / 'other'
  shutil.copytree(base, other)
  assert list(planned(base)[0]) == ['standard']
  shutil.rmtree(tmp_path / 'new')
  assert list(planned(base, other)[0]) == ['base', 'other']
  shutil.rmtree(tmp_path / 'new')
  best = base / 'checkpoints' / 'best'
  assert list(planned(base, best)[0]) == ['standard_last', 'standard_best']


def test_a_checkpoint_is_named_by_its_folder(run, planned, tmp_path):
  """There was one epoch, which is the last and the best.

  The config.json of a run of an older version lacks what was added since.
  """
  older = changed(run, tmp_path / 'run', without=('seeds', 'evaluation'))
  expected = run[0]['members']['base']['clean_accuracy']
  base = run[2] / 'base'
  for folder in (base, base / 'checkpoints', base / 'checkpoints/best', older):
    members, images, labels = planned(folder)
    accuracy = (members['standard'](images).argmax(-1) == labels).mean()
    assert float(accuracy) == pytest.approx(expected)
    shutil.rmtree(tmp_path / 'new')


def test_the_data_may_have_moved(run, monkeypatch, tmp_path):
  def load(config):
    raise RuntimeError(config.data_dir)

  monkeypatch.setattr(job.data, 'load', load)
  with pytest.raises(RuntimeError, match=r'^there$'):
    evaluate(
      [str(run[2] / folder) for folder in FOLDERS],
      ['fgsm'],
      [0.1],
      tmp_path / 'new',
      jax.devices(),
      data_dir='there',
    )


def test_files_of_ones_own_may_have_moved_too(run, tmp_path):
  """And weights that training started from may be gone."""
  for name in ('folder', 'npz'):
    data_set = {'name': name, 'path': 'gone'}
    folder = changed(run, tmp_path / name, dataset=data_set)
    config = trained._read_config(folder, 'there')
    assert config.dataset.path == 'there'
    assert trained._read_config(folder, None).dataset.path == 'gone'
  model = {'name': 'keras', 'architecture': 'MobileNetV2', 'weights': 'gone.h5'}
  folder = changed(run, tmp_path / 'run', model=model)
  config = trained._read_config(folder, None)
  assert config.model.weights == 'random'


def changed(run, folder, without=(), **fields):
  """A copy of a run whose config has other fields."""
  shutil.copytree(run[2] / 'base', folder)
  path = folder / 'config.json'
  config = json.loads(path.read_text()) | fields
  path.write_text(
    json.dumps({k: v for k, v in config.items() if k not in without})
  )
  return folder


def refused(message, checkpoints, workdir, **options):
  arguments = {'attack_names': ['fgsm'], 'epsilons': [0.1], **options}
  with pytest.raises(ValueError, match=message):
    evaluate(checkpoints, workdir=workdir, devices=jax.devices(), **arguments)
  assert not pathlib.Path(workdir).exists()


def test_nothing_is_written_into_the_run(run):
  workdir = run[2] / 'base'
  before = (workdir / 'config.json').read_bytes()
  with pytest.raises(ValueError, match='holds the output of another command'):
    evaluate([str(workdir)], ['fgsm'], [0.1], workdir, jax.devices())
  assert (workdir / 'config.json').read_bytes() == before


def test_no_folder_of_another_job_is_written_to(run, tmp_path):
  with lock_folder(tmp_path), pytest.raises(ValueError, match=str(tmp_path)):
    evaluate([run[2] / 'base'], ['fgsm'], [0.1], tmp_path, jax.devices())
  assert not (tmp_path / 'report.json').exists()


def test_networks_of_other_data_are_refused(run, tmp_path):
  base = str(run[2] / 'base')
  dataset = {'name': 'digits', 'classes': [3, 7]}
  other = str(changed(run, tmp_path / 'other', dataset=dataset))
  refused(
    r"checkpoint = '.*other.*' has dataset = .*3, 7.*, '.*base.*' has .*; "
    'allowed: networks of one data set',
    [base, other],
    tmp_path / 'new',
  )


def test_bad_options_are_named(run, tmp_path):
  base = str(run[2] / 'base')
  for options, message in [
    ({'num_images': 0}, 'num_images = 0; allowed: an integer >= 1'),
    ({'num_images': 1.5}, 'num_images = 1.5; allowed: an integer'),
    ({'epsilons': []}, r'epsilons = \[\]; allowed: one number'),
    ({'attack_names': ['autoattack-3']}, "attack = 'autoattack-3'"),
    ({'norm': 'l1', 'attack_names': ['deepfool']}, "norm = 'l1' with deepf"),
  ]:
    refused(message, [base], tmp_path / 'new', **options)
  # A text is a sequence too, of paths that are letters.
  refused('checkpoint = ', base, tmp_path / 'new')
  refused(r'checkpoint = \[\]', [], tmp_path / 'new')
