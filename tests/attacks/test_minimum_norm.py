"""DeepFool, Carlini-Wagner and FMN: NumPy, closed forms, independent rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
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
    # Upwards ever slower; one step on, the other one is higher, but level.
    slow = 0.01 - (1 - x[:, 0]) ** 2
    other = jnp.minimum(3.9 * x[:, 0] - 2, x[:, 1] - 0.05)
    return jnp.stack([0 * slow, slow, other], axis=1)

  images, labels = np.zeros((1, 2), np.float32), np.int32([0])
  found = deepfool(logits_fn, images, labels, num_candidates=2)
  np.testing.assert_allclose(found, [[0.9, 0]], atol=0.01)


RUNS = {
  'deepfool': (deepfool, ['linf', 'l2'], {}, 1.002),
  'fmn': (fmn, ['linf', 'l2', 'l1'], {'num_steps': 300}, 1.001),
  'fmn of few steps': (fmn, ['l2'], {'num_steps': 30}, 1.002),
  'fab': (
    lambda *args, **choices: advjax.fab(*args, None, **choices),
    ['linf', 'l2', 'l1'],
    {'num_steps': 30},
    1.01,
  ),
  'cw': (carlini_wagner, ['l2'], {'num_steps': 400, 'num_searches': 7}, 1.01),
}


@pytest.mark.parametrize('scale', [1.0, 255.0])
@pytest.mark.parametrize(
  ('name', 'norm'), [(name, norm) for name in RUNS for norm in RUNS[name][1]]
)
def test_closest_of_several_classes_without_a_box(name, norm, scale):
  """In float64, every row is fooled, and no farther than it must be."""
  attack, _, choices, factor = RUNS[name]
  choices = {**choices, 'bounds': None}
  if attack is fmn:
    choices['step_size'] = scale
  elif attack is carlini_wagner:
    choices.update(learning_rate=0.01 * scale, initial_const=1e-3 * scale**2)
    choices.pop('norm', None)
  if attack is not carlini_wagner:
    choices['norm'] = norm
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(12, 5)).astype(np.float32)
  bias = np.float32(0.05 * rng.normal(size=5))
  images = np.float32(scale * (0.5 + 0.1 * rng.normal(size=(60, 12))))

  def logits_fn(x):
    return (x / np.float32(scale) - 0.5) @ weights + bias[None]

  logits = (images.astype(np.float64) / scale - 0.5) @ weights + bias
  labels = logits.argmax(axis=1).astype(np.int32)
  rows = np.arange(60)
  across = weights[:, None, :] - weights.T[labels].T[:, :, None]
  dual = {'linf': 1, 'l2': 2, 'l1': np.inf}[norm]
  steepness = np.linalg.norm(across.astype(np.float64) / scale, dual, axis=0)
  gaps = logits[rows, labels][:, None] - logits
  gaps[rows, labels] = np.inf
  steepness[rows, labels] = 1
  smallest = (gaps / steepness).min(axis=1)
  found = np.asarray(attack(logits_fn, images, labels, **choices), np.float64)
  after = (found / scale - 0.5) @ weights + bias
  assert np.all(after.argmax(axis=1) != labels)
  ratio = sizes(found - images, norm) / smallest
  assert np.median(ratio) < factor and ratio.min() > 1 - 1e-3
  assert np.quantile(ratio, 0.9) < 1.02


def test_twins_cannot_be_told_apart():
  def twins(x):
    return jnp.stack([x[:, 0], x[:, 1], x[:, 1]], axis=1)

  images = np.float32([[0.25, 0.5]] * 2)
  for attack in (deepfool, fmn, carlini_wagner):
    # Of equal logits the first one is predicted: row 1 is wrong as it is.
    found = np.asarray(attack(twins, images, np.int32([1, 2]), num_steps=100))
    assert found[1].tobytes() == images[1].tobytes()
    assert found[0, 0] > found[0, 1]
    assert np.linalg.norm(found[0] - images[0]) < 1.02 * 0.125 * 2**0.5


def test_a_row_whose_gradient_is_flat_is_fooled():
  """At a step of a stair the gradient says nothing of how far it is."""

  def logits_fn(x):
    inside = jnp.mean(x, axis=1) < 0.7
    away = 1e-3 * x[:, 0]
    return jnp.stack([jnp.where(inside, 1.0, 0.0), 0.5 + away], axis=1)

  images, labels = np.full((1, 9), 0.5, np.float32), np.int32([0])
  for norm in ('linf', 'l2', 'l1'):
    found = fmn(logits_fn, images, labels, norm=norm, bounds=None)
    assert np.mean(found) >= 0.7


def test_pixels_at_the_border_of_the_box_move():
  """All four are black, and have to become 0.25."""

  def logits_fn(x):
    return jnp.stack([1 - jnp.sum(x, axis=1), 0 * x[:, 0]], axis=1)

  images, labels = np.zeros((1, 4), np.float32), np.int32([0])
  choices = {'num_steps': 50, 'learning_rate': 0.05}
  found = carlini_wagner(logits_fn, images, labels, **choices)
  np.testing.assert_allclose(found, np.full((1, 4), 0.25), rtol=0.01)


# --------------------------------------------------- against NumPy in float64


def numpy_nearest_class(x0, label):
  """Of all other classes, by the distance in l2."""
  logits, best = MODEL.logits(x0[None])[0], (np.inf, None)
  for k in set(range(4)) - {int(label)}:
    pull = np.eye(4)[[k]] - np.eye(4)[[label]]
    w = np.linalg.norm(MODEL.gradient(x0[None], pull)[0])
    best = min(best, ((logits[label] - logits[k]) / w, k))
  return best[1]


def numpy_bisect(x0, label, x):
  low, high = 0.0, 1.0
  for _ in range(10):
    middle = (low + high) / 2
    between = x0 + middle * (x - x0)
    if MODEL.logits(between[None])[0].argmax() != label:
      high = middle
    else:
      low = middle
  return x0 + high * (x - x0)


def numpy_deepfool(x0, label, norm, num_candidates=3):
  logits = MODEL.logits(x0[None])[0]
  order = [k for k in np.argsort(-logits) if k != label]
  total, x = np.zeros_like(x0), x0
  for _ in range(50):
    logits = MODEL.logits(x[None])[0]
    if logits.argmax() != label:
      return numpy_bisect(x0, label, x)
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
  origin = np.arctanh((2 * x0 - 1) * 0.99)
  centre = (1 + np.tanh(origin)) / 2
  result, best, low, high, c = x0, np.inf, 0.0, np.inf, const
  if MODEL.logits(x0[None])[0].argmax() != label:
    return x0
  aim = numpy_nearest_class(x0, label)
  for r in range(num_searches):
    if num_searches >= 10 and r == num_searches - 1:
      c = min(high, 1e10)
    offset, mean, square = np.zeros((3, x0.size))
    fooled = False
    for t in range(num_steps):
      moved = (1 + np.tanh(origin + offset)) / 2 - centre
      x = np.clip(x0 + moved, 0, 1)
      gap, other = margin(MODEL.logits(x[None])[0], label)
      before = best < np.inf
      if gap > 0:
        fooled |= 4 * t >= 3 * num_steps
        if np.linalg.norm(x - x0) < best:
          best, result = np.linalg.norm(x - x0), x
      if 4 * t < num_steps and (before or r % 2 == 1):
        logits, other = MODEL.logits(x[None])[0], aim
        gap = logits[aim] - logits[label]
      slope = 2 * moved
      if gap < 0:
        pull = np.eye(4)[[label]] - np.eye(4)[[other]]
        slope = slope + c * MODEL.gradient(x[None], pull)[0]
      slope = slope * (1 - np.tanh(origin + offset) ** 2) / 2
      mean = 0.9 * mean + 0.1 * slope
      square = 0.999 * square + 0.001 * slope**2
      step = mean / (1 - 0.9 ** (t + 1))
      step /= np.sqrt(square / (1 - 0.999 ** (t + 1))) + 1e-8
      cosine = (1 + np.cos(np.pi * t / num_steps)) / 2
      share = 0.001 + 0.999 * cosine if before else 1
      offset = offset - rate * share * step
    if fooled:
      high = min(high, c)
    else:
      low = max(low, c)
    c = (low + high) / 2 if high < np.inf else 10 * c
  return numpy_bisect(x0, label, result)


def numpy_fmn(x0, label, num_steps):
  """The paper's in l2, with the rule of this library's docstring."""
  delta, epsilon, best, result = np.zeros_like(x0), 0.0, np.inf, x0
  furthest = np.linalg.norm(np.maximum(x0, 1 - x0))
  for t in range(num_steps):
    x = x0 + delta
    logits = MODEL.logits(x[None])[0]
    gap, other = margin(logits, label)
    fooled = gap > 0
    if best == np.inf and 4 * t < num_steps:
      other = numpy_nearest_class(x0, label)
      gap = logits[other] - logits[label]
    pull = np.eye(4)[[other]] - np.eye(4)[[label]]
    g = MODEL.gradient(x[None], pull)[0]
    size = np.linalg.norm(delta)
    if fooled and size < best:
      best, result = size, x
    cosine = (1 + np.cos(np.pi * t / num_steps)) / 2
    rate = 0.001 + (0.05 - 0.001) * cosine
    if fooled:
      epsilon = min(epsilon * (1 - rate), best)
    elif best < np.inf:
      epsilon = epsilon * (1 + rate)
    else:
      far = size + abs(gap) / np.linalg.norm(g)
      epsilon = max(epsilon, far) * 1.25
    epsilon = min(epsilon, furthest)
    delta = delta + (0.01 + 0.99 * cosine) * g / np.linalg.norm(g)
    reach = epsilon / np.linalg.norm(delta)
    delta = delta * (reach if best == np.inf else min(1, reach))
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
