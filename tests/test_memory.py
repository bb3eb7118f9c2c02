"""What is left of a network once its user has let go of it: nothing."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.tree_util import Partial

import advjax
from advjax import explain, norms, parse_attack
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.robustness import attack_and_predict
from tests import compiles

KEY = jax.random.key(0)
SHAPE = (2, 2, 2, 1)
IMAGES = np.random.default_rng(0).uniform(size=SHAPE).astype('float32')
LABELS = np.array([0, 1], np.int32)
EPSILON = 0.1
STEPS = {'num_steps': 2}


class Network:
  def __init__(self):
    weights = np.random.default_rng(1).normal(size=(4, 3))
    self.weights = jnp.asarray(weights, jnp.float32)

  def logits(self, images):
    flat = images.reshape(images.shape[0], -1)
    return jax.nn.relu(flat) @ self.weights

  __call__ = logits


class Linen(nn.Module):
  @nn.compact
  def __call__(self, images):
    return nn.Dense(3)(images.reshape(images.shape[0], -1))


class Nnx(nnx.Module):
  def __init__(self):
    self.dense = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

  def __call__(self, images):
    return self.dense(images.reshape(images.shape[0], -1))


def of(wrap):
  """Makes a network and a callable of it."""

  def make():
    network = Network()
    return network, wrap(network)

  return make


def linen(wrap):
  def make():
    model = Linen()
    return model, wrap(model, model.init(KEY, IMAGES))

  return make


def linen_bound():
  bound = Linen().bind(Linen().init(KEY, IMAGES))
  return bound, bound


def nnx_module(wrap=lambda model: model):
  def make():
    model = Nnx()
    return model, wrap(model)

  return make


KINDS = {
  'closure': of(lambda network: lambda images: network.logits(images)),
  'object': of(lambda network: network),
  'method': of(lambda network: network.logits),
  'partial': of(lambda network: functools.partial(Network.logits, network)),
  'jitted': of(lambda network: jax.jit(lambda images: network.logits(images))),
  'Partial of a method': of(lambda network: Partial(network.logits)),
  'Partial of a partial': of(
    lambda network: Partial(functools.partial(Network.logits, network))
  ),
  'Partial of a closure': of(
    lambda network: Partial(lambda w, x: network(x) * w, network.weights[:1])
  ),
  'Partial of an object': of(lambda network: Partial(Network.logits, network)),
  'linen closure': linen(lambda m, p: lambda images: m.apply(p, images)),
  'linen Partial': linen(lambda model, p: Partial(model.apply, p)),
  'linen bound': linen_bound,
  'nnx': nnx_module(),
  'nnx method': nnx_module(lambda model: model.__call__),
}


def attack(logits_fn, images, labels, epsilon, keys):
  return advjax.fgsm(logits_fn, images, labels, epsilon)


def attacked(run, *args, **choices):
  return lambda f: run(f, IMAGES, LABELS, *args, **choices)


RUNS = {
  'fgsm': attacked(advjax.fgsm, EPSILON),
  'pgd': attacked(advjax.pgd, EPSILON, key=KEY, num_restarts=2, **STEPS),
  'apgd': attacked(advjax.apgd, EPSILON, key=KEY, **STEPS),
  'square': attacked(advjax.square, EPSILON, key=KEY, num_queries=2),
  'fab': attacked(advjax.fab, None, **STEPS),
  'fmn': attacked(advjax.fmn, **STEPS),
  'deepfool': attacked(advjax.deepfool, **STEPS),
  'carlini_wagner': attacked(advjax.carlini_wagner, num_searches=2, **STEPS),
  'is_adversarial': attacked(advjax.is_adversarial),
  'minimal_epsilon': lambda f: advjax.minimal_epsilon(
    attack, f, IMAGES, LABELS, key=KEY, max_epsilon=1.0, num_bisections=2
  ),
  'explain': lambda f: explain.explain(
    explain.Network('', f),
    *(IMAGES, LABELS),
    **{'key': KEY, 'num_samples': 2, **STEPS},
  ),
  'grad_cam': lambda f: explain.grad_cam(lambda x: x, f, IMAGES, LABELS),
  'activation': lambda f: explain.activation_maximization(
    f, LABELS, SHAPE[1:], key=KEY, **STEPS
  ),
  'compute_logits': lambda f: compute_logits(f, IMAGES),
  'attack_and_predict': lambda f: (
    attack_and_predict(
      f, {'': f}, parse_attack('bim-2'), IMAGES, LABELS, [EPSILON]
    ).images
  ),
  'robust_accuracy': attacked(
    advjax.robust_accuracy, {'own': attack}, EPSILON, key=KEY
  ),
  'autoattack': attacked(
    advjax.autoattack, EPSILON, key=KEY, attacks=['apgd-ce']
  ),
}


# Every kind of callable, in each of the two ways in which programs are kept;
# every function that takes one; and the way of AutoAttack.
@pytest.mark.parametrize(
  ('kind', 'name'),
  [
    *((kind, 'is_adversarial') for kind in KINDS),
    *((kind, 'compute_logits') for kind in KINDS),
    *(('method', name) for name in RUNS),
    *((kind, 'autoattack') for kind in ('closure', 'linen Partial', 'nnx')),
  ],
)
def test_a_network_is_gone_with_the_last_reference(kind, name):
  gc.collect()
  before = len(jax.live_arrays())
  network, function = KINDS[kind]()
  alive = weakref.ref(network)
  jax.block_until_ready(RUNS[name](function))
  del network, function
  gc.collect()
  assert alive() is None
  assert len(jax.live_arrays()) <= before


# Their programs hold an array each.
def own_loss():
  one = jnp.ones(1)
  return lambda logits, labels: -logits[:, 0] * one[0]


def own_norm():
  one = jnp.ones(1)

  def direction(*args):
    return jax.tree.map(lambda d: d * one[0], norms.l2.direction(*args))

  return norms.l2._replace(direction=direction)


def own_attack():
  one = jnp.ones(1)
  return lambda f, x, y, epsilon, keys: advjax.fgsm(f, x * one[0], y, epsilon)


# With one network that stays.
LOOPS = {
  'loss_fn': (
    own_loss,
    lambda f, loss: advjax.fgsm(f, IMAGES, LABELS, EPSILON, loss_fn=loss),
  ),
  'loss_fn of apgd': (
    own_loss,
    lambda f, loss: advjax.apgd(
      f, IMAGES, LABELS, EPSILON, key=KEY, loss_fn=loss, **STEPS
    ),
  ),
  'norm': (
    own_norm,
    lambda f, norm: advjax.fgsm(f, IMAGES, LABELS, EPSILON, norm=norm),
  ),
  'attack': (
    own_attack,
    lambda f, run: advjax.robust_accuracy(
      f, IMAGES, LABELS, {'own': run}, EPSILON, key=KEY
    ),
  ),
  'attack of minimal_epsilon': (
    own_attack,
    lambda f, run: advjax.minimal_epsilon(
      run, f, IMAGES, LABELS, key=KEY, max_epsilon=1.0, num_bisections=1
    ),
  ),
  'closure': (
    lambda: KINDS['closure']()[1],
    lambda _, f: advjax.robust_accuracy(
      f, IMAGES, LABELS, 'fgsm', EPSILON, key=KEY
    ),
  ),
}


@pytest.mark.parametrize('name', LOOPS)
def test_a_loop_that_makes_new_functions_does_not_grow(name):
  make, run = LOOPS[name]
  network = Network()
  arrays, compilations = [], []
  for _ in range(3):
    made = make()
    # A norm itself, a tuple, cannot be referred to weakly.
    alive = weakref.ref(getattr(made, 'direction', made))
    with compiles.counted() as count:
      jax.block_until_ready(run(network, made))
    del made
    gc.collect()
    assert alive() is None
    arrays.append(len(jax.live_arrays()))
    compilations += count
  assert arrays[1] == arrays[2]
  assert compilations[1] == compilations[2]


@pytest.mark.parametrize(
  ('kind', 'name'),
  [
    ('method', 'apgd'),
    ('method', 'robust_accuracy'),
    ('method', 'autoattack'),
    ('linen Partial', 'robust_accuracy'),
    ('nnx', 'robust_accuracy'),
  ],
)
def test_the_same_again_compiles_nothing(kind, name):
  network, _ = made = KINDS[kind]()
  wrap = {'method': lambda: network.logits}.get(kind, lambda: made[1])
  RUNS[name](wrap())
  with compiles.counted() as count:
    RUNS[name](wrap())
  assert count == [0]
