"""A linear network of two classes, whose boundary has a closed form."""

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from tests.attacks.cases import sizes

DUALS = {'linf': 'l1', 'l2': 'l2', 'l1': 'linf'}
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2, 3, 1)).astype(np.float32)
IMAGES = RNG.uniform(0.45, 0.55, size=(4, 2, 3, 1)).astype(np.float32)
BIAS = np.float32(-0.5 * WEIGHTS.sum() + 0.1)


def _linear(weights, bias, images):
  flat = images.reshape(len(images), -1) @ weights.reshape(-1)
  return jnp.stack([flat + bias, jnp.zeros_like(flat)], axis=1)


NETWORK = Partial(_linear, jnp.asarray(WEIGHTS), jnp.asarray(BIAS))


def margins(images):
  """The first logit less the second, in float64."""
  flat = np.asarray(images, np.float64).reshape(len(images), -1)
  return flat @ WEIGHTS.reshape(-1) + float(BIAS)


def predictions(images):
  return np.where(margins(images) >= 0, 0, 1).astype(np.int32)


LABELS = predictions(IMAGES)


def distances(norm):
  """|margin| / |w|_*, the distance of every image to the boundary."""
  return np.abs(margins(IMAGES)) / sizes(WEIGHTS[None], DUALS[norm])
