"""An attack of one's own, for names such as 'tests.attacks.own:uniform'."""

import jax.numpy as jnp

from advjax import norms


def uniform(logits_fn, images, labels, epsilon, key, *, norm, bounds):
  """A uniform draw from the ball, of one key per example."""
  del logits_fn, labels
  draws = epsilon * norms.get(norm).sample(key, images)
  return jnp.clip(images + draws, *(bounds or (None, None)))


NUMBER = 3
