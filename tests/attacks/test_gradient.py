"""The gradient attacks: NumPy in float64, closed forms, NSL, random draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import norms
from advjax._arguments import example_keys
from tests import reference
from tests.attacks import cases

KEY = jax.random.key(2)


# ----------------------------------------------- against NumPy, closed forms

MODEL = reference.Mlp.random(0, 60, 24, 5)
RADII = {'linf': 0.06, 'l2': 0.4, 'l1': 2.0}


RNG = np.random.default_rng(1)
IMAGES = RNG.uniform(size=(16, 60))
LABELS = MODEL.logits(IMAGES).argmax(axis=1)
IMAGES = np.clip(IMAGES + RNG.normal(size=IMAGES.shape) * 0.02, 0, 1)
TARGETS = (LABELS + 1 + RNG.integers(4)) % 5


def _mlp(model, x):
  return jax.nn.relu(x @ model.w1 + model.b1[None]) @ model.w2 + model.b2[None]


@functools.partial(jax.jit, static_argnums=0)
def first_draws(norm, like):
  """The draws in the unit ball of the first restart."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(len(like)))
  for _ in range(2):
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
  return norms.get(norm).sample(keys, like)


@pytest.mark.parametrize(
  ('name', 'norm', 'targeted'),
  [('pgd', 'linf', True), ('bim', 'l1', False), ('mifgsm', 'l2', False)],
)
def test_agrees_with_numpy_in_float64(name, norm, targeted):
  epsilon, targets = RADII[norm], TARGETS if targeted else None
  choices = {'pgd': {'key': KEY}, 'bim': {}, 'mifgsm': {'decay': 0.7}}[name]
  with jax.enable_x64(True):
    start = None
    if name == 'pgd':
      start = epsilon * np.asarray(first_draws(norm, IMAGES))
    ours = getattr(advjax, name)(
      jax.tree_util.Partial(_mlp, jax.tree.map(jnp.asarray, MODEL)),
      IMAGES,
      LABELS,
      epsilon,
      epsilon / 3,
      num_steps=6,
      norm=norm,
      targets=targets,
      **choices,
    )
  assert ours.dtype == np.float64
  iterates = reference.ascend(
    MODEL,
    IMAGES,
    LABELS,
    epsilon,
    epsilon / 3,
    num_steps=6,
    norm=norm,
    start=start,
    targets=targets,
    decay=choices.get('decay'),
  )
  theirs = iterates[-1]
  if name == 'pgd':
    theirs = reference.best(MODEL, iterates, LABELS, targets)
  assert np.abs(theirs - IMAGES).max() > 0.01
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
  ('norm', 'direction'), [('linf', (1, 1)), ('l2', (0.6, 0.8)), ('l1', (0, 1))]
)
def test_fgsm_is_keyless_bim_of_one_step_bit_for_bit(norm, direction):
  images, labels = np.float32([[0.4, 0.5], [0.5, 0.4]]), np.array([0, 0])
  args = cases.linear, images, labels, 0.1
  result = advjax.fgsm(*args, norm=norm)
  expected = images + 0.1 * np.float32([direction])
  np.testing.assert_allclose(result, expected, atol=1e-6)
  other = advjax.bim(*args, 0.1, num_steps=1, norm=norm)
  np.testing.assert_array_equal(other, result)


def test_clip_and_bounds():
  images, labels = np.float32([[0.95, 0.5]]), np.array([0])
  attack = functools.partial(advjax.fgsm, cases.linear, images, labels, 0.1)
  np.testing.assert_allclose(attack(), [[1.0, 0.6]], rtol=1e-6)
  for bounds in (None, (None, None), (0.0, None)):
    np.testing.assert_allclose(attack(bounds=bounds), [[1.05, 0.6]], rtol=1e-6)
  per_channel = (0.0, jnp.array([0.97, 0.55]))
  np.testing.assert_allclose(
    attack(bounds=per_channel), [[0.97, 0.55]], rtol=1e-6
  )


def two_features(x):
  return (3 * x['fc1'] + 4 * x['fc2'])[:, 0]


def squared_error(outputs, labels):
  return (labels - outputs) ** 2


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
    two_features,
    {'fc1': np.float32([[-1]]), 'fc2': np.float32([[1]])},
    np.zeros(1, np.float32),
    epsilon,
    0.1,
    num_steps=2,
    norm=norms.NSL_NORMS['l2'],
    loss_fn=squared_error,
    bounds=None,
  )
  flat = np.concatenate(jax.tree.leaves(result), axis=1)
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
  result = cases.GRADIENT['bim_random'](
    cases.logits_fn,
    cases.IMAGES,
    cases.LABELS,
    mask=mask,
    norm='l2',
    num_steps=1,
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
  images, labels = cases.IMAGES, cases.LABELS
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(4))
  keys = np.asarray(jax.random.key_data(keys))

  def attack(rows):
    return np.asarray(
      advjax.bim(
        *(flat, images[rows], labels[rows], 0.1, 0.1),
        num_steps=1,
        key=keys[rows],
      )
    )

  starts = attack(np.arange(4))
  assert np.all((starts != images).mean(axis=(1, 2, 3)) > 0.9)
  order = np.array([2, 0, 3, 1])
  np.testing.assert_array_equal(attack(order), starts[order])
  # pgd's first restart starts there too, and the earliest of equals wins.
  best = advjax.pgd(
    flat, images, labels, 0.1, 0.1, num_steps=1, key=key, num_restarts=3
  )
  np.testing.assert_array_equal(best, starts)


def test_keys_of_every_kind_are_the_same_keys():
  @jax.jit
  def words():
    key = jax.random.key(3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    rbg = jax.random.key_data(jax.random.key(3, impl='rbg'))
    kinds = key, jax.random.PRNGKey(3), keys, jax.random.key_data(keys), rbg
    return [jax.random.key_data(example_keys(k, 4)) for k in kinds]

  first, *others = words()
  for other in others:
    np.testing.assert_array_equal(other, first)


def two_zeros(images):
  return jnp.zeros((len(images), 2))


def starts_of(images, labels, key):
  """The random starts within 0.2, of 16 images."""
  return np.asarray(
    advjax.bim(two_zeros, images, labels, 0.2, 0.0, num_steps=1, key=key)
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
    found = np.asarray(result)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


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
  result, starts = np.asarray(result), starts_of(images, labels, key)
  lost = starts[:, 0] > 0.6
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
  moved = (np.asarray(result) - cases.IMAGES).reshape(4, -1)
  # Down the first logit, whose slopes have the signs of its weights.
  assert np.all(moved * np.sign(cases.WEIGHTS[:, 0]) <= 0) and moved.any()


# --------------------------------------------------------------- random models


def test_eot_averages_over_fresh_draws():
  mixing = np.random.default_rng(4).normal(size=(2, 30)).astype(np.float32)

  def noise_of(key):
    # Cheaper than a draw, and no two keys have the same.
    words = jax.random.key_data(key).astype(jnp.float32) / 2.0**31 - 1
    return words @ mixing

  def noisy(images, key):
    return (images.reshape(-1, 30) * noise_of(key)[None]) @ cases.WEIGHTS

  images = cases.IMAGES
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, np.arange(4))
  keys = np.asarray(jax.random.key_data(keys))

  def attack(rows):
    return advjax.pgd(
      noisy,
      images[rows],
      cases.LABELS[rows],
      0.1,
      0.04,
      num_steps=1,
      key=keys[rows],
      eot_samples=3,
      norm='l2',
      bounds=None,
    )

  result = np.asarray(attack(np.arange(4)))
  order = np.array([2, 0, 3, 1])  # No row sees the draws of others.
  np.testing.assert_allclose(attack(order), result[order], atol=1e-6)

  @jax.jit
  def draws(keys):
    """The start, and the noise of both steps, `[B, 2, 3, 30]`."""

    def of_row(key):
      key = jax.random.fold_in(key, 0)
      fold = jax.vmap(jax.random.fold_in, (None, 0))
      step_keys = fold(key, jnp.arange(1, 3))
      sample_keys = jax.vmap(fold, (0, None))(step_keys, jnp.arange(3))
      noise = jax.vmap(jax.vmap(noise_of))(sample_keys)
      return jax.random.fold_in(key, 0), noise

    start_keys, noise = jax.vmap(of_row)(keys)
    return norms.l2.sample(start_keys, jnp.zeros((4, 30))), noise

  starts, noise = map(np.float64, draws(keys))
  for x, label, start, noises, found in zip(
    images.reshape(4, 30), cases.LABELS, starts, noise, result, strict=True
  ):

    def look(delta, noise, x=x, label=label):
      """Whether the point fools, its loss, and the gradient."""
      logits = ((x + delta) * noise) @ cases.WEIGHTS
      loss, slopes = reference.cross_entropy(logits, np.full(3, label))
      gradient = (noise * (slopes @ cases.WEIGHTS.T)).mean(axis=0)
      return (logits.mean(axis=0).argmax() != label, loss.mean()), gradient

    first = 0.1 * start
    rank, gradient = look(first, noises[0])
    last = first + 0.04 * gradient / np.linalg.norm(gradient)
    last *= min(1, 0.1 / np.linalg.norm(last))
    best = last if look(last, noises[1])[0] > rank else first
    np.testing.assert_allclose(found.ravel(), x + best, atol=1e-5)
