"""Goodfellow's demonstration from end to end, and what it trains on."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest

from advjax import data
from advjax.config import member_config
from advjax.reporting import figures
from advjax.reporting.linear import format_table
from advjax.training.checkpoint import (
  checkpoint_directory,
  restore_checkpoint,
)
from advjax.training.objectives import create_objective
from experiments.goodfellow import demonstrate
from tests.linear import MODEL, Linear, random_params
from tests.test_configs import FOLDER, load

EPSILON = 0.25
MEMBERS = ('plain', 'adversarial')


def smoke_config():
  """The smoke variant, with as many steps as it needs to learn something."""
  config = load(FOLDER / 'goodfellow.py', 'smoke')
  config.batch_size = 20
  config.num_epochs = 10
  config.evaluation.attacks = ('fgsm', 'bim-2')
  return config


def printed(function, *args):
  """Returns what a function returns, and what it prints."""
  with contextlib.redirect_stdout(io.StringIO()) as out:
    result = function(*args)
  return result, out.getvalue()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(report, text, workdir) of the demonstration."""
  workdir = tmp_path_factory.mktemp('goodfellow') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    # Those of every comparison; its own is drawn.
    patch.setattr(figures, 'run_figures', lambda *args: {})
    report, text = printed(demonstrate, smoke_config(), workdir, jax.devices())
  return report, text, workdir


@pytest.fixture(scope='module')
def dataset():
  return data.load({'name': 'digits', 'classes': (3, 7)})


def trained(folder):
  """A network in float64, from the arrays of its checkpoint."""
  state = restore_checkpoint(checkpoint_directory(folder)).state
  return Linear.of(state['params'], (28, 28, 1))


# ------------------------------------------------------------ the whole program


def test_it_adds_to_what_compare_leaves(run):
  report, text, workdir = run
  saved = json.loads((workdir / 'report.json').read_text())
  assert saved == json.loads(json.dumps(report))
  assert {'members', 'config', 'environment'} <= set(saved)
  assert saved['goodfellow']['epsilon'] == EPSILON
  assert saved['goodfellow']['classes'] == ['3', '7']
  assert tuple(saved['goodfellow']['members']) == MEMBERS
  picture = workdir / 'figures' / 'goodfellow.png'
  assert picture.read_bytes().startswith(b'\x89PNG')
  assert str(picture) in text
  assert (workdir / 'report.html').exists()
  assert format_table(saved['goodfellow']['members']) in text


@pytest.mark.parametrize('name', MEMBERS)
def test_its_numbers_are_those_of_the_weights(run, dataset, name):
  report, _, workdir = run
  entry = report['goodfellow']['members'][name]
  linear = trained(workdir / name)
  images, labels = data.to_float(dataset.test.images), dataset.test.labels
  assert entry['weights_l1'] == pytest.approx(linear.size, rel=1e-5)
  assert entry['bias'] == pytest.approx(linear.bias, rel=1e-4, abs=1e-6)
  clean = linear.margins(images, labels)
  boxed = linear.worst(images, labels, EPSILON).clip(0, 1)
  for field, wanted in (
    ('clean_error', clean),
    ('fgsm_error', clean - EPSILON * linear.size),
    ('closed_form_error', clean - EPSILON * linear.size),
    ('fgsm_in_box_error', linear.margins(boxed, labels)),
  ):
    assert np.abs(wanted).min() > 1e-4  # No image lies on the border.
    assert entry[field] == pytest.approx(np.mean(wanted < 0))
    low, high = entry[f'{field}_ci']
    assert low <= entry[field] <= high
  # The attacks of the report stay in the box, where FGSM is as good as any.
  attacks = report['members'][name]['robust_accuracy']
  assert len(attacks) == 2
  for attack in attacks.values():
    assert attack['white_box'] == pytest.approx(1 - entry['fgsm_in_box_error'])


def test_fgsm_hurts_the_plain_network_more(run):
  members = run[0]['goodfellow']['members']
  plain, adversarial = members['plain'], members['adversarial']
  assert plain['clean_error'] < 0.2
  assert plain['fgsm_error'] > 0.9
  assert adversarial['fgsm_error'] < plain['fgsm_error'] - 0.3
  for entry in members.values():
    assert entry['largest_difference'] < 2e-7  # A rounding.
    assert (entry['num_compared'], entry['num_vanished']) == (73, 0)


def test_pixels_that_are_always_black_have_no_weight(run, dataset):
  black = (dataset.train.images == 0).all(axis=0)
  assert 0 < black.sum() < 200
  weights = trained(run[2] / 'plain').weights
  np.testing.assert_array_equal(weights[black], 0)
  assert (weights[~black] != 0).all()


def test_several_seeds_give_mean_and_std(run, dataset, no_pictures, tmp_path):
  config = smoke_config()
  config.seeds = (0, 5)
  config.evaluation.attacks = ('fgsm',)
  report, text = printed(demonstrate, config, tmp_path, jax.devices())
  images, labels = data.to_float(dataset.test.images), dataset.test.labels
  for name, entry in report['goodfellow']['members'].items():
    linear = [trained(tmp_path / name / f'seed_{seed}') for seed in (0, 5)]
    sizes = [each.size for each in linear]
    assert sizes[0] != sizes[1]
    assert entry['weights_l1'] == pytest.approx(np.mean(sizes), rel=1e-5)
    std = np.std(sizes, ddof=1)
    assert entry['weights_l1_std'] == pytest.approx(std, rel=1e-3)
    errors = [
      np.mean(each.margins(images, labels) < EPSILON * each.size)
      for each in linear
    ]
    mean, std = np.mean(errors), np.std(errors, ddof=1)
    assert entry['fgsm_error'] == pytest.approx(mean)
    assert entry['fgsm_error_std'] == pytest.approx(std)
    assert f'{100 * mean:.2f} ± {100 * std:.2f} %' in text
    assert entry['num_compared'] == 2 * len(labels)
    # The first of the two is the run of that seed alone.
    alone = run[0]['goodfellow']['members'][name]
    assert sizes[0] == pytest.approx(alone['weights_l1'], rel=1e-4)


# --------------------------------------------------- adversarial training of it


def test_the_config_trains_on_the_closed_form():
  rng = np.random.default_rng(3)
  shape = (3, 2, 1)
  params = random_params(rng, shape)
  linear = Linear.of(params, shape)
  images = rng.uniform(size=(8, *shape)).astype(np.float32)
  labels = np.arange(8) % 2
  config = member_config(smoke_config(), 'adversarial')
  hparams = {name: np.float32(v) for name, v in config.hparams.items()}
  assert hparams['epsilon'] == hparams['step_size'] == EPSILON
  objective = jax.value_and_grad(
    create_objective(config.objective), argnums=1, has_aux=True
  )
  (loss, (_, metrics)), gradient = objective(
    MODEL.apply,
    params,
    {},
    {'image': images, 'label': labels},
    hparams,
    jax.random.split(jax.random.key(0), 8),
  )
  worst = linear.losses(images, labels, EPSILON)
  np.testing.assert_allclose(metrics['adversarial_loss'], worst, rtol=1e-5)
  assert float(loss) == pytest.approx(worst.mean(), rel=1e-5)
  # And along its gradient, in which |w|_1 gives the sign of w.
  slope = -np.expm1(-worst)[:, None]  # softplus' = 1 - exp(-softplus).
  sign = np.sign(linear.weights).reshape(-1)
  signed = (linear.signed(labels) * images).reshape(8, -1)
  expected = (slope * (EPSILON * sign - signed)).mean(0)
  kernel = np.asarray(gradient['Dense_0']['kernel'])
  np.testing.assert_allclose(kernel[:, 0], expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(kernel[:, 1], -expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('variant', [None, 'digits', 'smoke'])
def test_one_epsilon_is_everywhere(variant):
  config = load(FOLDER / 'goodfellow.py', variant)
  config.evaluation.epsilon = 0.125
  for name in MEMBERS:
    member = member_config(config, name)
    assert member.monitor.epsilon == 0.125
    assert member.model.to_dict() == {
      'name': 'logistic_regression',
      'zero_init': True,
    }
  assert (member.hparams.epsilon, member.hparams.step_size) == (0.125, 0.125)
  assert config.dataset.classes == (3, 7)


# ------------------------------------------------------------------- bad input


def without_classes(config):
  config.dataset.classes = None


def three_classes(config):
  config.dataset.classes = (3, 7, 8)


def one_network_not_linear(config):
  config.adversarial.model = {'name': 'mlp', 'hidden_units': (8,)}


def no_network_linear(config):
  config.model = {'name': 'cnn'}


def no_members(config):
  config.members = ()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (without_classes, r'dataset.classes = None: digits has 10 .*two labels'),
    (three_classes, r'dataset.classes = \(3, 7, 8\): .* 3 classes.*two labels'),
    (
      one_network_not_linear,
      r"model.name = 'mlp' \(of adversarial\); allowed: 'logistic_regression'",
    ),
    (no_network_linear, r"model.name = 'cnn' \(of plain\); allowed: 'logistic"),
    (no_members, 'no members to compare'),
  ],
)
def test_bad_input_is_named_before_anything_is_written(
  tmp_path, change, message
):
  config = smoke_config()
  change(config)
  with pytest.raises(ValueError, match=message):
    demonstrate(config, tmp_path / 'run', jax.devices())
  assert not (tmp_path / 'run').exists()


def test_images_of_three_channels_are_refused(tmp_path):
  images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
  path = tmp_path / 'colours.npz'
  np.savez(
    path,
    train_images=images,
    train_labels=labels,
    test_images=images,
    test_labels=labels,
  )
  config = smoke_config()
  config.dataset = {'name': 'npz', 'path': str(path)}
  with pytest.raises(ValueError, match=r"'npz': images .*\(8, 8, 3\).*channel"):
    demonstrate(config, tmp_path / 'run', jax.devices())
  assert not (tmp_path / 'run').exists()
