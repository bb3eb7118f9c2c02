"""The gradient attacks: NumPy in float64, closed forms, NSL, random draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import losses, norms
from tests import reference
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')

KEY = jax.random.key(2)


# ----------------------------------------------- against NumPy, closed forms

MODEL = reference.Mlp.random(0, 60, 24, 5)
RADII = {'linf': 0.06, 'l2': 0.4, 'l1': 2.0}


@functools.cache
def problem(num_examples):
  rng = np.random.default_rng(1)
  images = rng.uniform(size=(num_examples, 60))
  labels = MODEL.logits(images).argmax(axis=1)
  images = np.clip(images + rng.normal(size=images.shape) * 0.02, 0, 1)
  return images, labels, (labels + 1 + rng.integers(4)) % 5


def _mlp(model, x):
  return jax.nn.relu(x @ model.w1 + model.b1[None]) @ model.w2 + model.b2[None]


@functools.partial(jax.jit, static_argnums=0)
def start(norm, like):
  def start_key(row):
    key_of_row = jax.random.fold_in(KEY, row)
    return jax.random.fold_in(jax.random.fold_in(key_of_row, 0), 0)

  return norms.get(norm).sample(
    jax.vmap(start_key)(jnp.arange(len(like))), like
  )


def agree(name, norm, num_examples, dtype, targeted=False):
  """Returns our images and the reference's."""
  images, labels, targets = problem(num_examples)
  targets = targets if targeted else None
  images = images.astype(dtype)
  epsilon, random = RADII[norm], name in ('bim_random', 'pgd')
  steps = 1 if name == 'fgsm' else 6
  choices = {} if name == 'fgsm' else {'num_steps': 6, 'step_size': epsilon / 3}
  choices |= {'key': KEY} if random else {}
  choices |= {'num_restarts': 1} if name == 'pgd' else {}
  ours = cases.GRADIENT[name](
    jax.tree_util.Partial(_mlp, jax.tree.map(jnp.asarray, MODEL)),
    jnp.asarray(images),
    labels,
    epsilon,
    norm=norm,
    targets=targets,
    **choices,
  )
  assert ours.dtype == dtype
  iterates = reference.ascend(
    MODEL,
    np.float64(images),
    labels,
    epsilon,
    epsilon if name == 'fgsm' else epsilon / 3,
    num_steps=steps,
    norm=norm,
    start=epsilon * np.float64(start(norm, images)) if random else None,
    targets=targets,
    decay=1.0 if name == 'mifgsm' else None,
  )
  theirs = iterates[-1]
  if name == 'pgd':
    theirs = reference.best(MODEL, iterates, labels, targets)
  return np.asarray(ours, np.float64), theirs


@pytest.mark.parametrize(
  ('name', 'norm', 'targeted'),
  [
    ('bim_random', 'linf', False),
    ('pgd', 'linf', True),
    ('pgd', 'l1', False),
    ('mifgsm', 'l2', False),
  ],
)
def test_agrees_with_numpy_in_float64(name, norm, targeted):
  with jax.enable_x64(True):
    ours, theirs = agree(name, norm, 16, np.float64, targeted)
  assert np.abs(theirs - problem(16)[0]).max() > 0.01
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
  ('norm', 'direction'), [('linf', (1, 1)), ('l2', (0.6, 0.8)), ('l1', (0, 1))]
)
def test_fgsm_is_keyless_bim_of_one_step_bit_for_bit(norm, direction):
  images, labels = jnp.array([[0.4, 0.5], [0.5, 0.4]]), jnp.array([0, 0])
  args = cases.linear, images, labels, 0.1
  result = advjax.fgsm(*args, norm=norm)
  expected = images + 0.1 * jnp.array([direction], jnp.float32)
  np.testing.assert_allclose(result, expected, atol=1e-6)
  other = advjax.bim(*args, 0.1, num_steps=1, norm=norm)
  np.testing.assert_array_equal(other, result)


def test_clip_and_bounds():
  images, labels = jnp.array([[0.95, 0.5]]), jnp.array([0])
  attack = functools.partial(advjax.fgsm, cases.linear, images, labels, 0.1)
  np.testing.assert_allclose(attack(), [[1.0, 0.6]], rtol=1e-6)
  for bounds in (None, (None, None), (0.0, None)):
    np.testing.assert_allclose(attack(bounds=bounds), [[1.05, 0.6]], rtol=1e-6)
  per_channel = (0.0, jnp.array([0.97, 0.55]))
  np.testing.assert_allclose(
    attack(bounds=per_channel), [[0.97, 0.55]], rtol=1e-6
  )


def test_momentum_accumulates_unit_gradients():
  # Logits quadratic in x: the gradient of the margin is (a - x) * b.
  a, b = np.array([[0.5, 0.9]]), np.array([[1.0, 2.0]])

  def logits_fn(x):
    z = -jnp.sum(b.astype(x.dtype) * (x - a.astype(x.dtype)) ** 2, axis=1) / 2
    return jnp.stack([0 * z, z], axis=1)

  x, v = np.array([[0.45, 0.2]]), 0
  for _ in range(3):
    g = (a - x) * b
    v = 0.7 * v + g / np.abs(g).sum()
    x = x + 0.1 * v / np.linalg.norm(v)
  images, labels = np.array([[0.45, 0.2]], np.float32), jnp.array([0])
  choices = {'num_steps': 3, 'norm': 'l2', 'loss_fn': losses.margin}
  args = logits_fn, images, labels, None, 0.1
  result = advjax.mifgsm(*args, decay=0.7, **choices)
  np.testing.assert_allclose(result, x, rtol=1e-5)
  np.testing.assert_array_equal(
    advjax.mifgsm(*args, decay=0.0, **choices), advjax.bim(*args, **choices)
  )


@pytest.mark.parametrize(
  ('epsilon', 'expected'),
  [
    (None, [-0.88, 1.16]),
    (0.15, [-0.91, 1.12]),
    (0.13, [-0.922, 1.104]),
  ],
)
def test_nsl_steps_on_two_features(epsilon, expected):
  result = advjax.bim(
    lambda x: (3 * x['fc1'] + 4 * x['fc2'])[:, 0],
    {'fc1': jnp.array([[-1.0]]), 'fc2': jnp.array([[1.0]])},
    jnp.zeros(1),
    epsilon,
    0.1,
    num_steps=2,
    norm=norms.NSL_NORMS['l2'],
    loss_fn=lambda outputs, labels: (labels - outputs) ** 2,
    bounds=None,
  )
  flat = jnp.concatenate(jax.tree.leaves(result), axis=1)
  np.testing.assert_allclose(flat, [expected], rtol=1e-6)


def test_features_have_their_own_bounds_and_masks_and_integers_stay():
  images = {
    'x': jnp.array([[0.5, 0.5]]),
    'y': jnp.array([[0.5, 0.5]]),
    'row': jnp.array([[7, 8]]),
  }

  def logits_fn(images):
    return cases.linear(images['x']) + cases.linear(images['y'] * images['row'])

  result = advjax.fgsm(
    logits_fn,
    images,
    jnp.array([0]),
    0.25,
    bounds=({'x': None, 'y': 0.0, 'row': None}, {'x': 0.6, 'y': 1, 'row': 1}),
    mask={'x': 1.0, 'y': jnp.array([1.0, 0.0]), 'row': None},
  )
  np.testing.assert_allclose(result['x'], [[0.6, 0.6]], rtol=1e-6)
  np.testing.assert_array_equal(result['y'], [[0.75, 0.5]])
  np.testing.assert_array_equal(result['row'], [[7, 8]])


def test_what_is_masked_out_never_moves():
  mask = np.zeros(cases.SHAPE[1:], np.float32)
  mask[0] = 0.5
  result = cases.GRADIENT['pgd'](
    cases.logits_fn, cases.IMAGES, cases.LABELS, mask=mask, norm='l2'
  )
  moved = np.asarray(result) != cases.IMAGES
  assert moved[:, 0].mean() > 0.9 and not moved[:, 1:].any()


@jax.custom_vjp
def stuck(value, x):
  """A model whose gradient has one value everywhere."""
  del value
  return jnp.zeros((len(x), 3))


stuck.defvjp(
  lambda value, x: (stuck(value, x), (value, x)),
  lambda saved, _: (saved[0], jnp.full_like(saved[1], saved[0])),
)


def test_gradients_that_lead_nowhere_move_nothing():
  for value in (0.0, np.nan, np.inf):
    logits_fn = jax.tree_util.Partial(stuck, jnp.float32(value))
    result = cases.GRADIENT['mifgsm'](
      logits_fn, cases.IMAGES, cases.LABELS, norm='l2'
    )
    np.testing.assert_array_equal(result, cases.IMAGES)


# -------------------------------------------------------- draws and restarts


def flat(images):
  """A model with no gradient: attacks stay where they start."""
  return (
    jnp.zeros((len(images), 3)) + 0 * images.reshape(len(images), -1)[:, :3]
  )


@pytest.mark.accelerator
def test_draws_depend_on_the_key_and_the_row_alone():
  key = jax.random.key(3)
  attack = functools.partial(
    advjax.bim, flat, epsilon=0.1, step_size=0.1, num_steps=1
  )
  images, labels = cases.IMAGES, cases.LABELS
  starts = attack(images=images, labels=labels, key=key)
  assert np.all(np.asarray(starts != images).mean(axis=(1, 2, 3)) > 0.9)
  old = attack(images=images, labels=labels, key=jax.random.PRNGKey(3))
  np.testing.assert_array_equal(old, starts)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
  raw = jax.random.key_data(keys)
  for part, given_keys in ((slice(0, 4), raw), (slice(1, 3), keys)):
    result = attack(
      images=images[part], labels=labels[part], key=given_keys[part]
    )
    np.testing.assert_array_equal(result, starts[part])
  # pgd's first restart starts there too, and the earliest of equals wins.
  best = advjax.pgd(
    flat, images, labels, 0.1, 0.1, num_steps=1, key=key, num_restarts=3
  )
  np.testing.assert_array_equal(best, starts)


def starts_of(images, labels, key):
  """The random starts within 0.2, of 16 images."""
  return advjax.bim(
    lambda images: jnp.zeros((len(images), 2)),
    images,
    labels,
    0.2,
    0.0,
    num_steps=1,
    key=key,
  )


def test_pgd_prefers_a_misclassified_iterate_to_a_higher_loss():
  # Climbs z_2 = x, which is never predicted; wrong only for x in (.55, .65).
  def logits_fn(x):
    window = 0.05 - jnp.abs(x[:, 0] - 0.6)
    return jnp.stack([0 * window, window, x[:, 0] - 10], axis=1)

  def climb(logits, labels):
    return logits[:, 2]

  images = np.full((16, 1), 0.5, np.float32)
  labels, key = np.zeros(16, np.int32), jax.random.key(1)
  starts = starts_of(images, labels, key)
  iterates = np.minimum(starts + 0.04 * np.arange(13)[None], 0.7)
  wrong = np.where(np.abs(iterates - 0.6) < 0.05, iterates, 0).max(axis=1)
  best = np.where(wrong > 0, wrong, iterates.max(axis=1))
  assert 0 < (wrong == 0).sum() < 16
  # With labels that name no class the loss alone decides.
  features = np.zeros((16, 1), np.float32)
  for y, expected in ((labels, best), (features, iterates.max(axis=1))):
    result = advjax.pgd(
      logits_fn, images, y, 0.2, 0.04, num_steps=12, key=key, loss_fn=climb
    )
    np.testing.assert_allclose(result[:, 0], expected, atol=1e-6)


def test_pgd_takes_a_nan_loss_for_the_lowest():
  def logits_fn(x):
    z = jnp.where(x > 0.6, jnp.nan, x)
    return jnp.concatenate([-10 + 0 * z, z], axis=1)

  images, labels = np.full((16, 1), 0.5, np.float32), np.ones(16, np.int32)
  key = jax.random.key(0)
  result = advjax.pgd(
    logits_fn,
    images,
    labels,
    0.2,
    0.05,
    num_steps=3,
    key=key,
    loss_fn=lambda logits, labels: logits[:, 1],
  )
  starts = starts_of(images, labels, key)
  lost = np.asarray(starts)[:, 0] > 0.6
  assert 0 < lost.sum() < 16
  np.testing.assert_array_equal(result[lost], starts[lost])
  assert np.all(result[~lost] <= 0.6)


def test_soft_and_custom_labels():
  attack = functools.partial(advjax.fgsm, cases.logits_fn, cases.IMAGES)
  soft = attack(np.eye(3, dtype=np.float32)[cases.LABELS], 0.1)
  hard = attack(cases.LABELS, 0.1)
  np.testing.assert_allclose(soft, hard, atol=1e-6)
  labels = {'value': np.zeros((4, 7), np.float32), 'sign': np.int32([-1] * 4)}

  def loss_fn(logits, labels):
    return logits[:, 0] * labels['sign'] + labels['value'].sum(axis=1)

  result = attack(labels, 0.1, loss_fn=loss_fn)
  moved = np.asarray(result - cases.IMAGES).reshape(4, -1)
  # Down the first logit, whose slopes have the signs of its weights.
  assert np.all(moved * np.sign(cases.WEIGHTS[:, 0]) <= 0) and moved.any()


# --------------------------------------------------------------- random models


def test_eot_averages_over_fresh_draws():
  weights = jnp.asarray(cases.WEIGHTS)

  def noisy(images, key):
    noise = jax.random.normal(key, (1, 30))
    return (images.reshape(-1, 30) * noise) @ weights

  key, images = jax.random.key(5), jnp.asarray(cases.IMAGES)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))

  def attack(rows, key):
    return advjax.pgd(
      noisy,
      images[rows],
      cases.LABELS[rows],
      0.1,
      0.04,
      num_steps=1,
      key=key,
      eot_samples=3,
      norm='l2',
      bounds=None,
    )

  result = attack(np.arange(4), keys)
  order = np.array([2, 0, 3, 1])  # No row sees the draws of others.
  turned = attack(order, keys[order])
  np.testing.assert_allclose(turned, result[order], atol=1e-6)

  def mean_loss(image, label, key):
    logits = jnp.stack(
      [noisy(image[None], jax.random.fold_in(key, s))[0] for s in range(3)]
    )
    return losses.cross_entropy(logits, jnp.full(3, label)).mean(), logits

  @jax.jit
  def points_of(i, image, label):
    """The start and the point after it, each with its loss and logits."""
    k = jax.random.fold_in(jax.random.fold_in(key, i), 0)
    draw = norms.l2.sample(jax.random.fold_in(k, 0)[None], image[None])
    start = image + 0.1 * draw[0]
    gradient_fn = jax.value_and_grad(mean_loss, has_aux=True)
    first, gradient = gradient_fn(start, label, jax.random.fold_in(k, 1))
    delta = start - image + 0.04 * gradient / jnp.linalg.norm(gradient)
    delta = delta * jnp.minimum(1, 0.1 / jnp.linalg.norm(delta))
    last = image + delta
    second = mean_loss(last, label, jax.random.fold_in(k, 2))
    return (start, *first), (last, *second)

  for i, label in enumerate(cases.LABELS):

    def rank(point, label=label):
      _, loss, logits = point
      return logits.mean(axis=0).argmax() != label, loss

    points = jax.tree.map(np.asarray, points_of(i, images[i], label))
    best = max(points, key=rank)  # The earlier one of equals.
    np.testing.assert_allclose(result[i], best[0], atol=1e-5)
