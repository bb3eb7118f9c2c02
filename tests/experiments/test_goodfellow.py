"""Goodfellow's demonstration from end to end, and what it trains on."""

import json

import jax
import numpy as np
import pytest

from advjax import data
from advjax.reporting.figures import run as figures
from advjax.training.checkpoint import checkpoint_directory, restore_checkpoint
from experiments.goodfellow import demonstrate
from experiments.linear.figure import format_table
from tests.experiments.comparison import printed
from tests.linear import Linear
from tests.test_configs import FOLDER, load

EPSILON = 0.25
MEMBERS = ('plain', 'adversarial')
SEEDS = (0, 5)


def smoke_config():
  """The smoke variant, with as many steps as it needs to learn something."""
  config = load(FOLDER / 'goodfellow.py', 'smoke')
  config.batch_size = 20
  config.num_epochs = 10
  config.evaluation.attacks = ('bim-2',)
  config.evaluation.epsilons = (EPSILON,)
  config.seeds = SEEDS
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(report, text, workdir) of the demonstration."""
  workdir = tmp_path_factory.mktemp('goodfellow') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    # Those of every comparison; its own is drawn.
    patch.setattr(figures, 'run_figures', lambda *args: {})
    report, text = printed(
      demonstrate, smoke_config(), workdir, jax.devices()[:1]
    )
  return report, text, workdir


@pytest.fixture(scope='module')
def dataset():
  return data.load({'name': 'digits', 'classes': (3, 7)})


def trained(workdir, name):
  """A member's networks in float64, from the arrays of their checkpoints."""
  folders = [workdir / name / f'seed_{seed}' for seed in SEEDS]
  states = [restore_checkpoint(checkpoint_directory(f)).state for f in folders]
  return [Linear.of(state['params'], (28, 28, 1)) for state in states]


# ------------------------------------------------------------ the whole program


def test_it_adds_to_what_compare_leaves(run):
  report, text, workdir = run
  saved = json.loads((workdir / 'report.json').read_text())
  assert saved == json.loads(json.dumps(report))
  assert {'members', 'config', 'environment'} <= set(saved)
  found = saved['goodfellow']
  assert found['epsilon'] == EPSILON and found['classes'] == ['3', '7']
  assert tuple(found['members']) == MEMBERS
  picture = workdir / 'figures' / 'goodfellow.png'
  assert picture.read_bytes().startswith(b'\x89PNG')
  assert str(picture) in text and format_table(found['members']) in text
  assert (workdir / 'report.html').exists()


@pytest.mark.parametrize('name', MEMBERS)
def test_its_numbers_are_those_of_the_weights(run, dataset, name):
  report, text, workdir = run
  entry = report['goodfellow']['members'][name]
  networks = trained(workdir, name)
  sizes = [linear.size for linear in networks]
  assert sizes[0] != sizes[1]
  assert entry['weights_l1'] == pytest.approx(np.mean(sizes), rel=1e-5)
  std = np.std(sizes, ddof=1)
  assert entry['weights_l1_std'] == pytest.approx(std, rel=1e-3)
  images, labels = data.to_float(dataset.test.images), dataset.test.labels
  errors = {}
  for linear in networks:
    clean = linear.margins(images, labels)
    boxed = linear.worst(images, labels, EPSILON).clip(0, 1)
    for field, margins in (
      ('clean_error', clean),
      ('fgsm_error', clean - EPSILON * linear.size),
      ('closed_form_error', clean - EPSILON * linear.size),
      ('fgsm_in_box_error', linear.margins(boxed, labels)),
    ):
      assert np.abs(margins).min() > 1e-5  # No image lies on the border.
      errors.setdefault(field, []).append(np.mean(margins < 0))
  for field, each in errors.items():
    assert entry[field] == pytest.approx(np.mean(each))
    assert entry[f'{field}_std'] == pytest.approx(np.std(each, ddof=1))
    low, high = entry[f'{field}_ci']
    assert low <= entry[field] <= high
  mean, std = 100 * entry['fgsm_error'], 100 * entry['fgsm_error_std']
  assert f'{mean:.2f} ± {std:.2f} %' in text
  # The attacks of the report stay in the box, where FGSM is as good as any.
  (attack,) = report['members'][name]['robust_accuracy'].values()
  assert attack['white_box'] == pytest.approx(1 - entry['fgsm_in_box_error'])
  assert entry['largest_difference'] < 2e-7  # A rounding.


def test_pixels_that_are_always_black_have_no_weight(run, dataset):
  black = (dataset.train.images == 0).all(axis=0)
  assert 0 < black.sum() < 200
  weights = trained(run[2], 'plain')[0].weights
  np.testing.assert_array_equal(weights[black], 0)
  assert (weights[~black] != 0).all()


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('dataset.classes', None, r'classes = None: digits has 10 .*two labels'),
    ('dataset.classes', (3, 7, 8), r'\(3, 7, 8\): .* 3 classes.*two labels'),
    (
      'adversarial.model',
      {'name': 'mlp', 'hidden_units': (8,)},
      r"model.name = 'mlp' \(of adversarial\); allowed: 'logistic_regression'",
    ),
    ('members', (), r'members = \(\); allowed: the names'),
    ('dataset', None, r"'npz': images .*\(8, 8, 3\).*channel"),
  ],
)
def test_bad_input_is_named_before_anything_is_written(
  tmp_path, field, value, message
):
  config = smoke_config()
  if field == 'dataset':  # Of three channels.
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
    path = tmp_path / 'colours.npz'
    splits = ('train', 'test')
    arrays = {f'{split}_images': images for split in splits}
    np.savez(path, **arrays, **{f'{split}_labels': labels for split in splits})
    value = {'name': 'npz', 'path': str(path)}
  section, _, name = field.rpartition('.')
  with config.unlocked():
    (config[section] if section else config)[name] = value
  with pytest.raises(ValueError, match=message):
    demonstrate(config, tmp_path / 'run', jax.devices())
  assert not (tmp_path / 'run').exists()
