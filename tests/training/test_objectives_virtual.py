"""Virtual adversarial regularization: NSL's numbers, and NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.training import objectives
from tests import reference
from tests.training import networks, nsl
from tests.training.networks import IMAGES

# With many hidden units, so that the direction depends on the draw.
MLP = reference.Mlp.random(4, 6, 16, 3)

CONFIG = {'multiplier': 1.0, 'step_size': 0.3, 'approx_difference': 0.1}

WEIGHTS = np.array(
  [[1.0, -2.0, 0.5], [0.3, 0.8, -1.0], [2.0, 0.1, 0.4], [-0.6, 1.2, 0.9]]
)

INPUTS = np.array([[0.1, 0.9, 0.4, 0.0], [0.7, 0.2, 0.6, 1.0]])

DRAWS = np.array([[0.5, -1.0, 2.0, 0.1], [-0.3, 0.8, -0.2, 1.5]])

# From neural-structured-learning 1.4.0 on TensorFlow 2.15.1, in float32, with
# the arrays above (sum_over_axis=None for l1 and l2 and -1 for the others):
#   fn = lambda x: 3 * tf.tanh(x @ WEIGHTS)
#   _virtual_adv_regularizer(INPUTS, fn, VirtualAdvConfig(
#     adv_neighbor_config=AdvNeighborConfig(
#       adv_step_size=0.3, adv_grad_norm=norm),
#     distance_config=DistanceConfig(
#       distance_type=distance, sum_over_axis=axis, transform_fn=transform),
#     num_approx_steps=2, approx_difference=0.1), fn(INPUTS), DRAWS)
GOLDEN = {
  ('l2', 'none', 'infinity'): 1.8040765523910522,
  ('l1', 'none', 'l2'): 0.8373115658760071,
  ('cosine', 'none', 'l1'): 0.05722355842590332,
  ('jensen_shannon', 'softmax', 'infinity'): 0.07351104170084,
  ('kl', 'softmax', 'l2'): 0.2580416798591614,
  ('l2', 'softmax', 'l1'): 0.013083811849355698,
}


def tanh_network(params, model_state, images, *, train):
  del train
  return 3 * jnp.tanh(images @ params), model_state


@pytest.mark.parametrize(('distance', 'transform', 'norm'), GOLDEN)
def test_the_loss_of_nsl(distance, transform, norm, monkeypatch):
  monkeypatch.setattr(
    objectives, '_normal', lambda keys, images: jnp.asarray(DRAWS, images.dtype)
  )
  objective = objectives.virtual_adversarial_regularization(
    norm=norm, num_steps=2, distance=distance, transform=transform
  )
  with jax.enable_x64(True):
    batch = {'image': jnp.asarray(INPUTS), 'label': jnp.array([0, 1])}
    _, (_, metrics) = jax.jit(
      lambda batch: objective(
        tanh_network, jnp.asarray(WEIGHTS), {}, batch, CONFIG, networks.keys()
      )
    )(batch)
  found = np.asarray(metrics['virtual_adversarial_loss']).mean()
  expected = GOLDEN[distance, transform, norm]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


MASK = np.array([0, 1, 0.5, 1, 0, 0.1])


@jax.jit
def draw(keys):
  return jax.vmap(lambda key: jax.random.normal(key, (6,), jnp.float64))(keys)


@pytest.mark.parametrize(
  ('options', 'approx_difference'),
  [
    ({'distance': 'l2'}, None),
    ({'distance': 'kl', 'norm': 'l1', 'num_steps': 3, 'mask': MASK}, 0.1),
  ],
)
def test_power_iteration(options, approx_difference):
  hparams = {'multiplier': 1.0, 'step_size': 0.3}
  if approx_difference:
    hparams['approx_difference'] = approx_difference
  with jax.enable_x64(True):
    found = networks.adversarial_of(
      objectives.virtual_adversarial_regularization(**options),
      hparams,
      mlp=MLP,
      dtype=jnp.float64,
    )
    noise = np.asarray(draw(networks.keys()))
  options = {'norm': 'l2', **options}
  name = options.pop('distance')
  expected = nsl.virtual_perturb(
    MLP,
    IMAGES,
    noise,
    step_size=0.3,
    distance_name=name,
    approx_difference=approx_difference or 1e-6,
    **options,
  )
  # The derivative by the logits is a difference quotient in the reference.
  np.testing.assert_allclose(found, expected, atol=1e-6)
  if 'mask' in options:
    assert (found == IMAGES).all(axis=0).tolist() == (MASK == 0).tolist()
