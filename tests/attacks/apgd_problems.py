"""APGD of rows, for its tests."""

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.attacks import search
from advjax.attacks.apgd import make_apgd

KEYS = jax.random.split(jax.random.key(3), 40)


def problem_of(images, labels, epsilon, targets=None):
  batch, dtype = len(images), images.dtype
  return search.Problem(
    images=jnp.asarray(images),
    labels=jnp.asarray(labels),
    targets=None if targets is None else jnp.asarray(targets),
    epsilon=jnp.broadcast_to(jnp.asarray(epsilon, dtype), batch),
    keys=KEYS[:batch],
    lower=jnp.zeros((1,) * images.ndim, dtype),
    upper=jnp.ones((1,) * images.ndim, dtype),
  )


def make(**choices):
  default = {
    'norm': 'linf',
    'num_steps': 10,
    'loss_fn': losses.cross_entropy,
    'targeted': False,
    'eot_samples': None,
  }
  return make_apgd(**(default | choices))
