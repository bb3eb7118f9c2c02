"""Goodfellow's demonstration from end to end, and against closed forms."""

import contextlib
import io
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

import advjax
from advjax import data
from advjax.config import member_config
from advjax.losses import cross_entropy
from advjax.models import create_model
from advjax.training.checkpoint import (
  checkpoint_directory,
  restore_checkpoint,
)
from advjax.training.objectives import create_objective
from experiments.goodfellow import (
  closed_form,
  demonstrate,
  format_table,
  linear_function,
  measure,
)
from tests.test_configs import FOLDER, load

EPSILON = 0.25
MODEL = create_model({'name': 'logistic_regression', 'zero_init': True}, 2)


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


def softplus(x):
  return np.logaddexp(0, x)


def make_network(rng, shape, scale=1.0):
  """Params of a linear network, and w and b in float64."""
  size = int(np.prod(shape))
  kernel = (scale * rng.normal(size=(size, 2))).astype(np.float32)
  # Pixels without a weight, and with a small one.
  kernel[:2, 1] = kernel[:2, 0]
  kernel[2] *= 1e-6
  bias = rng.normal(size=2).astype(np.float32)
  wide = kernel.astype(np.float64)
  weights = (wide[:, 0] - wide[:, 1]).reshape(shape)
  params = {'Dense_0': {'kernel': jnp.asarray(kernel), 'bias': bias}}
  return params, weights, float(bias[0]) - float(bias[1])


def apply_model(params, images):
  return MODEL.apply(params, {}, images, train=False)[0]


def network(params):
  return Partial(apply_model, params)


def margins(weights, bias, images, labels):
  """y (w . x + b) in float64; y is 1 for the first class, else -1."""
  axes = tuple(range(1, images.ndim))
  y = np.where(labels == 0, 1.0, -1.0)
  return y * ((images.astype(np.float64) * weights).sum(axes) + bias)


# ------------------------------------------------------------ the whole program


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(report, text, workdir) of the demonstration."""
  workdir = tmp_path_factory.mktemp('goodfellow') / 'run'
  report, text = printed(demonstrate, smoke_config(), workdir, jax.devices())
  return report, text, workdir


@pytest.fixture(scope='module')
def dataset():
  return data.load({'name': 'digits', 'classes': (3, 7)})


def trained(workdir, name):
  """A member's w and b in float64, from the arrays of its checkpoint."""
  state = restore_checkpoint(checkpoint_directory(workdir / name)).state
  layer = state['params']['Dense_0']
  kernel, bias = (np.asarray(layer[k], np.float64) for k in ('kernel', 'bias'))
  weights = (kernel[:, 0] - kernel[:, 1]).reshape(28, 28, 1)
  return weights, bias[0] - bias[1]


def test_it_adds_to_what_compare_leaves(run):
  report, text, workdir = run
  saved = json.loads((workdir / 'report.json').read_text())
  assert saved == json.loads(json.dumps(report))
  assert {'members', 'config', 'environment'} <= set(saved)
  assert saved['goodfellow']['epsilon'] == EPSILON
  assert saved['goodfellow']['classes'] == ['3', '7']
  assert list(saved['goodfellow']['members']) == ['plain', 'adversarial']
  picture = workdir / 'figures' / 'goodfellow.png'
  assert picture.read_bytes().startswith(b'\x89PNG')
  assert str(picture) in text
  assert (workdir / 'report.html').exists()
  table = format_table(saved['goodfellow']['members'])
  assert table in text
  for name, entry in saved['goodfellow']['members'].items():
    (row,) = [
      line for line in table.splitlines() if line.startswith(name + ' ')
    ]
    assert f'{100 * entry["fgsm_error"]:.1f} %' in row


@pytest.mark.parametrize('name', ['plain', 'adversarial'])
def test_its_numbers_are_those_of_the_weights(run, dataset, name):
  report, _, workdir = run
  entry = report['goodfellow']['members'][name]
  weights, bias = trained(workdir, name)
  images, labels = data.to_float(dataset.test.images), dataset.test.labels
  size = np.abs(weights).sum()
  assert entry['weights_l1'] == pytest.approx(size, rel=1e-5)
  assert entry['shift'] == pytest.approx(EPSILON * size, rel=1e-5)
  assert entry['bias'] == pytest.approx(bias, rel=1e-4, abs=1e-6)
  clean = margins(weights, bias, images, labels)
  y = np.where(labels == 0, 1.0, -1.0)[:, None, None, None]
  boxed = np.clip(images - EPSILON * y * np.sign(weights), 0, 1)
  for field, wanted in (
    ('clean_error', clean),
    ('fgsm_error', clean - EPSILON * size),
    ('closed_form_error', clean - EPSILON * size),
    ('fgsm_in_box_error', margins(weights, bias, boxed, labels)),
  ):
    assert np.abs(wanted).min() > 1e-4  # No image lies on the border.
    assert entry[field] == pytest.approx(np.mean(wanted < 0))
    low, high = entry[f'{field}_ci']
    assert low <= entry[field] <= high
  # The attacks of the report stay in the box, where FGSM is as good as any.
  attacks = report['members'][name]['robust_accuracy']
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
  weights, _ = trained(run[2], 'plain')
  np.testing.assert_array_equal(weights[black], 0)
  assert (weights[~black] != 0).all()


def test_the_same_command_trains_nothing_again(run):
  report, _, workdir = run
  files = [
    workdir / name / 'metrics.jsonl' for name in ('plain', 'adversarial')
  ]
  before = [path.read_bytes() for path in files]
  again, _ = printed(demonstrate, smoke_config(), workdir, jax.devices())
  assert again['goodfellow'] == report['goodfellow']
  assert [path.read_bytes() for path in files] == before


# -------------------------------------------------------------- the closed form


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 3.0))
def test_fgsm_without_a_box_is_the_closed_form(seed, scale):
  rng = np.random.default_rng(seed)
  params, weights, _ = make_network(rng, (4, 3, 1), scale)
  # On these levels 0.25 is added without a rounding.
  images = (rng.integers(0, 257, (9, 4, 3, 1)) / 256).astype(np.float32)
  labels = rng.integers(0, 2, 9)
  found = advjax.fgsm(network(params), images, labels, EPSILON, bounds=None)
  y = np.where(labels == 0, 1.0, -1.0)[:, None, None, None]
  exact = images - EPSILON * y * np.sign(weights)
  np.testing.assert_array_equal(found, exact)
  assert (np.asarray(found)[:, 0, :2] == images[:, 0, :2]).all()
  ours = closed_form(weights.astype(np.float32), images, labels, EPSILON)
  np.testing.assert_array_equal(ours, exact)
  measured = measure(
    network(params), images, labels, EPSILON, jax.devices()[:1]
  )
  assert measured.entry['largest_difference'] == 0.0
  assert measured.entry['num_compared'] == 9
  assert measured.entry['num_zero_weights'] == 2


def test_weights_are_read_off_the_logits():
  params, weights, bias = make_network(np.random.default_rng(1), (4, 3, 1))
  found = linear_function(network(params), (4, 3, 1))
  np.testing.assert_allclose(found.weights, weights, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(np.sign(found.weights), np.sign(weights))
  assert found.bias == pytest.approx(bias)


def test_images_whose_gradient_vanishes_are_counted():
  """A sure network's loss has no gradient in float32: FGSM does nothing."""
  rng = np.random.default_rng(2)
  params, weights, bias = make_network(rng, (4, 3, 1), scale=100.0)
  images = (rng.integers(0, 257, (64, 4, 3, 1)) / 256).astype(np.float32)
  labels = rng.integers(0, 2, 64)
  clean = margins(weights, bias, images, labels)
  # exp(-104) is 0 in float32, but the smallest weights count too.
  sure, unsure = clean > 110, clean < 50
  assert sure.sum() > 10 and unsure.sum() > 10
  found = measure(network(params), images, labels, EPSILON, jax.devices()[:1])
  entry = found.entry
  still = (found.perturbed == images)[:, weights != 0].any(1)
  assert still[sure].all() and not still[unsure].any()
  assert entry['num_vanished'] == still.sum()
  assert entry['num_compared'] == 64 - still.sum()
  assert entry['largest_difference'] == 0.0
  # What FGSM misses for that reason alone, the closed form finds.
  assert entry['closed_form_error'] == pytest.approx(
    np.mean(clean < EPSILON * np.abs(weights).sum())
  )
  assert entry['fgsm_error'] < entry['closed_form_error']
  assert f'vanishes on {still.sum()} others' in format_table({'sure': entry})


# --------------------------------------------------- adversarial training of it


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(3)
  params, weights, bias = make_network(rng, (3, 2, 1))
  images = rng.uniform(size=(8, 3, 2, 1)).astype(np.float32)
  labels = np.arange(8) % 2
  return params, weights, bias, images, labels


def worst_losses(weights, bias, images, labels):
  """softplus(epsilon |w|_1 - y (w . x + b)), float64 `[B]`."""
  shift = EPSILON * np.abs(weights).sum()
  return softplus(shift - margins(weights, bias, images, labels))


def test_the_closed_form_is_the_worst_case(batch):
  """No corner of the ball is worse; what the paper prints holds for y = 1.

  Section 5 has softplus(y (epsilon |w|_1 - w . x - b)), in which y also turns
  the sign of epsilon |w|_1: for y = -1 that is the best case, not the worst.
  """
  _, weights, bias, images, labels = batch
  corners = EPSILON * np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
  shifted = images[None] + corners.reshape(-1, 1, 3, 2, 1)
  losses = np.array(
    [softplus(-margins(weights, bias, x, labels)) for x in shifted]
  )
  worst = worst_losses(weights, bias, images, labels)
  np.testing.assert_allclose(losses.max(0), worst, rtol=1e-12)
  y = np.where(labels == 0, 1.0, -1.0)
  shift = EPSILON * np.abs(weights).sum()
  in_print = softplus(y * shift - margins(weights, bias, images, labels))
  np.testing.assert_allclose(in_print[y > 0], worst[y > 0], rtol=1e-12)
  np.testing.assert_allclose(in_print[y < 0], losses.min(0)[y < 0], rtol=1e-12)
  assert (in_print[y < 0] < worst[y < 0] - 0.1).any()


def test_the_config_trains_on_the_closed_form(batch):
  params, weights, bias, images, labels = batch
  config = member_config(smoke_config(), 'adversarial')
  hparams = {name: np.float32(v) for name, v in config.hparams.items()}
  assert hparams['epsilon'] == hparams['step_size'] == EPSILON
  objective = create_objective(config.objective)
  keys = jax.random.split(jax.random.key(0), 8)
  (loss, (_, metrics)), gradient = jax.value_and_grad(
    objective, argnums=1, has_aux=True
  )(
    MODEL.apply,
    params,
    {},
    {'image': images, 'label': labels},
    hparams,
    keys,
  )
  worst = worst_losses(weights, bias, images, labels)
  np.testing.assert_allclose(metrics['adversarial_loss'], worst, rtol=1e-5)
  assert float(loss) == pytest.approx(worst.mean(), rel=1e-5)
  # And its gradient: that of the closed form, sign(w) times epsilon included.
  y = np.where(labels == 0, 1.0, -1.0)
  slope = -np.expm1(-worst)  # softplus' = 1 - exp(-softplus).
  flat = y[:, None] * images.reshape(8, -1)
  sign = np.sign(weights).reshape(-1)
  expected = (slope[:, None] * (EPSILON * sign - flat)).mean(0)
  kernel = np.asarray(gradient['Dense_0']['kernel'])
  np.testing.assert_allclose(kernel[:, 0], expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(kernel[:, 1], -expected, rtol=1e-4, atol=1e-6)


def test_cross_entropy_of_two_classes_is_the_papers_softplus(batch):
  params, weights, bias, images, labels = batch
  loss = cross_entropy(network(params)(images), labels)
  expected = softplus(-margins(weights, bias, images, labels))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


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
