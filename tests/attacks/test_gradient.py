"""The gradient attacks: closed forms and NSL's golden vectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import losses, norms
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')

each_norm = pytest.mark.parametrize('norm', cases.NORMS)


@pytest.mark.parametrize(
  ('name', 'norm', 'targeted'),
  [
    *((name, 'linf', False) for name in cases.ATTACKS),
    *((name, 'l2', False) for name in ('fgsm', 'pgd', 'mifgsm')),
    *((name, 'l1', False) for name in ('fgsm', 'pgd', 'mifgsm')),
    *((name, 'linf', True) for name in ('fgsm', 'pgd')),
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
    cases.linear, images, labels, norm=norm, targets=targets, **steps
  )
  sign = -1 if targeted else 1
  expected = images + sign * 0.1 * jnp.array([direction], jnp.float32)
  # Along the boundary the loss is flat: pgd takes the earliest of its highest.
  atol = 1e-4 if name == 'pgd' else 1e-6
  np.testing.assert_allclose(result, expected, atol=atol)


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


@pytest.mark.accelerator
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


def regress(x):
  return x @ jnp.array([3.0, 4.0])


def regress_features(x):
  return (3 * x['fc1'] + 4 * x['fc2'])[:, 0]


def squared_error(outputs, labels):
  return (labels - outputs) ** 2


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
  if two_features:
    images = {'fc1': jnp.array([[-1.0]]), 'fc2': jnp.array([[1.0]])}
    outputs = regress_features
  else:
    images, outputs = jnp.array([[-1.0, 1.0]]), regress
  result = advjax.bim(
    outputs,
    images,
    jnp.zeros(1),
    epsilon,
    0.1,
    num_steps=num_steps,
    norm=norms.NSL_NORMS['l2'],
    loss_fn=squared_error,
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
