"""Parity with foolbox: same model, same absolute step, last iterates."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from tests import reference

with warnings.catch_warnings():
  warnings.simplefilter('ignore')
  foolbox = pytest.importorskip('foolbox')

EPSILONS = {'linf': 0.06, 'l2': 0.4}
STEPS = 5
MODEL = reference.Mlp.random(0, 60, 24, 5)
PARAMETERS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), MODEL)


def logits_fn(x):
  hidden = jax.nn.relu(x @ PARAMETERS.w1 + PARAMETERS.b1[None])
  return hidden @ PARAMETERS.w2 + PARAMETERS.b2[None]


@pytest.mark.parametrize(
  ('attack', 'norm'),
  [
    ('LinfBasicIterativeAttack', 'linf'),
    ('L2BasicIterativeAttack', 'l2'),
    ('LinfPGD', 'linf'),
  ],
)
def test_last_iterate(attack, norm):
  images = np.random.default_rng(1).uniform(size=(32, 60)).astype(np.float32)
  labels = MODEL.logits(images).argmax(axis=1)
  epsilon = EPSILONS[norm]
  ours = advjax.bim(
    logits_fn, images, labels, epsilon, epsilon / 3, num_steps=STEPS, norm=norm
  )
  kwargs = {'random_start': False} if attack == 'LinfPGD' else {}
  theirs = getattr(foolbox.attacks, attack)(
    abs_stepsize=epsilon / 3, steps=STEPS, **kwargs
  )
  with jax.numpy_rank_promotion('allow'), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    theirs = theirs.run(
      foolbox.JAXModel(logits_fn, bounds=(0, 1)),
      jnp.asarray(images),
      jnp.asarray(labels),
      epsilon=epsilon,
    )
  assert np.abs(ours - images).max() > 0.05
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
