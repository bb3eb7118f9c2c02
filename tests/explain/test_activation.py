"""Images of gradient ascent towards a class."""

import jax
import numpy as np
import pytest

from advjax.explain import activation_maximization

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(16, 3)).astype(np.float32)
CLASSES = np.array([0, 1, 2])
SHAPE = (4, 4, 1)
KEY = jax.random.key(0)


def logits_fn(images):
  return images.reshape(len(images), -1) @ WEIGHTS


def maximize(classes=CLASSES, key=KEY, **options):
  options = {'num_steps': 60, 'step_size': 0.2, 'jitter': 0, **options}
  found = activation_maximization(logits_fn, classes, SHAPE, key=key, **options)
  return np.asarray(found)


@pytest.fixture(scope='module')
def found():
  return maximize(variation_penalty=0.0)


def test_a_linear_network_gets_black_and_white(found):
  """The best image in the box is where the weights are positive."""
  best = (WEIGHTS.T > 0).reshape(3, *SHAPE)
  np.testing.assert_allclose(found, best, atol=0.05)
  assert found.dtype == np.float32


def test_the_logit_is_higher_than_before_and_its_own_is_highest(found):
  assert ((found >= 0) & (found <= 1)).all()
  logits, before = logits_fn(found), logits_fn(np.full((3, *SHAPE), 0.5))
  assert (np.diag(logits) > np.diag(before) + 0.3).all()


def test_penalties_do_what_they_say(found):
  def variation(images):
    across = np.abs(np.diff(images, axis=1)).sum()
    return across + np.abs(np.diff(images, axis=2)).sum()

  assert variation(maximize(variation_penalty=0.5)) < 0.8 * variation(found)
  near = maximize(variation_penalty=0.0, l2_penalty=10.0)
  assert np.abs(near - 0.5).max() < np.abs(found - 0.5).max() - 0.1


def test_an_image_does_not_depend_on_the_others():
  keys = RNG.integers(2**32, size=(3, 2), dtype=np.uint32)
  whole = maximize(CLASSES, keys, jitter=1)
  order = np.array([2, 1, 1])
  mixed = maximize(CLASSES[order], keys[order], jitter=1)
  np.testing.assert_allclose(mixed, whole[order], atol=1e-5)
  assert np.abs(whole - maximize(CLASSES, keys[order], jitter=1)).max() > 1e-3


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'classes': np.array([3])}, r'classes = 3 to 3; .* in \[0, 3\)'),
    ({'classes': np.array([0.5])}, r'classes = float64 .*; allowed: int \[1\]'),
    ({'num_steps': 0}, 'num_steps = 0; allowed: a Python integer >= 1'),
    ({'jitter': -1}, 'jitter = -1; allowed: a Python integer >= 0'),
    ({'step_size': -1.0}, 'step_size = -1.0; allowed: a finite number >= 0'),
    ({'step_size': 'big'}, "step_size = 'big'; allowed: a finite number >= 0"),
    ({'key': None}, 'key = None; allowed: one key .*, or 3 keys'),
  ],
)
def test_bad_arguments_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    maximize(**options)


def test_a_shape_that_is_none_is_named():
  with pytest.raises(ValueError, match=r'shape = \(4, 4\); allowed'):
    activation_maximization(logits_fn, CLASSES, (4, 4), key=KEY)
