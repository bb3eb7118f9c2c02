"""DeepFool: closed forms, and rows that keep to themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import deepfool
from advjax.attacks.closest import prepare
from advjax.attacks.deepfool import make_deepfool
from advjax.attacks.search import run
from tests import compiles
from tests.attacks import closest

pytestmark = pytest.mark.usefixtures('quick_compiles')
each_norm = pytest.mark.parametrize('norm', ['l2', 'linf'])


def one_step(logits_fn, images, labels, **kwargs):
  """With a larger overshoot than by default."""
  return deepfool(
    logits_fn, images, labels, num_steps=1, overshoot=0.1, **kwargs
  )


@each_norm
def test_one_step_is_exact_on_a_linear_network(norm):
  found = one_step(
    closest.LINEAR, closest.LINEAR_IMAGES, closest.LINEAR_LABELS, norm=norm
  )
  moved = np.asarray(found, float) - closest.LINEAR_IMAGES
  distances = 1.1 * (closest.linear_distances(norm) + 1e-4)
  np.testing.assert_allclose(closest.sizes(moved, norm), distances, rtol=1e-4)
  assert np.all(closest.linear_predictions(found) != closest.LINEAR_LABELS)


def test_what_one_step_cannot_reach_keeps_its_bits():
  images = closest.LINEAR_IMAGES
  # Hardly wider than the images: the box is in the way of most pixels.
  found = one_step(
    closest.LINEAR,
    images,
    closest.LINEAR_LABELS,
    bounds=(images.min() - 0.03, images.max() + 0.03),
  )
  fooled = closest.linear_predictions(found) != closest.LINEAR_LABELS
  still = ~fooled
  assert 0 < still.sum() < 4
  assert np.asarray(found)[still].tobytes() == images[still].tobytes()


def test_candidates_are_the_highest_clean_logits():
  images = closest.IMAGES.astype(np.float64)
  with jax.enable_x64(True):
    few = deepfool(closest.MLP64, images, closest.LABELS, num_candidates=2)
  assert few.dtype == np.float64
  second = np.argsort(closest.MODEL.logits(images))[:, -2]
  np.testing.assert_array_equal(closest.predictions(few)[:7], second[:7])
  more = deepfool(closest.MLP, closest.IMAGES, closest.LABELS, num_candidates=3)
  shorter = closest.sizes(np.asarray(more) - images, 'l2')
  longer = closest.sizes(np.asarray(few) - images, 'l2')
  assert np.all(shorter <= longer + 1e-3) and np.any(shorter < 0.9 * longer)


def test_candidates_stay_those_of_the_start():
  def logits_fn(x):
    # From -1 to 0 ever slower, and from below it to above 0 on the way.
    slow, steep = -((1 - x) ** 2), 3 * x - 1.6
    return jnp.concatenate([0 * x, slow, steep], axis=1)

  images, labels = np.zeros((1, 1), np.float32), np.int32([0])
  found = deepfool(logits_fn, images, labels, num_candidates=2)
  # Newton's method: 1/2, then 3/4, not 1.6 / 3 where the steep logit crosses.
  np.testing.assert_allclose(found, 1.02 * 0.75, atol=0.01)


def test_a_search_keeps_the_first_that_fooled():
  # Here no row rests.
  inputs = prepare(
    closest.LINEAR,
    closest.LINEAR_IMAGES,
    closest.LINEAR_LABELS,
    bounds=(0.0, 1.0),
  )
  found = run(
    closest.LINEAR,
    inputs,
    search=make_deepfool(3, 2, 0.1),
    num_restarts=1,
  )
  once = one_step(closest.LINEAR, closest.LINEAR_IMAGES, closest.LINEAR_LABELS)
  np.testing.assert_allclose(found, once, atol=1e-6)


def test_rows_do_not_see_each_other():
  others = np.concatenate([closest.IMAGES[:4], closest.IMAGES[:3:-1]])
  first, second = (
    deepfool(closest.MLP, x, closest.LABELS, num_candidates=3)
    for x in (closest.IMAGES, others)
  )
  np.testing.assert_array_equal(np.asarray(first)[:4], np.asarray(second)[:4])


def test_rows_in_trouble():
  closest.check_trouble(deepfool)


def test_bfloat16():
  images = jnp.asarray(closest.IMAGES, 'bfloat16')
  found = deepfool(closest.MLP, images, closest.LABELS)
  assert found.dtype == images.dtype
  wide = np.asarray(found, np.float64)
  assert np.all((wide >= 0) & (wide <= 1))
  assert np.all(closest.predictions(found) != closest.LABELS)


def test_a_new_network_does_not_compile_again():
  networks = [
    jax.tree.map(lambda x, s=s: jax.block_until_ready(s * x), closest.LINEAR)
    for s in (2, 3)
  ]
  arguments = closest.LINEAR_IMAGES, closest.LINEAR_LABELS
  one_step(closest.LINEAR, *arguments)
  with compiles.counted() as count:
    found = [one_step(f, *arguments) for f in networks]
  assert count == [0]
  np.testing.assert_allclose(*found, atol=1e-3)


def test_under_jit_and_vmap():
  arguments = closest.LINEAR_IMAGES, closest.LINEAR_LABELS

  def attack(images, labels):
    return one_step(closest.LINEAR, images, labels)

  halves = [x.reshape(2, 2, *x.shape[1:]) for x in arguments]
  found = jax.jit(jax.vmap(attack))(*halves).reshape(arguments[0].shape)
  np.testing.assert_allclose(found, attack(*arguments), atol=1e-6)


def test_errors():
  closest.check_errors(
    deepfool,
    [
      *closest.COMMON_ERRORS,
      ({'num_candidates': 1}, 'num_candidates must be at least 2; got 1'),
      ({'overshoot': -0.1}, 'overshoot must be a Python number of at least 0'),
      ({'norm': 'l1'}, r"norm must be one of \['l2', 'linf'\]; got 'l1'"),
    ],
  )
