"""Images, and a network that is right on four of five of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from advjax.attacks.specs import parse_attack
from tests.training import networks

NUM_IMAGES = 100
IMAGES = (
  np.random.default_rng(8)
  .uniform(size=(NUM_IMAGES, networks.NUM_INPUTS))
  .astype(np.float32)
)
# What the network says, but for every fifth image.
LABELS = networks.MLP.logits(IMAGES).argmax(1)
LABELS[::5] = (LABELS[::5] + 1) % networks.NUM_CLASSES
KEY = jax.random.key(11)
ATTACK = parse_attack('pgd-3', step_size=0.1)


def forward(params, images):
  return networks.apply(params, {}, images, train=False)[0]


def network(factor=1.0):
  params = networks.MLP._make(np.float32(factor * x) for x in networks.MLP)
  return Partial(forward, jax.tree.map(jnp.asarray, params))


def keys():
  return jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(NUM_IMAGES))
