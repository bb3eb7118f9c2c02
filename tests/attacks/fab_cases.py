"""One small network and its images, so that the tests of FAB share programs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks.fab import fab

B, D, K = 8, 12, 3
ETA = 1.01
ORDERS = {'linf': np.inf, 'l2': 2, 'l1': 1}
FAR = np.full(B, np.inf, np.float32)


class Net(NamedTuple):
  """One architecture for all tests, so that they share their programs."""

  w1: np.ndarray
  w2: np.ndarray
  bias: np.ndarray
  curved: np.ndarray  # 0: linear, 1: tanh
  broken: np.ndarray  # the logits are NaN where the first pixel is above

  def logits(self, images, tanh=jnp.tanh, where=jnp.where):
    x = images.reshape(len(images), -1)
    hidden = (x - 0.5) @ self.w1
    hidden = hidden + self.curved * (tanh(2 * hidden) - hidden)
    logits = hidden @ self.w2 + self.bias[None]
    return where(x[:, :1] > self.broken, np.nan, logits)


def net(curved=1.0, broken=np.inf, **others):
  rng = np.random.default_rng(3)
  result = Net(
    rng.normal(size=(D, D)) / np.sqrt(D),
    rng.normal(size=(D, K)),
    rng.normal(size=K) / 10,
    curved,
    broken,
  )
  return Net(*(np.asarray(x, np.float32) for x in result))._replace(**others)


def numpy_logits(model, images):
  wide = Net(*(np.float64(x) for x in model))
  return wide.logits(np.float64(images), np.tanh, np.where)


IMAGES = np.random.default_rng(4).uniform(size=(B, 2, 3, 2)).astype(np.float32)
IMAGES[0].flat[:6] = [0, 1, 0, 1, 0, 1]


def attack(model, images=IMAGES, labels=None, epsilon=FAR, **kwargs):
  if labels is None:
    labels = predicted(model, images)
  kwargs = {'num_steps': 20, 'eta': ETA, **kwargs}
  logits_fn = jax.tree_util.Partial(
    Net.logits, jax.tree.map(jnp.asarray, model)
  )
  return np.asarray(fab(logits_fn, images, labels, epsilon, **kwargs))


def predicted(model, images=IMAGES):
  return numpy_logits(model, images).argmax(axis=1).astype(np.int32)


def distance(norm, result, images=IMAGES):
  moved = np.float64(result) - np.float64(images)
  return np.linalg.norm(moved.reshape(len(moved), -1), ORDERS[norm], axis=1)
