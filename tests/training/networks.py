"""A small network for the tests of training, in JAX and in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import reference
from tests.training.nsl import softmax

NUM_INPUTS, NUM_HIDDEN, NUM_CLASSES = 6, 5, 3
MLP = reference.Mlp.random(0, NUM_INPUTS, NUM_HIDDEN, NUM_CLASSES)
IMAGES = np.random.default_rng(1).uniform(size=(4, NUM_INPUTS))
LABELS = np.array([0, 1, 2, 1])


def apply(params, model_state, images, *, train):
  """The forward pass of a `reference.Mlp`, with its arrays as params."""
  del train
  hidden = jax.nn.relu(images @ params.w1 + params.b1[None])
  return hidden @ params.w2 + params.b2[None], model_state


def params(dtype=jnp.float32, mlp=MLP):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), mlp)


def batch(dtype=jnp.float32, **others):
  images = jnp.asarray(IMAGES, dtype)
  return {'image': images, 'label': jnp.asarray(LABELS), **others}


def keys():
  data = np.arange(2 * len(LABELS), dtype=np.uint32).reshape(-1, 2)
  return jax.random.wrap_key_data(data)


@functools.cache
def _program(objective):
  def run(params, batch, hparams):
    seen = []

    def spy(params, model_state, images, *, train):
      if train:
        seen.append(images)
      return apply(params, model_state, images, train=train)

    loss, (_, metrics) = objective(spy, params, {}, batch, hparams, keys())
    return seen[-1], loss, metrics

  return jax.jit(run)


def run(objective, hparams, *, mlp=MLP, dtype=jnp.float32, **others):
  """The images that an objective trains on, its loss and its metrics."""
  found = _program(objective)(
    params(dtype, mlp), batch(dtype, **others), hparams
  )
  return jax.tree.map(np.asarray, found)


def adversarial_of(objective, hparams, **others):
  """The images that an objective trains on: what its last pass is given."""
  return run(objective, hparams, **others)[0]


def mean_gradient(images, mlp=MLP, labels=LABELS):
  """The gradient of the mean cross-entropy by the images, in NumPy."""
  _, by_logits = reference.cross_entropy(mlp.logits(images), labels)
  return mlp.gradient(images, by_logits / len(labels))


def divergence(clean_logits, moved_logits):
  p, q = softmax(clean_logits), softmax(moved_logits)
  return (p * (np.log(p) - np.log(q))).sum(axis=1)
