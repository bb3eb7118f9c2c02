"""Every Python block in README.md and docs/ runs, and does what it says."""

import inspect
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import advjax
from advjax import data, models
from advjax.config import check_config, default_config, member_config
from advjax.jobs.evaluate import evaluate
from advjax.jobs.explain import explain
from advjax.jobs.sweep import sweep
from advjax.reporting.figures import run as figures
from advjax.training.objectives import read_hparams
from tests import compiles
from tests.docs import pages
from tests.docs.pages import run


@pytest.fixture
def folder(monkeypatch, tmp_path):
  """An empty folder to run in: what a page saves goes there."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_readme(folder):
  page = pages.ROOT / 'README.md'
  found = run(page)
  images, labels = found['images'], found['labels']
  size = np.abs(found['adversarial'] - images).max()
  np.testing.assert_allclose(size, 8 / 255, rtol=1e-5)
  assert found['table'].worst_case.shape == labels.shape
  # "All six: one compilation": a seventh does not compile either.
  network = Partial(found['apply'], 3 * found['weights'])
  with compiles.counted() as count:
    advjax.fgsm(network, images, labels, 16 / 255)
  assert count == [0]


@pytest.fixture
def smaller(monkeypatch):
  """Small networks, fewer images, larger steps: the same page, sooner.

  Weights are drawn by NumPy: jax.random takes long to compile.
  """
  create_model, load = models.create_model, data.load
  sizes = {
    'cnn': {'conv_filters': (16,), 'num_fc_units': ()},
    'mlp': {'hidden_units': (64,)},
  }

  def narrow(config, **options):
    model = create_model({**config, **sizes[config['name']]}, **options)

    def init(key, images):
      rng = np.random.default_rng(1)

      def draw(shape):
        size = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0
        return jnp.float32(size * rng.standard_normal(shape))

      shapes = jax.eval_shape(model.init, key, images)
      return jax.tree.map(lambda x: draw(x.shape), shapes)

    return model._replace(init=init)

  def part(config):
    dataset = load(config)
    train, test = (
      data.Split(split.images[::every], split.labels[::every])
      for split, every in ((dataset.train, 2), (dataset.test, 3))
    )
    return dataset._replace(train=train, test=test)

  def faster(optimizer, factor):
    return lambda rate, **options: optimizer(factor * rate, **options)

  monkeypatch.setattr(models, 'create_model', narrow)
  monkeypatch.setattr(data, 'load', part)
  monkeypatch.setattr(optax, 'adam', faster(optax.adam, 4))
  monkeypatch.setattr(optax, 'sgd', faster(optax.sgd, 2))


def test_tutorial(folder, smaller):
  found = run(pages.ROOT / 'docs' / 'tutorial.md')
  check_adversarial_regularization(found)
  check_own_loop(found)
  check_fgsm_training(found)
  assert {path.name for path in folder.iterdir()} == {
    'perturbed.png',
    'robust.png',
  }


@pytest.fixture
def same_logging():
  """Takes back the level that a page sets."""
  logger = logging.getLogger('advjax')
  level = logger.level
  yield
  logger.setLevel(level)


def test_training_from_python(folder, same_logging, monkeypatch):
  monkeypatch.setattr(figures, 'run_figures', lambda *args: {})
  page = pages.ROOT / 'docs' / 'python.md'
  # How other commands are called: by their own parameters.
  calls = {each.__name__: each for each in (evaluate, explain, sweep)}
  names = {name: inspect.signature(call).bind for name, call in calls.items()}
  code = pages.inline_code(page)
  shown = [each for each in code if re.match(r'\w+\(.', each)]
  shown = [each for each in shown if each.partition('(')[0] in calls]
  for each in shown:
    assert eval(each, {**names, 'config': None}).arguments
  assert len(shown) == 3
  found = run(page)
  network, images, labels = found['network'], found['images'], found['labels']
  adversarial = found['adversarial']
  np.testing.assert_allclose(abs(adversarial - images).max(), 0.1, rtol=1e-5)
  robust = found['robust'].value
  assert 0.5 < robust < found['model'].clean_accuracy.value
  # The own network is another one than what was exported.
  assert network.params['head']['kernel'].shape == (32, 10)
  mixed = found['report'].members['mixed']
  assert mixed.clean_accuracy.value > 0.5
  assert mixed.training.hparams['share'] == 0.5
  exported = found['logits'].argmax(-1) == labels
  clean = found['model'].clean_accuracy
  assert clean.ci[0] - 0.1 < exported.mean() < clean.ci[1] + 0.1
  assert found['gradient'].shape == images.shape


def test_a_config_of_two_members():
  config = run(pages.ROOT / 'docs' / 'experiments.md')['get_config']()
  config.seed = 5
  plain, robust = (member_config(config, name) for name in config.members)
  assert (plain.seed, robust.seed) == (5, 6)
  assert plain.model.name == robust.model.name == 'cnn'
  assert robust.model.conv_filters == (16, 32) != plain.model.conv_filters
  for member in (plain, robust):
    check_config(member)
    name = member.objective.name
    assert read_hparams(member.hparams.to_dict(), name)['learning_rate'] > 0


def test_own_networks(monkeypatch):
  monkeypatch.syspath_prepend(pages.ROOT / 'docs')  # It imports mine.py.
  module = run(pages.ROOT / 'docs' / 'extend.md')['Residual']
  model = models.from_linen(module(10, axis_name='devices'))
  images = jnp.zeros((1, 8, 8, 1))
  _, state = jax.eval_shape(model.init, jax.random.key(0), images)
  assert set(state) == {'batch_stats', 'rngs'}


def test_goodfellow(folder):
  found = run(pages.ROOT / 'docs' / 'goodfellow.md')
  images, labels = found['images'], found['labels']
  assert 0 < abs(found['perturbed'] - found['by_hand']).max() <= 2**-23
  np.testing.assert_allclose(found['found'], found['worst'], rtol=1e-4)
  network, params = found['network'], found['params']
  clean = network(params, images).argmax(-1) == labels
  perturbed = network(params, found['perturbed']).argmax(-1) == labels
  assert clean.mean() > 0.95
  assert perturbed.mean() < 0.1


def test_datasets(folder, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
  monkeypatch.setenv('HOME', str(folder / 'home'))
  page = pages.ROOT / 'docs' / 'datasets.md'
  found = run(page)
  dataset = found['dataset']
  # TFDS shuffles what it prepares.
  for split, name in ((dataset.train, 'train'), (dataset.test, 'test')):
    images, labels = found[f'{name}_images'], found[f'{name}_labels']
    assert sorted(zip(map(bytes, split.images), split.labels, strict=True)) == (
      sorted(zip(map(bytes, images), labels, strict=True))
    )
  assert found['threes_and_sevens'].class_names == ('3', '7')
  assert found['pets'].class_names == ('cat', 'dog')
  assert found['pets'].train.images.shape == (8, 24, 24, 3)
  assert {path.name for path in folder.iterdir()} == {
    'cache',
    'mine.npz',
    'pets',
    'sets',
  }
  # Every field of the config is explained.
  for field in default_config().dataset:
    assert f'`{field}`' in page.read_text()


def check_adversarial_regularization(found):
  accuracy, perturbed = found['accuracy'], found['perturbed']
  for name in ('base', 'adversarial'):
    assert accuracy(name, found['test_images']) > 0.85
  transfer = accuracy('adversarial', perturbed)
  assert accuracy('base', perturbed) + 0.15 < transfer
  # What the text says: a step is not many.
  many_steps = accuracy('adversarial', found['many_steps'])
  assert many_steps + 0.05 < accuracy('adversarial', found['one_step'])
  for images in (perturbed, found['one_step'], found['many_steps']):
    assert images.min() >= 0 and images.max() <= 1
    assert np.abs(images - found['test_images']).max() < 0.1 + 1e-6


def check_own_loop(found):
  """The ten lines minimise what the objective does."""
  network, params = found['network'], found['params']
  images, labels = found['train_images'][:32], found['train_labels'][:32]

  def apply(params, model_state, images, *, train):
    return network(params, images), model_state

  @jax.jit
  def gradients(params, images, labels):
    expected, _ = jax.grad(found['nsl'], argnums=1, has_aux=True)(
      apply,
      params,
      {},
      {'image': images, 'label': labels},
      {'multiplier': 0.2, 'step_size': 0.2},
      None,
    )
    return jax.grad(found['loss_fn'])(params, images, labels), expected

  by_hand, expected = gradients(params, images, labels)
  np.testing.assert_allclose(by_hand, expected, rtol=1e-4, atol=1e-7)
  logits = network(params, found['test_images'])
  assert (logits.argmax(-1) == found['test_labels']).mean() > 0.6


def check_fgsm_training(found):
  for name in ('plain', 'robust'):
    assert found['accuracy'](name, found['test_images']) > 0.6
  bim_accuracy = found['bim_accuracy']
  assert bim_accuracy['plain'] + 0.2 < bim_accuracy['robust']
  # Without bounds: black and white pixels leave the box by epsilon.
  attacked = found['attacked']
  np.testing.assert_allclose(attacked.min(), -0.1, atol=1e-6)
  np.testing.assert_allclose(attacked.max(), 1.1, atol=1e-6)
