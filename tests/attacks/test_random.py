"""Keys, restarts, the choice of the best iterate, and random models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import losses, norms
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')


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


@pytest.mark.accelerator
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


def test_many_restarts_contain_one():
  def scores(num_restarts):
    images = cases.pgd(
      cases.logits_fn, cases.IMAGES, cases.LABELS, num_restarts=num_restarts
    )
    logits = cases.logits_fn(images)
    fooled = np.asarray(logits.argmax(axis=1) != cases.LABELS)
    loss = np.asarray(losses.cross_entropy(logits, cases.LABELS))
    return [(bool(f), float(s)) for f, s in zip(fooled, loss, strict=True)]

  one, two = scores(1), scores(2)
  assert all(t >= (o[0], o[1] - 1e-6) for t, o in zip(two, one, strict=True))
  assert two != one


def starts_of(images, labels, key):
  """The random starts within 0.2, of 16 images."""
  return advjax.bim(nothing, images, labels, 0.2, 0.0, num_steps=1, key=key)


def nothing(images):
  return jnp.zeros((len(images), 2))


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
  starts = starts_of(images, labels, key)
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

  def mean_loss(image, label, key):
    logits = jnp.stack(
      [noisy(image[None], jax.random.fold_in(key, s))[0] for s in range(3)]
    )
    return losses.cross_entropy(logits, jnp.full(3, label)).mean(), logits

  @jax.jit
  def walk(i, image, label):
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

    points = jax.tree.map(np.asarray, walk(i, images[i], label))
    best = max(points, key=rank)  # The earlier one of equals.
    np.testing.assert_allclose(result[i], best[0], atol=1e-5)


def test_eot_draws_do_not_depend_on_the_other_rows():
  def noisy(images, key):
    return cases.logits_fn(images + 0.3 * jax.random.normal(key, images.shape))

  keys = jax.random.split(jax.random.key(0), 4)
  attack = functools.partial(
    advjax.pgd, noisy, epsilon=0.1, step_size=0.04, num_steps=2, eot_samples=2
  )
  whole = attack(images=cases.IMAGES, labels=cases.LABELS, key=keys)
  order = np.array([2, 0, 3, 1])
  turned = attack(
    images=cases.IMAGES[order], labels=cases.LABELS[order], key=keys[order]
  )
  np.testing.assert_allclose(turned, whole[order], atol=1e-6)
