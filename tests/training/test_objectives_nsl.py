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


def perturbed(objective, mlp=MLP, weight=None, **hparams):
  """The images that an objective trains on, in float64."""
  others = {} if weight is None else {'weight': weight}
  hparams = {'multiplier': 0.2, **hparams}
  with jax.enable_x64(True):
    return networks.adversarial_of(
      objective, hparams, mlp=mlp, dtype=jnp.float64, **others
    )


NSL_CASES = {
  'steps_l1': {'norm': 'l1', 'num_steps': 3},
  'epsilon': {'norm': 'infinity', 'num_steps': 2, 'epsilon': 0.25},
  'mask_l2': {
    'norm': 'l2',
    'mask': [0, 1, 0.5, 1, 0, 0.1],
    'num_steps': 2,
    'bounds': (None, 1.0),
  },
}


@pytest.mark.parametrize('case', NSL_CASES)
def test_adversarial_regularization_perturbs_as_nsl(case):
  options = dict(NSL_CASES[case])
  hparams = {'step_size': 0.2}
  if 'epsilon' in options:
    hparams['epsilon'] = options.pop('epsilon')
  if 'mask' in options:
    options['mask'] = np.array(options['mask'])
  objective = objectives.adversarial_regularization(**options)
  found = perturbed(objective, **hparams)
  expected = nsl.perturb(
    networks.mean_gradient,
    IMAGES,
    **hparams,
    **options,
  )
  assert np.abs(expected - IMAGES).max() > 0.05
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_random_start_and_then_all_the_steps():
  """NSL's random_init, without epsilon in the ball of the step size."""
  objective = objectives.adversarial_regularization(
    norm='l2', num_steps=2, random_start=True, bounds=(0.0, 1.0)
  )
  # Steps of no length leave the start as it is.
  start, in_the_ball, found = (
    perturbed(objective, step_size=step_size, **epsilon)
    for step_size, epsilon in (
      (0.0, {'epsilon': 0.1}),
      (0.1, {'epsilon': 0.1}),
      (0.1, {}),
    )
  )
  assert (np.abs(start - IMAGES) > 1e-3).mean() > 0.8
  for epsilon, images in ((0.1, in_the_ball), (None, found)):
    expected = nsl.perturb(
      networks.mean_gradient,
      IMAGES,
      step_size=0.1,
      norm='l2',
      num_steps=2,
      bounds=(0.0, 1.0),
      start=start,
      epsilon=epsilon,
    )
    np.testing.assert_allclose(images, expected, atol=1e-12)


def test_tiny_gradients_fade_by_the_scale_of_the_batch_mean(share=1 / 32):
  """NSL's l2 direction has a floor: it is the mean whose gradient counts."""
  flat = MLP._replace(w1=1e-7 * MLP.w1)
  found = perturbed(
    objectives.adversarial_regularization(norm='l2'),
    mlp=flat,
    weight=np.full(BATCH, share),
    step_size=0.2,
  )
  sizes = np.linalg.norm(found - IMAGES, axis=1)
  gradients = BATCH * share * networks.mean_gradient(IMAGES, flat)
  expected = 0.2 * np.linalg.norm(gradients, axis=1) / 1e-6
  assert 0 < expected.max() < 0.05
  np.testing.assert_allclose(sizes, expected, rtol=1e-6)
