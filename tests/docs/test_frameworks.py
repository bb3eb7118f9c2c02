"""The page on models of other frameworks runs, and its adapters are right.

One run of the page serves all tests here: Keras takes seconds to import.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from tests import compiles
from tests.docs import pages

PAGE = pages.ROOT / 'docs' / 'use-in-your-project.md'
NAMES = [
  'function',
  'linen',
  'nnx',
  'equinox',
  'haiku',
  'sequential',
  'functional',
  'subclassed',
]
KERAS = ('sequential', 'functional', 'subclassed')


class Attacked(NamedTuple):
  """A call of an attack by the page."""

  network: Any
  logits: Callable  # of images, compiled
  arrays: list[np.ndarray]  # of the network, before
  arguments: tuple[Any, ...]
  found: jax.Array


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The names that the page leaves."""
  attacked = []

  def record(network, *arguments, **options):
    before = [x.copy() for x in arrays(network)]
    found = bim(network, *arguments, **options)
    logits = jax.jit(lambda images: network(images))
    attacked.append(Attacked(network, logits, before, arguments, found))
    return found

  bim = advjax.bim
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path_factory.mktemp('page'))
    patch.setattr(advjax, 'bim', record)
    patch.setenv('KERAS_BACKEND', 'jax')  # Taken back in the end.
    # Keras adds vectors to matrices.
    with jax.numpy_rank_promotion('allow'):
      names = pages.run(PAGE)
      patch.setattr(advjax, 'bim', bim)
      yield names | {'attacked': dict(zip(NAMES, attacked, strict=True))}


def in_training(page, name):
  """The same network as a callable in training mode."""
  key = jax.random.key(0)
  if name == 'linen':
    return lambda images: page['linen_network'].apply(
      page['variables'],
      images,
      train=True,
      rngs={'dropout': key},
      mutable=['batch_stats'],
    )[0]
  if name == 'nnx':
    network = jax.tree.map(lambda x: x, page['nnx_network'])  # A copy.
    network.train()
    # Another one in each trace, which it changes.
    return lambda images: jax.tree.map(lambda x: x, network)(images)
  if name == 'equinox':
    # A copy: a state can be used in training once.
    state = jax.tree.map(lambda x: x, page['state'])
    return lambda images: jax.vmap(
      lambda image, key: page['equinox_network'](image, state, key)[0],
      axis_name='batch',
    )(jnp.moveaxis(images, -1, 1), jax.random.split(key, len(images)))
  if name == 'haiku':
    return lambda images: page['haiku_network'].apply(
      page['params'], page['haiku_state'], key, images, train=True
    )[0]
  weights = page['weights_of'](page[name])
  return lambda images: page[name].stateless_call(
    *weights, images, training=True
  )[0]


def arrays(tree):
  leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, 'dtype')]
  keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
  return [
    np.asarray(jax.random.key_data(x) if is_key else x)
    for x, is_key in zip(leaves, keys, strict=True)
  ]


def flipped(network):
  """The same network with other weights, its variances positive as before."""

  def flip(x):
    floating = hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(np.asarray(x)[..., ::-1]) if floating and x.ndim else x

  return jax.tree.map(flip, network)


def spread(logits_fn, images):
  """How much rows hang on other rows, and equal rows on their places."""
  twice = np.array(images)
  twice[1] = twice[0]
  logits = np.asarray(logits_fn(twice))
  twice[5:] = 0.5
  other = np.asarray(logits_fn(twice))
  by_batch = abs(logits - other)[:5].max()
  return float(by_batch), float(abs(logits[0] - logits[1]).max())


def attack(page, name, network):
  return advjax.bim(network, *page['attacked'][name].arguments, num_steps=10)


@pytest.mark.parametrize('name', NAMES)
def test_attacks_go_through_evaluation_mode(page, name):
  logits, images = page['attacked'][name].logits, page['images']
  # BatchNorm in training mode mixes rows, dropout draws for each place.
  assert max(spread(logits, images)) < 1e-5
  if name != 'function':  # And this would be seen.
    assert min(spread(jax.jit(in_training(page, name)), images)) > 1e-3


@pytest.mark.parametrize('name', NAMES)
def test_attacks_fool_and_stay_in_the_ball(page, name):
  _, logits, _, (images, labels, *_), found = page['attacked'][name]
  clean, perturbed = np.asarray(logits(images)), np.asarray(logits(found))
  np.testing.assert_array_equal(clean.argmax(-1), labels)
  assert (perturbed.argmax(-1) == labels).mean() < 0.7
  size = np.abs(np.float64(found) - images).max()
  assert 0.9 * page['epsilon'] < size <= page['epsilon'] + 1e-7


@pytest.mark.parametrize('name', NAMES)
def test_attacks_leave_the_network_as_it_was(page, name):
  network, _, before, *_ = page['attacked'][name]
  owners = {
    'linen': page['variables'],
    'equinox': (page['in_evaluation'], page['state']),
    'haiku': (page['params'], page['haiku_state']),
    **{name: page['weights_of'](page[name]) for name in KERAS},
  }
  after = arrays(owners.get(name, network))
  assert len(before) >= (1 if name == 'function' else 6)
  for old, new in zip(before, after, strict=True):
    np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize('name', NAMES)
def test_new_weights_are_attacked_and_compile_nothing(page, name):
  network, *_, found = page['attacked'][name]
  other = flipped(network)
  with compiles.counted() as count:
    moved = attack(page, name, other)
  assert count == [0]
  assert np.abs(np.asarray(moved) - found).max() > page['epsilon']


def test_saved_examples_come_back_as_they_were(page):
  *_, found = page['attacked']['subclassed']
  assert page['loaded'].dtype == found.dtype == jnp.float32
  np.testing.assert_array_equal(page['loaded'], found)
  moved = np.abs(page['rounded'] - np.asarray(found)).max()
  assert 0.9 / 510 < moved < 1.001 / 510


def test_apgd_finds_as_much_as_bim(page):
  _, logits, _, (images, labels, *_), found = page['attacked']['function']
  bim, apgd = (
    (np.asarray(logits(x)).argmax(-1) != labels).sum()
    for x in (found, page['stronger'])
  )
  assert apgd >= bim
  size = np.abs(np.float64(page['stronger']) - images).max()
  assert size <= page['epsilon'] + 1e-7
