"""The table of attacks that the common suite runs over."""

import jax
import jax.numpy as jnp
import numpy as np

import advjax

# Made once: tests count what the attacks compile.
KEY = jax.random.key(7)


def fgsm(logits_fn, images, labels, epsilon=0.1, **kwargs):
  return advjax.fgsm(logits_fn, images, labels, epsilon, **kwargs)


def bim(logits_fn, images, labels, epsilon=0.1, step_size=0.04, **kwargs):
  kwargs = {'num_steps': 3, **kwargs}
  return advjax.bim(logits_fn, images, labels, epsilon, step_size, **kwargs)


def bim_random(logits_fn, images, labels, *args, **kwargs):
  kwargs = {'key': KEY, **kwargs}
  return bim(logits_fn, images, labels, *args, **kwargs)


def pgd(logits_fn, images, labels, epsilon=0.1, step_size=0.04, **kwargs):
  kwargs = {'num_steps': 3, 'num_restarts': 2, **kwargs}
  kwargs = {'key': KEY, **kwargs}
  return advjax.pgd(logits_fn, images, labels, epsilon, step_size, **kwargs)


def mifgsm(logits_fn, images, labels, epsilon=0.1, step_size=0.04, **kwargs):
  kwargs = {'num_steps': 3, **kwargs}
  return advjax.mifgsm(logits_fn, images, labels, epsilon, step_size, **kwargs)


def apgd(logits_fn, images, labels, epsilon=0.1, **kwargs):
  kwargs = {'num_steps': 5, 'key': KEY, **kwargs}
  return advjax.apgd(logits_fn, images, labels, epsilon, **kwargs)


def square(logits_fn, images, labels, epsilon=0.1, **kwargs):
  kwargs = {'num_queries': 12, 'key': KEY, **kwargs}
  return advjax.square(logits_fn, images, labels, epsilon, **kwargs)


def fab(logits_fn, images, labels, epsilon=0.1, **kwargs):
  kwargs = {'num_steps': 4, 'key': KEY, **kwargs}
  return advjax.fab(logits_fn, images, labels, epsilon, **kwargs)


def deepfool(logits_fn, images, labels, **kwargs):
  kwargs = {'num_steps': 3, 'num_candidates': 3, **kwargs}
  return advjax.deepfool(logits_fn, images, labels, **kwargs)


def carlini_wagner(logits_fn, images, labels, norm='l2', **kwargs):
  assert norm == 'l2'
  kwargs = {'learning_rate': 0.3, 'initial_const': 1.0, **kwargs}
  kwargs = {'num_steps': 5, 'num_searches': 3, **kwargs}
  return advjax.carlini_wagner(logits_fn, images, labels, **kwargs)


def fmn(logits_fn, images, labels, **kwargs):
  kwargs = {'num_steps': 6, **kwargs}
  return advjax.fmn(logits_fn, images, labels, **kwargs)


# The gradient attacks: any tree of images, masks, a step size.
ATTACKS = {
  'fgsm': fgsm,
  'bim': bim,
  'bim_random': bim_random,
  'pgd': pgd,
  'mifgsm': mifgsm,
}
# Those that are searches: one array of images, and steps of their own.
SEARCHES = {'apgd': apgd, 'fab': fab, 'square': square}
ANY = {**ATTACKS, **SEARCHES}
# Those that look for the nearest image that fools: no epsilon.
NEAREST = {'deepfool': deepfool, 'carlini_wagner': carlini_wagner, 'fmn': fmn}
NORMS = ['linf', 'l2', 'l1']

SHAPE = (4, 2, 5, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).uniform(size=SHAPE).astype(np.float32)
LABELS = np.array([0, 1, 2, 1], np.int32)


def apply(weights, images):
  return jnp.tanh(images.reshape(images.shape[0], -1) - 0.5) @ weights


def logits_fn(images):
  return apply(WEIGHTS, images)


def linear(images):
  """Two logits whose difference has the gradient (3, 4)."""
  return jnp.stack([0 * images[:, 0], images @ jnp.array([3.0, 4.0])], axis=1)
