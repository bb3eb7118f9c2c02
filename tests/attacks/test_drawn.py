"""No attack leaves the ball or the box, in any norm and shape."""

import itertools

import jax.numpy as jnp
import pytest

from tests.attacks import cases
from tests.attacks.test_common import (
  BOUNDS,
  KEYS,
  SHAPES,
  attack,
  check,
  draw,
  weights_of,
)

NORMS = {name: cases.NORMS for name in cases.ALL if name != 'bim'}
NORMS |= {'deepfool': ['linf', 'l2'], 'carlini_wagner': ['l2']}
CASES = [
  (name, norm, shape)
  for name, norms in NORMS.items()
  for norm, shape in itertools.product(norms, SHAPES)
]


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'norm', 'shape'), CASES)
def test_inside_ball_and_box(name, norm, shape):
  weights = jnp.asarray(weights_of(shape))
  for bounds in BOUNDS:
    images, *others = draw(shape, bounds, seed=len(name))
    choices = {'norm': norm, 'bounds': bounds}
    result = attack(name, weights, images, *others, KEYS, **choices)
    check(name, norm, result, images, others[-1], bounds)
