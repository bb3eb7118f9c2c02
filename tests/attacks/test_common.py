"""What holds for every attack: compiled once, under all transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import advjax
from advjax.callables import Callee
from tests import compiles, reference
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')

KEYS = jax.random.split(jax.random.key(7), 4)
SHARDED = P('data')
ARGUMENTS = (
  jnp.asarray(cases.WEIGHTS),
  jnp.asarray(cases.IMAGES),
  jnp.asarray(cases.LABELS),
  KEYS,
  jnp.array([0.05, 0.1, 0.15, 0.2]),
)


def attack(name, weights, images, labels, keys, epsilon):
  """The attack on a network with these weights, which may be traced."""
  kwargs = {'key': keys} if name in cases.KEYED else {}
  network = jax.tree_util.Partial(cases.apply, weights)
  if name in cases.MINIMUM:
    return cases.MINIMUM[name](network, images, labels)
  return cases.BALL[name](network, images, labels, epsilon, **kwargs)


@functools.cache
def eager(name):
  return np.asarray(attack(name, *ARGUMENTS))


def same(name, result):
  result = np.asarray(result).reshape(cases.SHAPE)
  np.testing.assert_allclose(result, eager(name), atol=1e-6)
  assert np.any(result != cases.IMAGES)


@pytest.mark.parametrize('name', [*cases.KEYED, 'deepfool'])
def test_other_epsilons_keys_and_weights_compile_nothing(name):
  eager(name)
  weights, *batch, _ = ARGUMENTS
  other = jax.block_until_ready(-weights)
  with compiles.counted() as count:
    first = attack(name, weights, *batch, np.full(4, 0.2, np.float32))
    second = attack(name, other, *batch, np.full(4, 0.1, np.float64))
  assert count == [0]
  assert np.any(np.asarray(first) != np.asarray(second))


def test_a_loop_over_kinds_of_numbers_compiles_once():
  epsilons = [0.1, 1 / 255, np.float64(0.05), np.float32(0.02), 1]
  epsilons += [jnp.float32(0.03), jnp.asarray(0.04)]
  args = cases.IMAGES, cases.LABELS
  kinds = [jax.block_until_ready(e) for e in epsilons]

  def closure(images):
    return cases.apply(cases.WEIGHTS, images)

  with compiles.counted() as count:
    for epsilon in kinds:
      advjax.bim(closure, *args, epsilon, epsilon, num_steps=2)
    advjax.bim(closure, *args, 0.1, 0.1, num_steps=2, bounds=(0, 2))
  assert count == [1]


def test_vmap_over_examples_as_batches_of_one():
  def one(weights, *row):
    return attack('fab', weights, *(x[None] for x in row))[0]

  same('fab', jax.vmap(one, (None, 0, 0, 0, 0))(*ARGUMENTS))


def test_vmap_over_epsilons_is_a_curve_and_epsilon_is_per_example():
  weights, images, labels, keys, epsilon = ARGUMENTS
  run = functools.partial(attack, 'bim', weights, images, labels, keys)
  curve = jax.vmap(run)(np.append(np.float32(0), epsilon))
  np.testing.assert_array_equal(curve[0], images)
  same('bim', np.stack([np.asarray(curve)[1 + i, i] for i in range(4)]))


def test_gradient_of_the_surroundings_does_not_see_the_attack():
  weights, images, *rest = ARGUMENTS

  def loss(weights, images, attacked=None):
    if attacked is None:
      attacked = attack('bim', weights, images, *rest)
    logits = cases.apply(weights, attacked)
    return advjax.losses.cross_entropy(logits, cases.LABELS).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1)))(weights, images)
  expected = jax.jit(jax.grad(loss))(weights, images, eager('bim'))
  np.testing.assert_allclose(gradient[0], expected, atol=1e-5)
  assert not np.asarray(gradient[1]).any()


@pytest.mark.parametrize('closed', [False, True])
@pytest.mark.parametrize('name', cases.ALL)
def test_every_attack_is_traced_in_a_gradient(name, closed):
  """Nothing in an attack is differentiated: some of it could not be."""
  _, images, labels, keys, epsilon = ARGUMENTS
  kwargs = {'key': keys} if name in cases.KEYED else {}

  def loss(weights):
    network = jax.tree_util.Partial(cases.apply, weights)
    if closed:
      network = functools.partial(cases.apply, weights)
    if name in cases.MINIMUM:
      return cases.MINIMUM[name](network, images, labels).sum()
    return cases.BALL[name](network, images, labels, epsilon, **kwargs).sum()

  assert jax.eval_shape(jax.grad(loss), ARGUMENTS[0]).shape == (30, 3)


def halves():
  return jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), ARGUMENTS[1:])


def test_scan_under_jit():
  def run(batches):
    return jax.lax.map(lambda b: attack('fgsm', ARGUMENTS[0], *b), batches)

  same('fgsm', jax.jit(run)(halves()))


def test_pmap():
  run = jax.pmap(
    functools.partial(attack, 'bim'), axis_name='data', in_axes=(None, *[0] * 4)
  )
  same('bim', run(ARGUMENTS[0], *halves()))


def shard(run, in_specs):
  mesh = Mesh(np.array(jax.devices()[:2]), ('data',))
  return jax.jit(
    jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=SHARDED)
  )


@pytest.mark.parametrize('name', ['pgd', 'fab', 'fmn'])
def test_shard_map(name):
  run = shard(functools.partial(attack, name), (P(), *[SHARDED] * 4))
  same(name, run(*ARGUMENTS))


def test_shard_map_over_models_with_images_that_do_not_vary():
  def run(weights):
    return attack('bim', weights[0], *ARGUMENTS[1:])[None]

  both = np.stack([cases.WEIGHTS, -cases.WEIGHTS])
  result = np.asarray(shard(run, SHARDED)(both))
  same('bim', result[0])
  assert np.abs(result[1] - result[0]).max() > 0.05


def test_many_restarts_contain_one():
  def ranks(num_restarts):
    images = cases.BALL['pgd'](
      cases.logits_fn,
      cases.IMAGES,
      cases.LABELS,
      0.03,
      num_restarts=num_restarts,
    )
    flat = np.asarray(images, np.float64).reshape(4, -1)
    loss, _ = reference.cross_entropy(
      np.tanh(flat - 0.5) @ cases.WEIGHTS, cases.LABELS
    )
    fooled = (np.tanh(flat - 0.5) @ cases.WEIGHTS).argmax(1) != cases.LABELS
    return list(zip(fooled.tolist(), loss, strict=True))

  one, two = ranks(1), ranks(2)
  assert all(t >= (o[0], o[1] - 1e-6) for t, o in zip(two, one, strict=True))
  assert two != one


def test_arrays_of_a_callable_are_traced_and_the_rest_is_static():
  def apply(config, images, flag):
    assert isinstance(config['scale'], float) and config['name'] == 'a'
    assert isinstance(config['weights'], jax.core.Tracer)
    return config['scale'] * cases.apply(config['weights'], images) + flag

  config = {'scale': 2.0, 'name': 'a', 'weights': cases.WEIGHTS}
  network = jax.tree_util.Partial(
    lambda config, flag, x: apply(config, x, flag), config, True
  )
  advjax.fgsm(network, cases.IMAGES, cases.LABELS, 0.1)
  # 1 == True, yet they are two programs.
  one, true = (
    Callee.of(jax.tree_util.Partial(cases.apply, x)) for x in (1, True)
  )
  assert one.structure != true.structure
