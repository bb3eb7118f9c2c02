"""The gradient attacks: closed forms, golden vectors, and their contracts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advjax
from advjax import losses, norms
from tests import reference
from tests.attacks import cases

table = pytest.mark.parametrize('name', cases.ATTACKS)
each_norm = pytest.mark.parametrize('norm', cases.NORMS)


def linear(images):
  """Two logits whose difference has the gradient (3, 4)."""
  return jnp.stack([0 * images[:, 0], images @ jnp.array([3.0, 4.0])], axis=1)


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
  ('name', 'norm', 'targeted'),
  [
    *((name, norm, False) for name in cases.ATTACKS for norm in cases.NORMS),
    *((name, 'linf', True) for name in cases.ATTACKS),
  ],
)
def test_linear_model(name, norm, targeted):
  direction = {'linf': (1, 1), 'l2': (0.6, 0.8), 'l1': (0, 1)}[norm]
  images, labels = jnp.array([[0.4, 0.5], [0.5, 0.4]]), jnp.array([0, 0])
  if targeted:
    labels, targets = 1 - labels, labels
  else:
    targets = None
  # Enough steps to reach the boundary from wherever the start was.
  steps = {} if name == 'fgsm' else {'num_steps': 40}
  result = cases.ATTACKS[name](
    linear, images, labels, norm=norm, targets=targets, **steps
  )
  sign = -1 if targeted else 1
  expected = images + sign * 0.1 * jnp.array([direction], jnp.float32)
  # Along the boundary the loss is flat: pgd takes the earliest of its highest.
  atol = 1e-4 if name == 'pgd' else 1e-6
  np.testing.assert_allclose(result, expected, atol=atol)


def test_clip_and_bounds():
  images, labels = jnp.array([[0.95, 0.5]]), jnp.array([0])
  attack = functools.partial(advjax.fgsm, linear, images, labels, 0.1)
  np.testing.assert_allclose(attack(), [[1.0, 0.6]], rtol=1e-6)
  for bounds in (None, (None, None), (0.0, None)):
    np.testing.assert_allclose(attack(bounds=bounds), [[1.05, 0.6]], rtol=1e-6)
  per_channel = (0.0, jnp.array([0.97, 0.55]))
  np.testing.assert_allclose(
    attack(bounds=per_channel), [[0.97, 0.55]], rtol=1e-6
  )


@pytest.mark.parametrize(
  ('name', 'norm'),
  [('fgsm', 'linf'), ('bim', 'l2'), ('pgd', 'l1'), ('mifgsm', 'linf')],
)
def test_epsilon_per_example(name, norm):
  epsilon = np.array([0.0, 0.05, 0.1, 0.2], np.float32)
  attack = cases.ATTACKS[name]
  args = cases.logits_fn, cases.IMAGES, cases.LABELS
  together = attack(*args, epsilon, norm=norm)
  for i, e in enumerate(epsilon):
    one = attack(*args, e, norm=norm)
    np.testing.assert_allclose(together[i], one[i], atol=1e-6)
  np.testing.assert_array_equal(together[0], cases.IMAGES[0])


@each_norm
def test_fgsm_is_keyless_bim_of_one_step_bit_for_bit(norm):
  args = cases.logits_fn, cases.IMAGES, cases.LABELS, 0.1
  np.testing.assert_array_equal(
    advjax.fgsm(*args, norm=norm),
    advjax.bim(*args, 0.1, num_steps=1, norm=norm),
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
  result = advjax.mifgsm(
    logits_fn,
    np.array([[0.45, 0.2]], np.float32),
    jnp.array([0]),
    None,
    0.1,
    num_steps=3,
    decay=0.7,
    norm='l2',
    loss_fn=losses.margin,
  )
  np.testing.assert_allclose(result, x, rtol=1e-5)


def test_momentum_without_decay_is_bim():
  args = cases.logits_fn, cases.IMAGES, cases.LABELS, 0.1, 0.04
  np.testing.assert_array_equal(
    advjax.mifgsm(*args, num_steps=3, decay=0.0),
    advjax.bim(*args, num_steps=3),
  )


# --------------------------------------------------------- NSL's golden vectors


@pytest.mark.parametrize(
  ('num_steps', 'epsilon', 'expected'),
  [
    (1, None, [-0.94, 1.08]),
    (2, None, [-0.88, 1.16]),
    (2, 0.15, [-0.91, 1.12]),
    (2, 0.13, [-0.922, 1.104]),
  ],
)
@pytest.mark.parametrize('two_features', [False, True])
def test_nsl_steps(num_steps, epsilon, expected, two_features):
  def square(outputs, labels):
    return (labels - outputs) ** 2

  if two_features:
    images = {'fc1': jnp.array([[-1.0]]), 'fc2': jnp.array([[1.0]])}

    def outputs(x):
      return (3 * x['fc1'] + 4 * x['fc2'])[:, 0]

  else:
    images = jnp.array([[-1.0, 1.0]])

    def outputs(x):
      return x @ jnp.array([3.0, 4.0])

  result = advjax.bim(
    outputs,
    images,
    jnp.zeros(1),
    epsilon,
    0.1,
    num_steps=num_steps,
    norm=norms.NSL_NORMS['l2'],
    loss_fn=square,
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
    return linear(images['x']) + linear(images['y'] * images['row'])

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


# -------------------------------------------------------------- inside, always


@pytest.mark.parametrize('name', ['fgsm', 'pgd'])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
  norm=st.sampled_from(cases.NORMS),
  dtype=st.sampled_from(['float32', 'bfloat16']),
  epsilon=st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 8 / 255, 0.7, 3.0]),
  border=st.sampled_from([None, 'lower', 'upper']),
  seed=st.integers(0, 5),
)
def test_inside_ball_and_box(name, norm, dtype, epsilon, border, seed):
  bounds = (-0.1, 0.9)  # Neither is a bfloat16.
  images = np.random.default_rng(seed).uniform(-0.09, 0.89, cases.SHAPE)
  if border is not None:
    images[seed % 4] = bounds[border == 'upper'] * 0.996
  images = jnp.asarray(images, dtype)
  step_size = () if name == 'fgsm' else (0.3 * epsilon,)
  result = cases.ATTACKS[name](
    any_dtype,
    images,
    cases.LABELS,
    epsilon,
    *step_size,
    norm=norm,
    bounds=bounds,
  )
  assert result.dtype == images.dtype and result.shape == images.shape
  wide = np.asarray(result, np.float64)
  assert np.all((wide >= bounds[0] - 1e-8) & (wide <= bounds[1] + 1e-8))
  moved = (wide - np.asarray(images, np.float64)).reshape(4, -1)
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  assert np.all(np.linalg.norm(moved, order, axis=1) <= epsilon * (1 + 1e-6))
  if epsilon == 0:
    assert np.asarray(result).tobytes() == np.asarray(images).tobytes()


def any_dtype(images):
  return cases.apply(cases.WEIGHTS, images.astype(jnp.float32))


def test_epsilon_zero_keeps_the_sign_of_zero():
  images = np.array([[-0.0, 0.0]], np.float32)
  for key in (None, jax.random.key(0)):
    result = advjax.bim(
      linear, images, jnp.array([0]), 0.0, 0.1, num_steps=1, key=key
    )
    assert np.asarray(result).tobytes() == images.tobytes()


@each_norm
@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
def test_gradients_that_lead_nowhere_move_nothing(norm, value):
  @jax.custom_vjp
  def logits_fn(x):
    return jnp.zeros((len(x), 3))

  logits_fn.defvjp(
    lambda x: (logits_fn(x), x), lambda x, _: (jnp.full_like(x, value),)
  )
  result = advjax.mifgsm(
    logits_fn, cases.IMAGES, cases.LABELS, 0.1, 0.04, num_steps=2, norm=norm
  )
  np.testing.assert_array_equal(result, cases.IMAGES)


def test_tiny_gradients_move_as_far_as_large_ones():
  def small(images):
    return 1e-25 * cases.logits_fn(images)

  args = cases.IMAGES, cases.LABELS
  for norm in ('linf', 'l2'):
    kwargs = {'norm': norm, 'bounds': None, 'loss_fn': losses.margin}
    np.testing.assert_allclose(
      cases.mifgsm(small, *args, **kwargs),
      cases.mifgsm(cases.logits_fn, *args, **kwargs),
      atol=1e-5,
    )


@pytest.mark.parametrize('name', ['pgd', 'mifgsm'])
def test_what_is_masked_out_never_moves(name):
  mask = np.zeros(cases.SHAPE[1:], np.float32)
  mask[0] = 0.5
  result = cases.ATTACKS[name](
    cases.logits_fn, cases.IMAGES, cases.LABELS, mask=mask, norm='l2'
  )
  moved = np.asarray(result) != cases.IMAGES
  assert moved[:, 0].mean() > 0.9 and not moved[:, 1:].any()


# ------------------------------------------------------------ keys and restarts


def flat(images):
  """A model with no gradient: attacks stay where they start."""
  return (
    jnp.zeros((len(images), 3)) + 0 * images.reshape(len(images), -1)[:, :3]
  )


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


def test_draws_of_rbg_keys_do_not_depend_on_the_batch_either():
  key = jax.random.key(3, impl='rbg')
  attack = functools.partial(advjax.bim, flat, num_steps=1)
  starts = attack(cases.IMAGES, cases.LABELS, 0.1, 0.1, key=key)
  some = attack(cases.IMAGES[:2], cases.LABELS[:2], 0.1, 0.1, key=key)
  np.testing.assert_array_equal(some, starts[:2])
  assert len(np.unique(np.asarray(starts - cases.IMAGES))) > 100


def test_random_start_of_radius_step_size_without_epsilon():
  starts = advjax.bim(
    flat,
    cases.IMAGES,
    cases.LABELS,
    None,
    0.2,
    num_steps=1,
    key=jax.random.key(0),
    bounds=None,
  )
  largest = np.abs(starts - cases.IMAGES).max()
  assert 0.19 < largest <= 0.2


@pytest.mark.parametrize('norm', ['linf', 'l1'])
def test_many_restarts_contain_one(norm):
  def scores(num_restarts):
    images = cases.pgd(
      cases.logits_fn,
      cases.IMAGES,
      cases.LABELS,
      num_restarts=num_restarts,
      norm=norm,
    )
    logits = cases.logits_fn(images)
    fooled = np.asarray(logits.argmax(axis=1) != cases.LABELS)
    loss = np.asarray(losses.cross_entropy(logits, cases.LABELS))
    return [(bool(f), float(s)) for f, s in zip(fooled, loss, strict=True)]

  one, five = scores(1), scores(5)
  assert all(f >= (o[0], o[1] - 1e-6) for f, o in zip(five, one, strict=True))
  assert five != one


def test_pgd_prefers_a_misclassified_iterate_to_a_higher_loss():
  # Climbs z_2 = x, which is never predicted; wrong only for x in (.55, .65).
  def logits_fn(x):
    window = 0.05 - jnp.abs(x[:, 0] - 0.6)
    return jnp.stack([0 * window, window, x[:, 0] - 10], axis=1)

  def climb(logits, labels):
    return logits[:, 2]

  images = np.full((16, 1), 0.5, np.float32)
  labels, key = np.zeros(16, np.int32), jax.random.key(1)
  attack = functools.partial(advjax.pgd, logits_fn, images, labels, 0.2)
  starts = advjax.bim(
    lambda x: jnp.zeros((16, 2)), images, labels, 0.2, 0.0, num_steps=1, key=key
  )
  result = attack(0.04, num_steps=12, key=key, loss_fn=climb)
  iterates = np.minimum(starts + 0.04 * np.arange(13)[None], 0.7)
  wrong = np.where(np.abs(iterates - 0.6) < 0.05, iterates, 0).max(axis=1)
  expected = np.where(wrong > 0, wrong, iterates.max(axis=1))
  assert 0 < (wrong == 0).sum() < 16
  np.testing.assert_allclose(result[:, 0], expected, atol=1e-6)
  # With labels that name no class the loss alone decides.
  features = np.zeros((16, 1), np.float32)
  result = advjax.pgd(
    logits_fn,
    images,
    features,
    0.2,
    0.04,
    num_steps=12,
    key=key,
    loss_fn=climb,
  )
  np.testing.assert_allclose(result[:, 0], iterates.max(axis=1), atol=1e-6)


def test_pgd_takes_a_nan_loss_for_the_lowest():
  def logits_fn(x):
    z = jnp.where(x > 0.6, jnp.nan, x)
    return jnp.concatenate([-10 + 0 * z, z], axis=1)

  images = np.full((16, 1), 0.5, np.float32)
  result = advjax.pgd(
    logits_fn,
    images,
    np.ones(16, np.int32),
    0.2,
    0.05,
    num_steps=3,
    key=jax.random.key(0),
    loss_fn=lambda logits, labels: logits[:, 1],
  )
  starts = advjax.bim(
    lambda x: jnp.zeros((16, 2)),
    images,
    np.ones(16, np.int32),
    0.2,
    0.0,
    num_steps=1,
    key=jax.random.key(0),
  )
  stuck = np.asarray(starts)[:, 0] > 0.6
  assert 0 < stuck.sum() < 16
  np.testing.assert_array_equal(result[stuck], starts[stuck])
  assert np.all(result[~stuck] <= 0.6)


def test_soft_labels_and_targets():
  hard = cases.pgd(cases.logits_fn, cases.IMAGES, cases.LABELS)
  soft = cases.pgd(
    cases.logits_fn, cases.IMAGES, np.eye(3, dtype=np.float32)[cases.LABELS]
  )
  np.testing.assert_allclose(soft, hard, atol=1e-6)
  targets = (cases.LABELS + 1) % 3
  result = cases.pgd(
    cases.logits_fn, cases.IMAGES, cases.LABELS, 0.5, 0.2, targets=targets
  )
  np.testing.assert_array_equal(cases.logits_fn(result).argmax(axis=1), targets)


# ---------------------------------------------------------------- random models


def test_eot_averages_over_fresh_draws():
  weights = jnp.asarray(cases.WEIGHTS)

  def noisy(images, key):
    noise = jax.random.normal(key, (1, 30))
    return (images.reshape(-1, 30) * noise) @ weights

  key, images = jax.random.key(5), jnp.asarray(cases.IMAGES)
  result = advjax.pgd(
    noisy,
    images,
    cases.LABELS,
    0.1,
    0.04,
    num_steps=1,
    key=key,
    eot_samples=3,
    norm='l2',
    bounds=None,
  )

  @jax.jit
  def mean_loss(image, label, key):
    logits = jnp.stack(
      [noisy(image[None], jax.random.fold_in(key, s))[0] for s in range(3)]
    )
    return losses.cross_entropy(logits, jnp.full(3, label)).mean(), logits

  gradient_fn = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))
  for i in range(4):
    k = jax.random.fold_in(jax.random.fold_in(key, i), 0)
    draw = norms.l2.sample(jax.random.fold_in(k, 0)[None], images[:1])
    start = images[i] + 0.1 * draw[0]
    (loss, logits), gradient = gradient_fn(
      start, cases.LABELS[i], jax.random.fold_in(k, 1)
    )
    delta = start - images[i] + 0.04 * gradient / jnp.linalg.norm(gradient)
    delta = delta * min(1, 0.1 / jnp.linalg.norm(delta))
    last = images[i] + delta
    new, last_logits = mean_loss(
      last, cases.LABELS[i], jax.random.fold_in(k, 2)
    )

    def rank(loss, logits, i=i):
      return logits.mean(axis=0).argmax() != cases.LABELS[i], loss

    better = last if rank(new, last_logits) > rank(loss, logits) else start
    np.testing.assert_allclose(result[i], better, atol=1e-5)


def test_eot_draws_do_not_depend_on_the_batch():
  def noisy(images, key):
    return cases.logits_fn(images + 0.3 * jax.random.normal(key, images.shape))

  keys = jax.random.split(jax.random.key(0), 4)
  attack = functools.partial(
    advjax.pgd, noisy, epsilon=0.1, step_size=0.04, num_steps=2, eot_samples=2
  )
  whole = attack(images=cases.IMAGES, labels=cases.LABELS, key=keys)
  part = attack(
    images=cases.IMAGES[1:3], labels=cases.LABELS[1:3], key=keys[1:3]
  )
  np.testing.assert_allclose(part, whole[1:3], atol=1e-6)


# ------------------------------------------------- an independent NumPy version


@functools.cache
def problem(num_examples):
  model = reference.Mlp.random(0, 60, 24, 5)
  rng = np.random.default_rng(1)
  images = rng.uniform(size=(num_examples, 60))
  labels = model.logits(images).argmax(axis=1)
  images = np.clip(images + rng.normal(size=images.shape) * 0.02, 0, 1)
  return model, images, labels, (labels + 1 + rng.integers(4)) % 5


def _mlp(model, x):
  return jax.nn.relu(x @ model.w1 + model.b1[None]) @ model.w2 + model.b2[None]


@functools.partial(jax.jit, static_argnums=0)
def start(norm, key, like):
  def start_key(row):
    key_of_row = jax.random.fold_in(key, row)
    return jax.random.fold_in(jax.random.fold_in(key_of_row, 0), 0)

  keys = jax.vmap(start_key)(jnp.arange(len(like)))
  return norms.get(norm).sample(keys, like)


RADII = {'linf': 0.06, 'l2': 0.4, 'l1': 2.0}


def agree(name, norm, num_examples, dtype, targeted=False):
  """Returns the model, the labels, our images and the reference's."""
  model, images, labels, targets = problem(num_examples)
  targets = targets if targeted else None
  images = images.astype(dtype)
  epsilon, key = RADII[norm], jax.random.key(2)
  steps = {} if name == 'fgsm' else {'num_steps': 6}
  sizes = (epsilon,) if name == 'fgsm' else (epsilon, epsilon / 3)
  random = {'key': key} if name in ('bim_random', 'pgd') else {}
  restarts = {'num_restarts': 1} if name == 'pgd' else {}
  ours = cases.ATTACKS[name](
    jax.tree_util.Partial(_mlp, jax.tree.map(jnp.asarray, model)),
    jnp.asarray(images),
    labels,
    *sizes,
    norm=norm,
    targets=targets,
    **random,
    **restarts,
    **steps,
  )
  assert ours.dtype == dtype
  iterates = reference.ascend(
    model,
    np.float64(images),
    labels,
    epsilon,
    sizes[-1],
    num_steps=steps.get('num_steps', 1),
    norm=norm,
    start=epsilon * np.float64(start(norm, key, images)) if random else None,
    targets=targets,
    decay=1.0 if name == 'mifgsm' else None,
  )
  theirs = iterates[-1]
  if name == 'pgd':
    theirs = reference.best(model, iterates, labels, targets)
  return model, labels, np.asarray(ours, np.float64), theirs


INDEPENDENT = [
  ('fgsm', 'linf'),
  ('fgsm', 'l1'),
  ('bim', 'l2'),
  ('bim_random', 'linf'),
  ('bim_random', 'l1'),
  ('pgd', 'linf'),
  ('pgd', 'l2'),
  ('pgd', 'l1'),
  ('mifgsm', 'linf'),
  ('mifgsm', 'l2'),
]


@pytest.mark.parametrize(('name', 'norm'), INDEPENDENT)
def test_agrees_with_numpy_in_float64(name, norm):
  with jax.enable_x64(True):
    _, _, ours, theirs = agree(name, norm, 16, np.float64)
  assert np.abs(theirs - problem(16)[1]).max() > 0.01
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('norm', cases.NORMS)
def test_agrees_with_numpy_towards_targets(norm):
  with jax.enable_x64(True):
    _, _, ours, theirs = agree('pgd', norm, 16, np.float64, targeted=True)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(('name', 'norm'), INDEPENDENT)
def test_agrees_with_numpy_in_float32(name, norm):
  model, labels, ours, theirs = agree(name, norm, 200, np.float32)
  a, b = model.logits(ours), model.logits(theirs)
  fooled = a.argmax(axis=1) != labels
  assert fooled.mean() > 0.1
  assert np.mean(fooled == (b.argmax(axis=1) != labels)) >= 0.99
  loss, _ = reference.cross_entropy(a, labels)
  other, _ = reference.cross_entropy(b, labels)
  np.testing.assert_allclose(loss, other, atol=1e-4)
