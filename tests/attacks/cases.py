"""The table of attacks that the common suite runs over, and its networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import advjax

# Made once: tests count what the attacks compile.
KEY = jax.random.key(7)
NORMS = ['linf', 'l2', 'l1']
ORDERS = {'linf': np.inf, 'l2': 2, 'l1': 1}
STEPS = {'num_steps': 3}


def _ball(attack, step_size=False, **defaults):
  """`attack(logits_fn, images, labels, epsilon=0.1, **choices)`."""

  def run(logits_fn, images, labels, epsilon=0.1, **kwargs):
    if step_size and 'step_size' not in kwargs:
      kwargs['step_size'] = 0.4 * epsilon
    kwargs = {**defaults, **kwargs}
    return attack(logits_fn, images, labels, epsilon, **kwargs)

  return run


# The gradient attacks: any tree of images, masks, a step size.
GRADIENT = {
  'fgsm': _ball(advjax.fgsm),
  'bim': _ball(advjax.bim, True, **STEPS),
  'bim_random': _ball(advjax.bim, True, key=KEY, **STEPS),
  'pgd': _ball(advjax.pgd, True, key=KEY, num_restarts=2, **STEPS),
  'mifgsm': _ball(advjax.mifgsm, True, **STEPS),
}
# Those that find their own steps: one array of images.
SEARCHES = {
  'apgd': _ball(advjax.apgd, num_steps=5, key=KEY),
  'fab': _ball(advjax.fab, num_steps=4, key=KEY),
  'square': _ball(advjax.square, num_queries=12, key=KEY),
}
# Those that look for the closest adversarial image: no epsilon.
MINIMUM = {
  'deepfool': functools.partial(advjax.deepfool, num_candidates=3, **STEPS),
  'carlini_wagner': functools.partial(
    advjax.carlini_wagner,
    num_steps=5,
    num_searches=3,
    learning_rate=0.3,
    initial_const=1.0,
  ),
  'fmn': functools.partial(advjax.fmn, num_steps=6),
}
BALL = {**GRADIENT, **SEARCHES}
ALL = {**BALL, **MINIMUM}
KEYED = ('pgd', *SEARCHES)

SHAPE = (4, 2, 5, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).uniform(size=SHAPE).astype(np.float32)
LABELS = np.array([0, 1, 2, 1], np.int32)


def apply(weights, images):
  flat = images.reshape(images.shape[0], -1).astype(jnp.float32)
  return jnp.tanh(flat - 0.5) @ weights


# Two networks of one structure: one program.
logits_fn, other_fn = (
  Partial(apply, jnp.asarray(scale * WEIGHTS)) for scale in (1, -1)
)


def linear(images):
  """Two logits whose difference has the gradient (3, 4)."""
  return jnp.stack([0 * images[:, 0], images @ jnp.array([3.0, 4.0])], axis=1)


def sizes(moved, norm):
  """The norm of every row, in float64."""
  moved = np.asarray(moved, np.float64).reshape(len(moved), -1)
  return np.linalg.norm(moved, ORDERS[norm], axis=1)
