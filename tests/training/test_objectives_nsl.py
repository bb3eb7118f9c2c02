"""NSL's adversarial regularization: perturbations, losses and numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.training import objectives
from tests.training import networks, nsl
from tests.training.networks import IMAGES, LABELS, MLP

BATCH = len(LABELS)


@pytest.mark.parametrize(
  ('num_steps', 'epsilon', 'expected'),
  [
    (1, None, [-0.94, 1.08]),
    (2, None, [-0.88, 1.16]),
    (2, 0.15, [-0.91, 1.12]),
  ],
)
def test_the_reference_gives_the_golden_vectors_of_nsl(
  num_steps, epsilon, expected
):
  w = np.array([[3.0], [4.0]])
  found = nsl.perturb(
    lambda x: 2 * (x @ w) @ w.T,
    np.array([[-1.0, 1.0]]),
    step_size=0.1,
    norm='l2',
    num_steps=num_steps,
    epsilon=epsilon,
  )
  np.testing.assert_allclose(found, [expected])


NSL_CASES = {
  'defaults': {'norm': 'infinity'},
  'steps_l1': {'norm': 'l1', 'num_steps': 3},
  'epsilon': {'norm': 'infinity', 'num_steps': 2, 'epsilon': 0.25},
  'box_l2_epsilon': {
    'norm': 'l2',
    'bounds': (0.0, 1.0),
    'num_steps': 3,
    'epsilon': 0.3,
  },
  'upper': {'norm': 'l2', 'bounds': (None, 1.0)},
  'mask_l2': {'norm': 'l2', 'mask': [0, 1, 0.5, 1, 0, 0.1], 'num_steps': 2},
}


@pytest.mark.parametrize('case', NSL_CASES)
def test_adversarial_regularization_perturbs_as_nsl(case):
  options = dict(NSL_CASES[case])
  hparams = {'multiplier': 0.2, 'step_size': 0.2}
  if 'epsilon' in options:
    hparams['epsilon'] = options.pop('epsilon')
  if 'mask' in options:
    options['mask'] = np.array(options['mask'])
  with jax.enable_x64(True):
    found = networks.adversarial_of(
      objectives.adversarial_regularization(**options),
      hparams,
      dtype=jnp.float64,
    )
  expected = nsl.perturb(
    networks.mean_gradient,
    IMAGES,
    step_size=0.2,
    epsilon=hparams.get('epsilon'),
    **options,
  )
  assert np.abs(expected - IMAGES).max() > 0.05
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_random_start_and_then_all_the_steps():
  """NSL's random_init, without epsilon in the ball of the step size."""
  objective = objectives.adversarial_regularization(
    norm='l2', num_steps=2, random_start=True, bounds=(0.0, 1.0)
  )
  hparams = {'multiplier': 0.2, 'step_size': 0.1}
  # Steps of no length leave the start as it is.
  none = {'multiplier': 0.2, 'step_size': 0.0, 'epsilon': 0.1}
  with jax.enable_x64(True):
    start = networks.adversarial_of(objective, none, dtype=jnp.float64)
    found = networks.adversarial_of(objective, hparams, dtype=jnp.float64)
  assert (np.abs(start - IMAGES) > 1e-3).mean() > 0.8
  expected = nsl.perturb(
    networks.mean_gradient,
    IMAGES,
    step_size=0.1,
    norm='l2',
    num_steps=2,
    bounds=(0.0, 1.0),
    start=start,
  )
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_tiny_gradients_fade_by_the_scale_of_the_batch_mean(share=1 / 32):
  """NSL's l2 direction has a floor: it is the mean whose gradient counts."""
  flat = MLP._replace(w1=1e-7 * MLP.w1)
  with jax.enable_x64(True):
    found = networks.adversarial_of(
      objectives.adversarial_regularization(norm='l2'),
      {'multiplier': 0.2, 'step_size': 0.2},
      mlp=flat,
      dtype=jnp.float64,
      weight=jnp.full((BATCH,), share),
    )
  sizes = np.linalg.norm(found - IMAGES, axis=1)
  gradients = BATCH * share * networks.mean_gradient(IMAGES, flat)
  expected = 0.2 * np.linalg.norm(gradients, axis=1) / 1e-6
  assert 0 < expected.max() < 0.05
  np.testing.assert_allclose(sizes, expected, rtol=1e-6)
