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
# A part of the images and attacks decides in seconds; marked slow, all of them.
CASES = [
  *[('linf', 8, name) for name in ('apgd-t', 'fab-t')],
  *[
    pytest.param(norm, 64, name, marks=pytest.mark.slow)
    for norm in ('linf', 'l2')
    for name in network.ATTACKS
  ],
]


@functools.cache
def robust(norm, count, name):
  result = advjax.autoattack(
    Partial(network.logits, REFERENCE.kernels),
    REFERENCE.images[:count],
    REFERENCE.labels[:count],
    network.EPSILONS[norm],
    key=jax.random.key(0),
    norm=norm,
    attacks=[name],
  )
  assert not result.warnings
  return result.robust


@pytest.mark.parametrize(('norm', 'count', 'name'), CASES)
def test_no_attack_leaves_more_than_the_weakest_seed_and_one(norm, count, name):
  flags = REFERENCE.robust[norm][name][:, :count]
  assert flags.shape == (3, count)
  found = robust(norm, count, name)
  assert found.sum() <= flags.sum(1).max() + 1
  # Nor are they other examples: those that all seeds fool are fooled.
  assert (found & ~flags.any(0)).sum() <= 1
  # And no example is fooled that all seeds of all attacks leave robust.
  always = REFERENCE.robust[norm]['autoattack'].all(0)[:count]
  assert (~found & always).sum() <= 1


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_the_four_together_leave_no_more_than_the_reference_and_one(norm):
  found = np.all([robust(norm, 64, name) for name in network.ATTACKS], axis=0)
  flags = REFERENCE.robust[norm]['autoattack'][:, :64]
  assert found.sum() <= flags.sum(1).max() + 1
