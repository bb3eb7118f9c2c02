"""AutoAttack against the flags of the reference implementation.

The network was trained by experiments/benchmarks/autoattack_fixture.py,
and the flags are those of torchattacks on three seeds.
"""

import functools

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

import advjax
from experiments.benchmarks import autoattack as network

REFERENCE = network.load(network.OWN)


@functools.cache
def robust(norm, name):
  result = advjax.autoattack(
    Partial(network.logits, REFERENCE.kernels),
    REFERENCE.images,
    REFERENCE.labels,
    network.EPSILONS[norm],
    key=jax.random.key(0),
    norm=norm,
    attacks=[name],
  )
  assert not result.warnings
  return result.robust


each_norm = pytest.mark.parametrize(
  'norm', ['linf', pytest.param('l2', marks=pytest.mark.slow)]
)


@each_norm
@pytest.mark.parametrize('name', network.ATTACKS)
def test_no_attack_leaves_more_than_the_weakest_seed_and_one(norm, name):
  flags = REFERENCE.robust[norm][name]
  assert flags.shape == (3, 64)
  found = robust(norm, name)
  assert found.sum() <= flags.sum(1).max() + 1
  # Nor are they other examples: those that all seeds break are broken.
  assert (found & ~flags.any(0)).sum() <= 1
  # And nothing is found that is not there: all seeds of all attacks miss it.
  assert (~found & REFERENCE.robust[norm]['autoattack'].all(0)).sum() <= 1


@each_norm
def test_the_four_together_leave_no_more_than_the_reference_and_one(norm):
  found = np.all([robust(norm, name) for name in network.ATTACKS], axis=0)
  assert found.sum() <= REFERENCE.robust[norm]['autoattack'].sum(1).max() + 1
