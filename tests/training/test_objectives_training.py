"""Adversarial training: FGSM, PGD and TRADES against closed forms."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.training import objectives
from tests import reference
from tests.training import networks
from tests.training.networks import IMAGES, LABELS, MLP


@pytest.mark.parametrize(
  ('objective', 'num_steps'),
  [(objectives.fgsm_at(), 1), (objectives.pgd_at(num_steps=3), 3)],
  ids=['fgsm_at', 'pgd_at'],
)
def test_steps_from_a_random_start_are_projected(objective, num_steps):
  with jax.enable_x64(True):
    start, found = (
      networks.adversarial_of(
        objective, {'epsilon': 0.2, 'step_size': size}, dtype=jnp.float64
      )
      for size in (0.0, 0.15)
    )
  assert np.ptp(start - IMAGES) > 0.2
  expected = start
  for _ in range(num_steps):
    gradient = networks.mean_gradient(expected)
    delta = np.clip(expected - IMAGES + 0.15 * np.sign(gradient), -0.2, 0.2)
    expected = np.clip(IMAGES + delta, 0, 1)
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_noisy_fgsm_at_steps_from_the_noise_without_projection():
  objective = objectives.noisy_fgsm_at()
  hparams = {'noise_size': 0.4, 'step_size': 0.0}
  with jax.enable_x64(True):
    noisy = networks.adversarial_of(objective, hparams, dtype=jnp.float64)
    found = networks.adversarial_of(
      objective, hparams | {'step_size': 0.2}, dtype=jnp.float64
    )
  moved = noisy - IMAGES
  assert np.abs(moved).max() <= 0.4 and np.ptp(moved) > 0.4
  assert noisy.min() == 0 or noisy.max() == 1
  step = 0.2 * np.sign(networks.mean_gradient(noisy))
  np.testing.assert_allclose(found, np.clip(noisy + step, 0, 1), atol=1e-12)
  assert np.abs(found - IMAGES).max() > 0.4


def test_trades_maximises_the_divergence_and_adds_it():
  objective = objectives.trades(num_steps=3)
  none = {'epsilon': 0.2, 'step_size': 0.0, 'beta': 6.0}
  hparams = {'epsilon': 0.2, 'step_size': 0.08, 'beta': 6.0}
  with jax.enable_x64(True):
    start = networks.adversarial_of(objective, none, dtype=jnp.float64)
    found, loss, metrics = networks.run(objective, hparams, dtype=jnp.float64)
  clean = MLP.logits(IMAGES)
  moved = start
  for _ in range(3):
    gradient = MLP.gradient(
      moved, networks.softmax(MLP.logits(moved)) - networks.softmax(clean)
    )
    delta = np.clip(moved - IMAGES + 0.08 * np.sign(gradient), -0.2, 0.2)
    moved = np.clip(IMAGES + delta, 0, 1)
  np.testing.assert_allclose(found, moved, atol=1e-12)
  clean_loss, _ = reference.cross_entropy(clean, LABELS)
  kl = networks.divergence(clean, MLP.logits(moved))
  assert kl.max() > 1e-3
  np.testing.assert_allclose(metrics['kl'], kl, rtol=1e-9)
  np.testing.assert_allclose(loss, (clean_loss + 6 * kl).mean(), rtol=1e-9)


@pytest.mark.parametrize('name', ['margin', 'advjax.losses:margin'])
def test_an_attack_ascends_the_loss_that_is_named(name):
  objective = objectives.fgsm_at(random_start=False, attack_loss=name)
  hparams = {'epsilon': 0.2, 'step_size': 0.1}
  with jax.enable_x64(True):
    found = networks.adversarial_of(objective, hparams, dtype=jnp.float64)
  is_true = np.eye(3)[LABELS]
  others = MLP.logits(IMAGES) - 1e9 * is_true
  ascent = np.eye(3)[others.argmax(-1)] - is_true
  step = 0.1 * np.sign(MLP.gradient(IMAGES, ascent))
  np.testing.assert_allclose(found, np.clip(IMAGES + step, 0, 1), atol=1e-12)


def test_mart_of_the_documentation_is_the_papers():
  """Wang et al. 2020, equations 9 to 11, in NumPy."""
  objective = runpy.run_path('docs/mine.py')['mart'](num_steps=2)
  hparams = {'epsilon': 0.2, 'step_size': 0.1, 'beta': 5.0}
  share = np.array([0.1, 0.2, 0.3, 0.4])
  with jax.enable_x64(True):
    moved, loss, _ = networks.run(
      objective, hparams, dtype=jnp.float64, weight=jnp.asarray(share)
    )
  assert 0.1 < np.abs(moved - IMAGES).max() <= 0.2 + 1e-12
  clean = networks.softmax(MLP.logits(IMAGES))
  attacked = networks.softmax(MLP.logits(moved))
  rows = np.arange(len(LABELS))
  wrong = np.where(np.eye(3)[LABELS] > 0, 0, attacked).max(-1)
  boosted = -np.log(attacked[rows, LABELS]) - np.log(1.0001 - wrong)
  divergence = (clean * np.log(clean / attacked)).sum(-1)
  expected = boosted + 5 * divergence * (1 - clean[rows, LABELS])
  np.testing.assert_allclose(loss, (share * expected).sum(), rtol=1e-9)
