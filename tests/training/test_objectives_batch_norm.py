"""BatchNorm: whose passes move statistics, and what attacks see."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from advjax.training.objectives import OBJECTIVES, create_objective
from tests import reference
from tests.training import networks
from tests.training.networks import IMAGES, LABELS


def moody(params, model_state, images, *, train):
  """Counts its training passes; its logits turn over between the two modes."""
  logits = images @ params * (-1 if train else 1)
  if train:
    model_state = {
      'passes': model_state['passes'] + 1,
      'mean': (model_state['mean'] + images.mean()) / 2,
    }
  return logits, model_state


WEIGHTS = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)


def moody_run(config):
  """Returns the statistics at the end, and the images trained on."""
  objective = create_objective(config)
  hparams = dict.fromkeys(OBJECTIVES[config['name']].required, 0.05)

  def run(weights, batch):
    seen = []

    def spy(params, model_state, images, *, train):
      if train:
        seen.append(images)
      return moody(params, model_state, images, train=train)

    state = {'passes': jnp.zeros(()), 'mean': jnp.zeros(())}
    _, (state, _) = objective(
      spy, weights, state, batch, hparams, networks.keys()
    )
    return state, seen[-1]

  state, images = networks.compiled(run)(WEIGHTS, networks.batch())
  return state, np.asarray(images)


@pytest.mark.parametrize(
  ('objective', 'num_passes'),
  [
    ({'name': 'standard'}, 1),
    ({'name': 'adversarial_regularization'}, 2),
    ({'name': 'adversarial_regularization', 'num_steps': 3}, 2),
    (
      {'name': 'adversarial_regularization', 'adversarial_batch_stats': False},
      1,
    ),
    ({'name': 'virtual_adversarial_regularization'}, 2),
    (
      {
        'name': 'virtual_adversarial_regularization',
        'num_steps': 2,
        'adversarial_batch_stats': False,
      },
      1,
    ),
    ({'name': 'fgsm_at'}, 1),
    ({'name': 'noisy_fgsm_at', 'attack_batch_norm': 'train'}, 1),
    ({'name': 'pgd_at', 'num_steps': 2}, 1),
    ({'name': 'pgd_at', 'num_steps': 2, 'attack_batch_norm': 'train'}, 1),
    ({'name': 'trades', 'num_steps': 2}, 1),
    ({'name': 'trades', 'num_steps': 2, 'attack_batch_norm': 'train'}, 1),
    ({'name': 'trades', 'num_steps': 2, 'adversarial_batch_stats': True}, 2),
  ],
  ids=str,
)
def test_only_training_passes_move_statistics(objective, num_passes):
  state, adversarial = moody_run(objective)
  assert state['passes'] == num_passes
  # The clean pass comes first, where there is one.
  clean = [] if objective['name'].endswith('_at') else [IMAGES]
  passes = [*clean, adversarial][:num_passes]
  expected = functools.reduce(lambda mean, x: (mean + x.mean()) / 2, passes, 0)
  np.testing.assert_allclose(state['mean'], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('objective', 'mode'),
  [
    ({'name': 'adversarial_regularization'}, 'train'),
    (
      {'name': 'adversarial_regularization', 'adversarial_batch_stats': False},
      'eval',
    ),
    ({'name': 'fgsm_at', 'random_start': False}, 'eval'),
    (
      {'name': 'fgsm_at', 'random_start': False, 'attack_batch_norm': 'train'},
      'train',
    ),
    (
      {
        'name': 'pgd_at',
        'random_start': False,
        'num_steps': 1,
        'attack_batch_norm': 'train',
      },
      'train',
    ),
  ],
  ids=str,
)
def test_attacks_see_the_batch_norm_mode_that_is_named(objective, mode):
  _, found = moody_run(objective | {'bounds': None})
  weights = WEIGHTS.astype(np.float64) * (-1 if mode == 'train' else 1)
  _, by_logits = reference.cross_entropy(IMAGES @ weights, LABELS)
  expected = 0.05 * np.sign(by_logits @ weights.T)
  np.testing.assert_allclose(found - IMAGES, expected, atol=1e-6)
