"""Agreement with the independent NumPy version in float64 and float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import norms
from tests import reference
from tests.attacks import cases

pytestmark = pytest.mark.usefixtures('quick_compiles')


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
  ('bim', 'l2'),
  ('bim_random', 'linf'),
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


@pytest.mark.parametrize('norm', ['linf', 'l1'])
def test_agrees_with_numpy_towards_targets(norm):
  with jax.enable_x64(True):
    _, _, ours, theirs = agree('pgd', norm, 16, np.float64, targeted=True)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'norm'),
  [('fgsm', 'linf'), ('pgd', 'linf'), ('pgd', 'l2'), ('pgd', 'l1')],
)
def test_agrees_with_numpy_in_float32(name, norm):
  model, labels, ours, theirs = agree(name, norm, 200, np.float32)
  a, b = model.logits(ours), model.logits(theirs)
  fooled = a.argmax(axis=1) != labels
  assert fooled.mean() > 0.1
  assert np.mean(fooled == (b.argmax(axis=1) != labels)) >= 0.99
  loss, _ = reference.cross_entropy(a, labels)
  other, _ = reference.cross_entropy(b, labels)
  np.testing.assert_allclose(loss, other, atol=1e-4)
