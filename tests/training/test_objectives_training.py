"""Adversarial training: FGSM, PGD and TRADES against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.training import objectives
from tests import reference
from tests.training import networks
from tests.training.networks import IMAGES, LABELS, MLP


def test_fgsm_at_steps_from_a_random_start_and_projects():
  objective = objectives.fgsm_at()
  none = {'epsilon': 0.2, 'step_size': 0.0}
  with jax.enable_x64(True):
    start = networks.adversarial_of(objective, none, dtype=jnp.float64)
    found = networks.adversarial_of(
      objective, {'epsilon': 0.2, 'step_size': 0.25}, dtype=jnp.float64
    )
  step = start - IMAGES + 0.25 * np.sign(networks.mean_gradient(start))
  expected = np.clip(IMAGES + np.clip(step, -0.2, 0.2), 0, 1)
  assert np.ptp(start - IMAGES) > 0.2
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_pgd_at_trains_on_the_last_iterate_of_bim(norm='l1'):
  hparams = {'epsilon': 0.4, 'step_size': 0.2}
  found = networks.adversarial_of(
    objectives.pgd_at(norm=norm, num_steps=3), hparams
  )

  @jax.jit
  def expected(params, batch):
    return advjax.bim(
      lambda images: networks.apply(params, {}, images, train=False)[0],
      batch['image'],
      batch['label'],
      *hparams.values(),
      num_steps=3,
      key=networks.keys(),
      norm=norm,
    )

  np.testing.assert_array_equal(
    found, expected(networks.params(), networks.batch())
  )
  assert np.abs(found - IMAGES).max() <= 0.4 + 1e-6


@pytest.mark.parametrize('bounds', [(0.0, 1.0), None])
def test_noisy_fgsm_at_steps_from_the_noise_without_projection(bounds):
  objective = objectives.noisy_fgsm_at(bounds=bounds)
  hparams = {'noise_size': 0.4, 'step_size': 0.0}
  with jax.enable_x64(True):
    noisy = networks.adversarial_of(objective, hparams, dtype=jnp.float64)
    found = networks.adversarial_of(
      objective, hparams | {'step_size': 0.2}, dtype=jnp.float64
    )
  moved = noisy - IMAGES
  assert np.abs(moved).max() <= 0.4 and np.ptp(moved) > 0.4
  expected = noisy + 0.2 * np.sign(networks.mean_gradient(noisy))
  if bounds:
    expected = np.clip(expected, *bounds)
    assert noisy.min() == 0 or noisy.max() == 1
  np.testing.assert_allclose(found, expected, atol=1e-12)
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
