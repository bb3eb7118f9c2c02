"""Many draws of an augmentation of one image, and their distributions."""

import functools

import jax
import numpy as np
import scipy.stats

NUM_DRAWS = 500


@functools.cache
def _compiled(function, num_strengths):
  """One program for all strengths."""
  return jax.jit(jax.vmap(function, (0, *[None] * (1 + num_strengths))))


def many(function, image, *strengths):
  """The results of NUM_DRAWS keys."""
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
  image = np.asarray(image, np.float32)
  return np.asarray(
    _compiled(function, len(strengths))(keys, image, *strengths)
  )


def likely(values, distribution, *args):
  return scipy.stats.kstest(values, distribution, args)[1] > 1e-4
