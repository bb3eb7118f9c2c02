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
from tests import compiles
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


@pytest.mark.parametrize('name', [*cases.KEYED, 'mifgsm', 'deepfool'])
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


@pytest.mark.parametrize('name', ['mifgsm', 'apgd', 'fab'])
def test_vmap_over_examples_as_batches_of_one(name):
  def one(weights, image, label, key, epsilon):
    result = attack(name, weights, image[None], label[None], key[None], epsilon)
    return result[0]

  same(name, jax.vmap(one, (None, 0, 0, 0, 0))(*ARGUMENTS))


def test_vmap_over_epsilons_is_a_curve_and_epsilon_is_per_example():
  weights, images, labels, keys, epsilon = ARGUMENTS
  run = functools.partial(attack, 'pgd', weights, images, labels, keys)
  curve = jax.vmap(run)(jnp.append(0.0, epsilon))
  np.testing.assert_array_equal(curve[0], images)
  same('pgd', jnp.stack([curve[1 + i, i] for i in range(4)]))


def test_gradient_of_the_surroundings_does_not_see_the_attack():
  weights, images, *rest = ARGUMENTS

  def loss(weights, images, attacked):
    if attacked is None:
      attacked = attack('pgd', weights, images, *rest)
    logits = cases.apply(weights, attacked)
    return advjax.losses.cross_entropy(logits, cases.LABELS).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1)))(weights, images, None)
  expected = jax.grad(loss)(weights, images, jnp.asarray(eager('pgd')))
  np.testing.assert_allclose(gradient[0], expected, atol=1e-5)
  assert not gradient[1].any()


def halves():
  return jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), ARGUMENTS[1:])


def test_scan_under_jit_and_no_tracer_outlives_it():
  def run(batches):
    return jax.lax.map(lambda b: attack('pgd', ARGUMENTS[0], *b), batches)

  with jax.checking_leaks():
    result = jax.jit(run)(halves())
  same('pgd', result)


@pytest.mark.parametrize('name', ['pgd', 'square'])
def test_pmap(name):
  run = jax.pmap(
    functools.partial(attack, name), axis_name='data', in_axes=(None, *[0] * 4)
  )
  same(name, run(ARGUMENTS[0], *halves()))


def shard(run, in_specs):
  mesh = Mesh(np.array(jax.devices()[:2]), ('data',))
  return jax.jit(
    jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=SHARDED)
  )


@pytest.mark.parametrize('name', ['mifgsm', *cases.KEYED, 'fmn'])
def test_shard_map(name):
  run = shard(functools.partial(attack, name), (P(), *[SHARDED] * 4))
  same(name, run(*ARGUMENTS))


@pytest.mark.parametrize('name', ['bim', 'pgd'])
def test_shard_map_over_models_with_images_that_do_not_vary(name):
  def run(weights):
    return attack(name, weights[0], *ARGUMENTS[1:])[None]

  both = jnp.stack([ARGUMENTS[0], -ARGUMENTS[0]])
  result = shard(run, SHARDED)(both)
  same(name, result[0])
  assert np.abs(result[1] - result[0]).max() > 0.05


@pytest.mark.parametrize('name', ['pgd', 'square'])
def test_many_restarts_contain_one(name):
  def ranks(num_restarts):
    images = cases.BALL[name](
      cases.logits_fn,
      cases.IMAGES,
      cases.LABELS,
      0.03,
      num_restarts=num_restarts,
    )
    logits = cases.logits_fn(images)
    margins = np.asarray(advjax.losses.margin(logits, cases.LABELS))
    if name == 'pgd':
      fooled = margins > 0
      loss = advjax.losses.cross_entropy(logits, cases.LABELS)
      return list(zip(fooled.tolist(), np.asarray(loss), strict=True))
    return [(m > 0, m) for m in margins.tolist()]

  one, three = ranks(1), ranks(3)
  assert all(t >= (o[0], o[1] - 1e-5) for t, o in zip(three, one, strict=True))
  assert three != one


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
