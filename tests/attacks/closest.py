"""Networks for the attacks that look for the closest image that fools."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from tests import reference

ORDERS = {'linf': np.inf, 'l2': 2, 'l1': 1}
DUALS = {'linf': 'l1', 'l2': 'l2', 'l1': 'linf'}


def sizes(moved, norm):
  """The norm of every row, in float64."""
  moved = np.asarray(moved, np.float64).reshape(len(moved), -1)
  return np.linalg.norm(moved, ORDERS[norm], axis=1)


# --------------------------------------------- two classes, in a closed form

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2, 3, 1)).astype(np.float32)
LINEAR_IMAGES = RNG.uniform(0.45, 0.55, size=(4, 2, 3, 1)).astype(np.float32)
BIAS = np.float32(-0.5 * WEIGHTS.sum() + 0.1)


def _linear(weights, bias, images):
  flat = images.reshape(len(images), -1) @ weights.reshape(-1)
  return jnp.stack([flat + bias, jnp.zeros_like(flat)], axis=1)


LINEAR = Partial(_linear, jnp.asarray(WEIGHTS), jnp.asarray(BIAS))


def linear_margins(images):
  """The first logit less the second, in float64."""
  flat = np.asarray(images, np.float64).reshape(len(images), -1)
  return flat @ WEIGHTS.reshape(-1) + float(BIAS)


def linear_predictions(images):
  return np.where(linear_margins(images) >= 0, 0, 1).astype(np.int32)


LINEAR_MARGINS = linear_margins(LINEAR_IMAGES)
LINEAR_LABELS = linear_predictions(LINEAR_IMAGES)


def linear_distances(norm):
  """|margin| / |w|_*, the distance of every image to the boundary."""
  return np.abs(LINEAR_MARGINS) / sizes(WEIGHTS[None], DUALS[norm])


# ------------------------------------------------------ two layers, 4 classes

MODEL = reference.Mlp.random(0, 20, 12, 4)
IMAGES = RNG.uniform(size=(8, 20)).astype(np.float32)
IMAGES[0, :5], IMAGES[1, :5] = 0, 1  # On the border of the box.
LABELS = MODEL.logits(IMAGES).argmax(axis=1).astype(np.int32)
LABELS[7] = (LABELS[7] + 1) % 4  # Misclassified from the beginning.
TARGETS = ((LABELS + 2) % 4).astype(np.int32)


def _mlp(model, images):
  hidden = jax.nn.relu(images @ model.w1 + model.b1[None])
  return hidden @ model.w2 + model.b2[None]


MLP = Partial(_mlp, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), MODEL))

# In float64 where that is switched on.
MLP64 = Partial(_mlp, MODEL)


def predictions(images):
  return MODEL.logits(np.asarray(images, np.float64)).argmax(axis=1)


def margins(images, labels):
  """By how much the network is fooled, in float64."""
  logits = MODEL.logits(np.asarray(images, np.float64))
  rows = np.arange(len(logits))
  own = logits[rows, labels]
  logits[rows, labels] = -np.inf
  return logits.max(axis=1) - own


def line_search(norm):
  """The least size that fools along one direction from each image, inf if none.

  The direction rises fastest for the norm, of the margin at the image.
  """
  least = np.full(len(IMAGES), np.inf)
  images = IMAGES.astype(np.float64)
  logits = MODEL.logits(images)
  rows = np.arange(len(images))
  for k in range(4):
    pull = np.zeros_like(logits)
    pull[:, k] += 1
    pull[rows, LABELS] -= 1
    gradient = MODEL.gradient(images, pull)
    if norm == 'l1':
      largest = np.abs(gradient).argmax(axis=1)
      direction = np.zeros_like(gradient)
      direction[rows, largest] = np.sign(gradient[rows, largest])
    else:
      direction = gradient / np.maximum(sizes(gradient, 'l2'), 1e-9)[:, None]
    for length in np.linspace(0, 4, 201):
      x = np.clip(images + length * direction, 0, 1)
      fooled = predictions(x) != LABELS
      size = np.where(fooled, sizes(x - images, norm), np.inf)
      least = np.minimum(least, size)
  return least


# ------------------------------------------------ rows that no attack can fool


def _trouble(model, images):
  """By the first pixel: NaN, logits without gradient, then the network."""
  logits = _mlp(model, images)
  first = images[:, :1]
  constant = jnp.where(jnp.arange(4)[None] == 1, 1.0, 0.0)
  logits = jnp.where(first < 0.5, constant, logits)
  return jnp.where(first < 0.25, jnp.nan, logits)


TROUBLE = Partial(_trouble, MLP.args[0])
TROUBLE_IMAGES = IMAGES[:4].copy()
TROUBLE_IMAGES[:, 0] = [0.125, 0.375, 0.375, 0.625]
# Row 1 is right for ever, row 2 wrong from the beginning.
TROUBLE_LABELS = np.int32([1, 1, 2, predictions(TROUBLE_IMAGES)[3]])
_PINNED = np.arange(20) == 0
# The first pixel stays where it is.
TROUBLE_BOUNDS = (
  np.where(_PINNED, TROUBLE_IMAGES, np.float32(0)),
  np.where(_PINNED, TROUBLE_IMAGES, np.float32(1)),
)


def check_trouble(attack, **kwargs):
  """Checks that only the last row moves, and that the others do not matter."""

  def run(images):
    found = attack(
      TROUBLE, images, TROUBLE_LABELS, bounds=TROUBLE_BOUNDS, **kwargs
    )
    return np.asarray(found)

  found = run(TROUBLE_IMAGES)
  assert found[:3].tobytes() == TROUBLE_IMAGES[:3].tobytes()
  assert predictions(found)[3] != TROUBLE_LABELS[3]
  assert found[3, 0] == TROUBLE_IMAGES[3, 0]
  others = np.where(_PINNED, TROUBLE_IMAGES, TROUBLE_IMAGES[::-1])
  others[3] = TROUBLE_IMAGES[3]
  assert run(others)[3].tobytes() == found[3].tobytes()


def check_errors(attack, cases):
  """Checks the message of each call with one argument changed."""
  for changed, message in cases:
    arguments = {'images': IMAGES, 'labels': LABELS, **changed}
    with pytest.raises(ValueError, match=message):
      attack(MLP, **arguments)


COMMON_ERRORS = [
  ({'images': IMAGES + 1}, 'images must be finite and inside bounds'),
  ({'images': LABELS[:, None]}, 'images must be a floating array'),
  ({'labels': LABELS[:3]}, 'labels must have a leading axis of 8'),
  ({'labels': np.eye(8)}, r'labels must be int \[8\]; got float'),
  ({'labels': LABELS + 4}, r'labels must lie in \[0, 4\)'),
  ({'num_steps': 0}, 'num_steps must be at least 1; got 0'),
]
