"""Which callables can be attacked, and what their programs keep alive."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from tests import compiles
from tests.attacks import cases

ARGS = cases.IMAGES, cases.LABELS, 0.1


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
    Unhashable,
    lambda w: Unhashable(w).method,
  ],
  ids=['jitted', 'unhashable', 'method'],
)
def test_any_callable_and_equal_ones_are_kept_apart(wrap):
  one, other = wrap(cases.WEIGHTS), wrap(-cases.WEIGHTS)
  results = [advjax.fgsm(f, *ARGS) for f in (one, other)]
  expected = [advjax.fgsm(f, *ARGS) for f in (cases.logits_fn, cases.other_fn)]
  np.testing.assert_allclose(results, expected, atol=1e-6)
  for f, images, sign in ((one, results[0], 1), (other, results[1], -1)):
    classes = np.asarray(cases.apply(sign * cases.WEIGHTS, images)).argmax(1)
    success = advjax.is_adversarial(f, images, cases.LABELS)
    np.testing.assert_array_equal(success, classes != cases.LABELS)
  with compiles.counted() as count:
    advjax.fgsm(one, *ARGS)
    advjax.is_adversarial(one, *ARGS[:2])
  assert count == [0]


def test_a_closure_keeps_its_first_values_as_documented():
  box = [jnp.asarray(cases.WEIGHTS)]

  def logits_fn(images):
    return cases.apply(box[0], images)

  first = advjax.fgsm(logits_fn, *ARGS)
  box[0] = -box[0]
  np.testing.assert_array_equal(advjax.fgsm(logits_fn, *ARGS), first)


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
  advjax.fgsm(models[0], *ARGS)
  with compiles.counted() as count:
    second = advjax.fgsm(models[1], *ARGS)
  assert count == [0]
  kernel = models[1].dense.kernel[...]
  expected = advjax.fgsm(lambda x: x.reshape(-1, 30) @ kernel, *ARGS)
  np.testing.assert_allclose(second, expected, atol=1e-6)


def test_programs_die_with_their_closure():
  weights = jnp.asarray(cases.WEIGHTS)
  function = functools.partial(cases.apply, weights)
  alive = weakref.ref(function)
  advjax.fgsm(function, *ARGS)
  del function
  gc.collect()
  assert alive() is None
