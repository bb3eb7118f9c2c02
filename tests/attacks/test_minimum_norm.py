"""DeepFool, Carlini-Wagner and FMN: NumPy, closed forms, independent rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import carlini_wagner, deepfool, fmn
from tests.attacks import two_classes as linear
from tests.attacks.cases import sizes
from tests.reference import Mlp

cw = functools.partial(
  carlini_wagner,
  num_steps=60,
  num_searches=6,
  learning_rate=0.03,
  initial_const=0.05,
)
each_attack = pytest.mark.parametrize(
  'attack', [deepfool, cw, fmn], ids=['deepfool', 'cw', 'fmn']
)

# Two layers, 4 classes.
MODEL = Mlp.random(0, 20, 12, 4)
IMAGES = np.random.default_rng(3).uniform(size=(8, 20)).astype(np.float32)
IMAGES[0, :5], IMAGES[1, :5] = 0, 1  # On the border of the box.
LABELS = MODEL.logits(IMAGES).argmax(axis=1).astype(np.int32)
LABELS[7] = (LABELS[7] + 1) % 4  # Misclassified from the beginning.
TARGETS = ((LABELS + 2) % 4).astype(np.int32)


def _mlp(model, images):
  images = images.astype(model.w1.dtype)
  hidden = jax.nn.relu(images @ model.w1 + model.b1[None])
  return hidden @ model.w2 + model.b2[None]


MLP, MLP64 = (
  jax.tree_util.Partial(_mlp, Mlp(*(np.asarray(x, t) for x in MODEL)))
  for t in (np.float32, np.float64)
)


def predictions(images):
  return MODEL.logits(np.asarray(images, np.float64)).argmax(axis=1)


def margin(logits, label):
  """By how much one row is fooled, and the strongest other class."""
  others = np.where(np.arange(len(logits)) == label, -np.inf, logits)
  return others.max() - logits[label], others.argmax()


# ---------------------------------------------------------------- closed forms


def test_finds_the_closed_form_of_a_linear_network():
  found = fmn(linear.NETWORK, linear.IMAGES, linear.LABELS, norm='l1')
  assert np.all(linear.predictions(found) != linear.LABELS)
  moved = np.asarray(found, float) - linear.IMAGES
  distances = linear.distances('l1')
  assert np.all(sizes(moved, 'l1') > (1 - 1e-4) * distances)
  assert np.all(sizes(moved, 'l1') < 1.02 * distances + 2e-4)


def test_candidates_stay_those_of_the_start():
  def logits_fn(x):
    # From -1 to 0 ever slower, and from below it to above 0 on the way.
    slow, steep = -((1 - x) ** 2), 3 * x - 1.6
    return jnp.concatenate([0 * x, slow, steep], axis=1)

  images, labels = np.zeros((1, 1), np.float32), np.int32([0])
  found = deepfool(logits_fn, images, labels, num_candidates=2)
  # Newton's method: 1/2, then 3/4, not 1.6 / 3 where the steep logit crosses.
  np.testing.assert_allclose(found, 1.02 * 0.75, atol=0.01)


# --------------------------------------------------- against NumPy in float64


def numpy_deepfool(x0, label, norm, num_candidates=3):
  logits = MODEL.logits(x0[None])[0]
  order = [k for k in np.argsort(-logits) if k != label]
  total, x = np.zeros_like(x0), x0
  for _ in range(50):
    logits = MODEL.logits(x[None])[0]
    if logits.argmax() != label:
      return x
    steps = []
    for k in order[: num_candidates - 1]:
      w = MODEL.gradient(x[None], np.eye(4)[[k]] - np.eye(4)[[label]])[0]
      gap = abs(logits[k] - logits[label])
      if norm == 'l2':
        steps.append((gap / np.linalg.norm(w), w / np.linalg.norm(w)))
      else:
        steps.append((gap / np.abs(w).sum(), np.sign(w)))
    distance, direction = min(steps, key=lambda s: s[0])
    total = total + (distance + 1e-4) * direction
    x = np.clip(x0 + 1.02 * total, 0, 1)
  return x0


def numpy_cw(x0, label, num_steps, num_searches, rate, const):
  origin = np.arctanh((2 * x0 - 1) * 0.999999)
  centre = (1 + np.tanh(origin)) / 2
  result, best, low, high, c = x0, np.inf, 0.0, np.inf, const
  if MODEL.logits(x0[None])[0].argmax() != label:
    return x0
  for r in range(num_searches):
    if num_searches >= 10 and r == num_searches - 1:
      c = min(high, 1e10)
    offset, mean, square = np.zeros((3, x0.size))
    fooled = False
    for t in range(num_steps):
      x = (1 + np.tanh(origin + offset)) / 2
      gap, other = margin(MODEL.logits(x[None])[0], label)
      if gap > 0:
        fooled = True
        if np.linalg.norm(x - x0) < best:
          best, result = np.linalg.norm(x - x0), x
      slope = 2 * (x - centre)
      if gap < 0:
        pull = np.eye(4)[[label]] - np.eye(4)[[other]]
        slope = slope + c * MODEL.gradient(x[None], pull)[0]
      slope = slope * (1 - np.tanh(origin + offset) ** 2) / 2
      mean = 0.9 * mean + 0.1 * slope
      square = 0.999 * square + 0.001 * slope**2
      step = mean / (1 - 0.9 ** (t + 1))
      step /= np.sqrt(square / (1 - 0.999 ** (t + 1))) + 1e-8
      offset = offset - rate * step
    if fooled:
      high = min(high, c)
    else:
      low = max(low, c)
    c = (low + high) / 2 if high < np.inf else 10 * c
  return result


def numpy_fmn(x0, label, num_steps):
  """The paper's in l2, with the rule of this library's docstring."""
  delta, epsilon, best, result = np.zeros_like(x0), 0.0, np.inf, x0
  furthest = np.linalg.norm(np.maximum(x0, 1 - x0))
  for t in range(num_steps):
    x = x0 + delta
    gap, other = margin(MODEL.logits(x[None])[0], label)
    pull = np.eye(4)[[other]] - np.eye(4)[[label]]
    g = MODEL.gradient(x[None], pull)[0]
    size = np.linalg.norm(delta)
    if gap > 0 and size < best:
      best, result = size, x
    cosine = (1 + np.cos(np.pi * t / num_steps)) / 2
    rate = 0.001 + (0.05 - 0.001) * cosine
    if gap > 0:
      epsilon = min(epsilon * (1 - rate), best)
    elif best < np.inf:
      epsilon = epsilon * (1 + rate)
    else:
      far = size + abs(gap) / np.linalg.norm(g)
      epsilon = max(epsilon, far) * (1 + rate)
    epsilon = min(epsilon, furthest)
    delta = delta + (0.01 + 0.99 * cosine) * g / np.linalg.norm(g)
    delta = delta * min(1, epsilon / np.linalg.norm(delta))
    delta = np.clip(delta, -x0, 1 - x0)
  return result


@pytest.mark.parametrize(
  ('attack', 'numpy_attack', 'choices', 'own'),
  [
    (deepfool, numpy_deepfool, {'norm': 'l2'}, {'num_candidates': 3}),
    (deepfool, numpy_deepfool, {'norm': 'linf'}, {'num_candidates': 3}),
    (fmn, numpy_fmn, {'num_steps': 20}, {}),
    # With ten searches the last one repeats the best constant.
    (
      carlini_wagner,
      numpy_cw,
      {'num_steps': 12, 'num_searches': 10},
      {'learning_rate': 0.1, 'initial_const': 1e-4},
    ),
  ],
)
def test_agrees_with_numpy_in_float64(attack, numpy_attack, choices, own):
  images = IMAGES.astype(np.float64)
  with jax.enable_x64(True):
    found = attack(MLP64, images, LABELS, **choices, **own)
  assert found.dtype == np.float64
  if attack is carlini_wagner:
    choices = {**choices, 'rate': 0.1, 'const': 1e-4}
  theirs = [
    numpy_attack(x, label, **choices)
    for x, label in zip(images, LABELS, strict=True)
  ]
  assert np.sum(predictions(found) != LABELS) >= 7
  np.testing.assert_allclose(found, theirs, atol=1e-6)
  assert np.asarray(found)[7].tobytes() == images[7].tobytes()


# --------------------------------------------------------------- targets, rows


@pytest.mark.parametrize('attack', [cw, fmn], ids=['cw', 'fmn'])
def test_targets(attack):
  confidence = 0.25 if attack is cw else 0
  choices = {'confidence': 0.25, 'initial_const': 1.0} if attack is cw else {}
  found = np.asarray(attack(MLP, IMAGES, LABELS, targets=TARGETS, **choices))
  rows = zip(MODEL.logits(found.astype(np.float64)), TARGETS, strict=True)
  margins = np.array([-margin(*row)[0] for row in rows])
  unmoved = np.all(found == IMAGES, axis=1)
  # On the boundary, the rounding of float32 logits may decide.
  assert np.all((margins > confidence - 1e-5) != unmoved)
  assert unmoved.sum() <= 2 and np.median(margins[~unmoved]) < 0.4


# By the first pixel: NaN, logits without gradient, then the network.
def _trouble(model, images):
  logits = _mlp(model, images)
  first = images[:, :1]
  constant = jnp.where(jnp.arange(4)[None] == 1, 1.0, 0.0)
  logits = jnp.where(first < 0.5, constant, logits)
  return jnp.where(first < 0.25, jnp.nan, logits)


@each_attack
def test_rows_that_cannot_be_fooled_keep_their_bits_and_do_not_matter(attack):
  images = IMAGES[:4].copy()
  images[:, 0] = [0.125, 0.375, 0.375, 0.625]
  # Row 1 is correct for ever, row 2 wrong from the beginning.
  labels = np.int32([1, 1, 2, predictions(images)[3]])
  pinned = np.arange(20) == 0  # The first pixel stays where it is.
  bounds = tuple(np.where(pinned, images, np.float32(b)) for b in (0, 1))

  def run(images):
    network = jax.tree_util.Partial(_trouble, MLP.args[0])
    return np.asarray(attack(network, images, labels, bounds=bounds))

  found = run(images)
  assert found[:3].tobytes() == images[:3].tobytes()
  assert predictions(found)[3] != labels[3]
  others = np.where(pinned, images, images[::-1])
  others[3] = images[3]
  assert run(others)[3].tobytes() == found[3].tobytes()
