"""eager = jit = vmap = grad = scan = pmap = shard_map, for every attack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import advjax
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')

KEYS = jax.random.split(jax.random.key(7), 4)
SHARDED = P('data')


@pytest.fixture(scope='module')
def mesh():
  return Mesh(np.array(jax.devices()[:2]), ('data',))


def attack(name, weights, images, labels, keys, epsilon):
  """The attack on a closure over weights, which may be traced."""
  kwargs = {'key': keys} if name in (*cases.SEARCHES, 'pgd') else {}
  if name in ('mifgsm', 'pgd'):
    kwargs['num_steps'] = 2
  return cases.ANY[name](
    lambda x: cases.apply(weights, x), images, labels, epsilon, **kwargs
  )


@functools.cache
def arguments():
  arrays = cases.WEIGHTS, cases.IMAGES, cases.LABELS
  epsilon = np.array([0.05, 0.1, 0.15, 0.2], np.float32)
  return *map(jnp.asarray, arrays), KEYS, jnp.asarray(epsilon)


@functools.cache
def eager(name):
  return np.asarray(attack(name, *arguments()))


def same(name, result):
  np.testing.assert_allclose(result, eager(name), atol=1e-6)


table = pytest.mark.parametrize('name', ['fgsm', 'pgd', 'mifgsm'])
table_and_searches = pytest.mark.parametrize(
  'name', ['fgsm', 'pgd', 'mifgsm', *cases.SEARCHES]
)


@table_and_searches
def test_vmap_over_examples_as_batches_of_one(name):
  def one(weights, image, label, key, epsilon):
    result = attack(name, weights, image[None], label[None], key[None], epsilon)
    return result[0]

  same(name, jax.vmap(one, (None, 0, 0, 0, 0))(*arguments()))


def test_vmap_over_epsilons_compiles_a_curve():
  weights, images, labels, keys, _ = arguments()
  epsilons = jnp.array([0.0, 0.1])
  attack_one = functools.partial(attack, 'pgd', weights, images, labels, keys)
  curve = jax.vmap(attack_one)(epsilons)
  np.testing.assert_array_equal(curve[0], images)
  np.testing.assert_allclose(curve[1], attack_one(epsilons[1]), atol=1e-6)


@table
def test_gradient_of_the_surroundings_does_not_see_the_attack(name):
  _, images, *rest = arguments()

  def loss(weights, images, attacked):
    if attacked is None:
      attacked = attack(name, weights, images, *rest)
    logits = cases.apply(weights, attacked)
    return advjax.losses.cross_entropy(logits, cases.LABELS).sum()

  fixed = jnp.asarray(eager(name))
  gradient = jax.jit(jax.grad(loss, (0, 1)))(arguments()[0], images, None)
  expected = jax.grad(loss)(arguments()[0], images, fixed)
  np.testing.assert_allclose(gradient[0], expected, atol=1e-5)
  assert not gradient[1].any()


@table
def test_scan(name):
  weights, *batch = arguments()

  def step(total, batch):
    result = attack(name, weights, *batch)
    return total + result.sum(), result

  batches = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), tuple(batch))
  total, results = jax.jit(lambda batches: jax.lax.scan(step, 0.0, batches))(
    batches
  )
  same(name, results.reshape(cases.SHAPE))
  np.testing.assert_allclose(total, eager(name).sum(), rtol=1e-5)


@table_and_searches
def test_pmap(name):
  weights, *batch = arguments()
  batches = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), tuple(batch))
  run = jax.pmap(
    functools.partial(attack, name), axis_name='data', in_axes=(None, *[0] * 4)
  )
  same(name, run(weights, *batches).reshape(cases.SHAPE))


def shard(run, mesh):
  return jax.jit(
    jax.shard_map(
      run,
      mesh=mesh,
      in_specs=(P(), *[SHARDED] * 4),
      out_specs=SHARDED,
      check_vma=True,
    )
  )


@table_and_searches
def test_shard_map(name, mesh):
  same(name, shard(functools.partial(attack, name), mesh)(*arguments()))


def test_shard_map_of_the_loop_that_projects_in_l1(mesh):
  def run(weights, images, labels, keys, epsilon):
    return cases.pgd(
      lambda x: cases.apply(weights, x),
      images,
      labels,
      epsilon,
      key=keys,
      num_steps=2,
      norm='l1',
    )

  result = shard(run, mesh)(*arguments())
  np.testing.assert_allclose(result, run(*arguments()), atol=1e-6)


def test_shard_map_over_models_with_images_that_do_not_vary(mesh):
  weights, images, labels, keys, epsilon = arguments()
  both = jnp.stack([weights, -weights])

  def run(weights):
    return attack('pgd', weights[0], images, labels, keys, epsilon)[None]

  result = jax.shard_map(run, mesh=mesh, in_specs=SHARDED, out_specs=SHARDED)(
    both
  )
  same('pgd', result[0])
  assert np.abs(result[1] - result[0]).max() > 0.05


def test_jit_and_no_tracer_outlives_it():
  weights, *batch = arguments()
  with jax.checking_leaks():
    result = jax.jit(lambda w: attack('pgd', w, *batch))(weights)
  same('pgd', result)
