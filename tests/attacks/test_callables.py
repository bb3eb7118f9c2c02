"""What is compiled when, for every kind of callable."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.callables import Callee, output_shape
from tests import compiles
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')

ARGS = cases.IMAGES, cases.LABELS


@pytest.mark.parametrize('name', ['fgsm', 'pgd', 'mifgsm', *cases.SEARCHES])
def test_a_loop_over_epsilons_compiles_once(name):
  def logits_fn(images):
    return cases.apply(cases.WEIGHTS, images)

  epsilons = [0.1, 1 / 255, np.float64(0.05), np.float32(0.02), 1]
  epsilons += [jnp.float32(0.03), jnp.asarray(0.04)]
  kinds = [jax.block_until_ready(e) for e in epsilons]
  kwargs = {'num_steps': 2} if name in ('pgd', 'mifgsm') else {}
  with compiles.counted() as count:
    for epsilon in kinds:
      cases.ANY[name](logits_fn, *ARGS, epsilon, **kwargs)
  assert count == [1]
  with compiles.counted() as count:
    cases.ANY[name](logits_fn, *ARGS, 0.3, bounds=(np.float32(0), 2), **kwargs)
  assert count == [0]


def test_new_parameters_in_a_partial_do_not_recompile():
  models = [
    jax.tree_util.Partial(cases.apply, jnp.asarray(s * cases.WEIGHTS))
    for s in (1, -1)
  ]
  with compiles.counted() as count:
    first = cases.bim(models[0], *ARGS)
  assert count == [1]
  with compiles.counted() as count:
    second = cases.bim(models[1], *ARGS)
  assert count == [0]
  closure = cases.bim(lambda x: cases.apply(-cases.WEIGHTS, x), *ARGS)
  np.testing.assert_allclose(second, closure, atol=1e-6)
  assert np.abs(first - second).max() > 0.1


def test_a_closure_keeps_its_first_values_as_documented():
  box = [jnp.asarray(cases.WEIGHTS)]

  def logits_fn(images):
    return cases.apply(box[0], images)

  first = cases.bim(logits_fn, *ARGS)
  box[0] = -box[0]
  np.testing.assert_array_equal(cases.bim(logits_fn, *ARGS), first)


class Unhashable:
  __hash__ = None

  def __init__(self, weights):
    self.weights = weights

  def __eq__(self, other):
    return True

  def __call__(self, images):
    return cases.apply(self.weights, images)

  def method(self, images):
    return self(images)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda w: jax.jit(lambda x: cases.apply(w, x)),
    lambda w: functools.partial(cases.apply, w),
    Unhashable,
    lambda w: Unhashable(w).method,
  ],
  ids=['jitted', 'partial', 'unhashable', 'method'],
)
def test_any_callable_and_equal_ones_are_kept_apart(wrap):
  one, other = wrap(cases.WEIGHTS), wrap(-cases.WEIGHTS)
  results = [advjax.fgsm(f, *ARGS, 0.1) for f in (one, other)]
  expected = [
    advjax.fgsm(lambda x, s=s: cases.apply(s * cases.WEIGHTS, x), *ARGS, 0.1)
    for s in (1, -1)
  ]
  np.testing.assert_allclose(results, expected, atol=1e-6)
  with compiles.counted() as count:
    advjax.fgsm(one, *ARGS, 0.2)
  assert count == [0]


def test_arrays_are_traced_and_the_rest_is_static():
  def apply(config, images, flag):
    assert isinstance(config['scale'], float) and config['name'] == 'a'
    assert isinstance(config['weights'], jax.core.Tracer)
    return config['scale'] * cases.apply(config['weights'], images) + flag

  def model(flag):
    config = {'scale': 2.0, 'name': 'a', 'weights': cases.WEIGHTS}
    return jax.tree_util.Partial(
      lambda config, flag, x: apply(config, x, flag), config, flag
    )

  advjax.fgsm(model(flag=True), *ARGS, 0.1)
  # 1 == True, yet they are two programs.
  assert Callee.of(len).structure == Callee.of(len).structure
  one, true = (
    Callee.of(jax.tree_util.Partial(cases.apply, x)) for x in (1, True)
  )
  assert one.structure != true.structure


def test_a_flax_nnx_module():
  nnx = pytest.importorskip('flax.nnx')

  class Model(nnx.Module):
    def __init__(self, seed):
      rngs = nnx.Rngs(seed)
      self.dense = nnx.Linear(30, 3, rngs=rngs)
      self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, images):
      return self.dense(self.dropout(images.reshape(images.shape[0], -1)))

  models = [Model(0), Model(1)]
  first = cases.bim(models[0], *ARGS)
  with compiles.counted() as count:
    second = cases.bim(models[1], *ARGS)
  assert count == [0]
  assert np.abs(first - second).max() > 0.1
  kernel = models[1].dense.kernel[...]
  expected = cases.bim(lambda x: x.reshape(-1, 30) @ kernel, *ARGS)
  np.testing.assert_allclose(second, expected, atol=1e-6)


def test_programs_die_with_their_closure():
  weights = jnp.asarray(cases.WEIGHTS)
  for make in (
    lambda: lambda x: cases.apply(weights, x),
    lambda: functools.partial(cases.apply, weights),
  ):
    function = make()
    alive = weakref.ref(function)
    cases.bim(function, *ARGS)
    del function
    gc.collect()
    assert alive() is None


def test_output_shape_traces_once():
  traced = []

  def apply(weights, images):
    traced.append(1)
    return cases.apply(weights, images)

  for function in (
    lambda x: apply(cases.WEIGHTS, x),
    jax.tree_util.Partial(apply, jnp.asarray(cases.WEIGHTS)),
  ):
    traced.clear()
    for _ in range(3):
      assert output_shape(function, cases.IMAGES).shape == (4, 3)
    assert len(traced) == 1
