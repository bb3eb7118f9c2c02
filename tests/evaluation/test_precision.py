"""On accelerators, float32 products are computed in float32 in evaluations.

The CPU computes so in any case; what is tested is what the programs ask for.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import data
from advjax.attacks.specs import parse_attack
from advjax.evaluation.traces import trace
from advjax.losses import cross_entropy
from advjax.models.logits import eval_logits_fn
from tests.training import runs

IMAGES = np.eye(3, dtype=np.float32)
LABELS = np.arange(3)
ATTACK = parse_attack('pgd-2')

EVALUATIONS = {
  'robust_accuracy': lambda network: advjax.robust_accuracy(
    network, IMAGES, LABELS, {'pgd': ATTACK}, 0.1, key=jax.random.key(0)
  ),
  'autoattack': lambda network: advjax.autoattack(
    network, IMAGES, LABELS, 0.1, key=jax.random.key(0), attacks=['apgd-ce']
  ),
  'trace': lambda network: trace(
    network, ATTACK, IMAGES, LABELS, 0.1, key=jax.random.key(0)
  ),
}


class Network:
  """Notes at which precision it is traced."""

  def __init__(self):
    self.seen = set()

  def __call__(self, images):
    self.seen.add(jax.config.jax_default_matmul_precision)
    return 10 * images


@pytest.mark.parametrize('name', EVALUATIONS)
def test_the_highest_unless_the_caller_has_set_one(name):
  network = Network()
  EVALUATIONS[name](network)
  assert network.seen == {'highest'}
  network.seen.clear()
  # Compiled again, though the network is the same.
  with jax.default_matmul_precision('high'):
    EVALUATIONS[name](network)
  assert network.seen == {'high'}
  assert jax.config.jax_default_matmul_precision is None


def precisions(function, *arguments):
  """Of the products in a function and in its gradient by the images."""
  text = str(jax.make_jaxpr(function)(*arguments))
  return set(re.findall(r'Precision\.(\w+)', text))


@pytest.mark.parametrize('precision', ['highest', 'default'])
def test_trained_networks_take_that_of_their_config(precision):
  training = runs.run(
    data=runs.dataset(),
    model={'name': 'small_resnet', 'widths': (4,)},
    evaluation__matmul_precision=precision,
  )
  params, state = training.init_state()[1:3]
  network = eval_logits_fn(
    training.model, params, state, training.config.evaluation.matmul_precision
  )
  images = np.asarray(data.to_float(training.test_split.images[:2]))

  def gradient(images):
    return jax.grad(
      lambda x: cross_entropy(network(x), jnp.zeros(2, jnp.int32)).sum()
    )(images)

  assert precisions(gradient, images) == {precision.upper()}
  # None is what the caller has set.
  network = eval_logits_fn(training.model, params, state, None)
  with jax.default_matmul_precision('high'):
    assert precisions(gradient, images) == {'HIGH'}
  # Training itself does as JAX does.
  assert (
    precisions(
      lambda x: training.model.apply(params, state, x, train=False)[0], images
    )
    == set()
  )


def test_a_precision_that_is_none_is_an_error():
  with pytest.raises(ValueError, match=r"evaluation.matmul_precision 'tf32'"):
    runs.run(data=runs.dataset(), evaluation__matmul_precision='tf32')
