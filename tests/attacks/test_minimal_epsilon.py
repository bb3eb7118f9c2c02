"""The smallest radius: closed form, curves, and attacks of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attacks import minimal_epsilon
from advjax.attacks.specs import parse_attack
from tests import compiles
from tests.attacks import two_classes as linear
from tests.attacks.cases import sizes

KEY = jax.random.key(3)

FGSM = parse_attack('fgsm')


def search(attack=FGSM, labels=linear.LABELS, max_epsilon=0.25, **more):
  return minimal_epsilon(
    attack,
    linear.NETWORK,
    linear.IMAGES,
    labels,
    key=KEY,
    max_epsilon=max_epsilon,
    **more,
  )


def test_finds_the_closed_form_of_a_linear_network():
  result = search()
  assert np.all(result.found)
  # Above the exact radius, by no more than the bisection knows.
  error = np.asarray(result.epsilon, float) - linear.distances('linf')
  assert np.all((error > -1e-6) & (error <= 0.25 / 2**10 + 1e-6))
  moved = np.asarray(result.images, float) - linear.IMAGES
  np.testing.assert_allclose(sizes(moved, 'linf'), result.epsilon, rtol=1e-5)
  assert np.all(linear.predictions(result.images) != linear.LABELS)


def test_what_is_out_of_reach_or_wrong_already():
  labels = linear.LABELS ^ np.int32([0, 1, 0, 0])
  exact = linear.distances('linf')
  limit = np.where(np.arange(4) == 2, 0.9, 1.1) * exact
  result = search(labels=labels, max_epsilon=limit)
  np.testing.assert_array_equal(result.found, [True, True, False, True])
  np.testing.assert_array_equal(np.asarray(result.epsilon)[1:3], [0, np.inf])
  error = (np.asarray(result.epsilon, float) - exact)[[0, 3]]
  assert np.all((error > -1e-6) & (error <= limit[[0, 3]] / 2**10 + 1e-6))
  images = np.asarray(result.images)
  assert images[1:3].tobytes() == linear.IMAGES[1:3].tobytes()


def test_a_success_that_comes_and_goes():
  """Returns a success above a failure, and inf for a failure at the limit."""
  limits = jnp.float32([1.0, 1.0, 0.5, 0.5])

  def attack(logits_fn, images, labels, epsilon, keys):
    # Succeeds from 1/8 to 3/8 and above 5/8.
    hits = ((epsilon >= 0.125) & (epsilon <= 0.375)) | (epsilon > 0.625)
    wrong = advjax.fgsm(logits_fn, images, labels, 0.25)
    return jnp.where(hits.reshape(-1, 1, 1, 1), wrong, images)

  result = search(attack, max_epsilon=limits, num_bisections=8)
  # From 1 it tries 1/2 and stays above; from 1/2 it fails at once.
  epsilon = np.asarray(result.epsilon)
  assert np.all((epsilon[:2] > 0.625) & (epsilon[:2] <= 0.625 + 1 / 256))
  np.testing.assert_array_equal(epsilon[2:], np.inf)
  np.testing.assert_array_equal(result.found, [True, True, False, False])


def test_the_images_are_those_of_the_attack_with_the_same_keys():
  """Along one direction per key, the first radius that fools."""
  draw = jax.vmap(lambda key: jax.random.normal(key, (2, 3, 1)))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(4))

  def attack(logits_fn, images, labels, epsilon, keys):
    return images + epsilon.reshape(-1, 1, 1, 1) * draw(keys)

  result = search(attack, max_epsilon=4.0)
  epsilon, found = np.asarray(result.epsilon), np.asarray(result.found)
  assert found.sum() > 0
  directions = np.asarray(jax.jit(draw)(keys), float)
  slopes = (directions * linear.WEIGHTS[None]).sum((1, 2, 3))
  with np.errstate(divide='ignore'):
    exact = -linear.margins(linear.IMAGES) / slopes
  exact = np.where((exact > 0) & (exact < 4), exact, np.inf)
  np.testing.assert_allclose(epsilon, exact, atol=4 / 2**10)
  moved = epsilon.reshape(-1, 1, 1, 1)[found] * directions[found]
  np.testing.assert_allclose(
    np.asarray(result.images)[found],
    linear.IMAGES[found] + moved,
    atol=1e-6,
  )


def test_a_loop_over_limits_compiles_once():
  def attack(logits_fn, images, labels, epsilon, keys):
    return images + 0 * epsilon.reshape(-1, 1, 1, 1)

  with compiles.counted() as count:
    for limit in (0.25, 1, np.float64(0.5)):
      search(attack, max_epsilon=limit)
  assert count == [1]


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'attack': 3}, 'attack = 3; allowed: a callable'),
    ({'attack': 'pgd-2'}, r"'pgd-2'; allowed: .*parse_attack\('pgd-2'\)"),
    ({'attack': lambda f, x, y, e, k: x[:1]}, 'attack.*; allowed: images like'),
    ({'max_epsilon': np.inf}, 'max_epsilon = inf; allowed: finite'),
    ({'max_epsilon': -1}, 'max_epsilon = -1.0; allowed'),
    (
      {'max_epsilon': np.ones(3)},
      r'max_epsilon.shape = \(3,\); allowed: .* \(\) or \(4,\)',
    ),
    ({'num_bisections': 0}, 'num_bisections = 0; allowed'),
    ({'labels': np.zeros((4, 2))}, r'labels = float.*; allowed: int \[4\]'),
  ],
)
def test_errors(changed, message):
  with pytest.raises(ValueError, match=message):
    search(**changed)
