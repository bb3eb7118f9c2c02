"""Decay over time against NSL's formulas, in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.config import default_config
from advjax.training.optimizers import create_decay

STEPS = np.array([0, 1, 7, 10, 19, 20, 25, 1000])


def reference(name, value, rate, min_value):
  progress = STEPS / 10
  decayed = {
    'exponential': value * rate**progress,
    'inverse_time': value / (1 + rate * progress),
    'natural_exp': value * np.exp(-rate * progress),
  }[name]
  return np.maximum(decayed, min_value)


@pytest.mark.parametrize('name', ['exponential', 'inverse_time', 'natural_exp'])
@pytest.mark.parametrize('rate', [0.96, 0.5, 0.0, 1.25])
@pytest.mark.parametrize('min_value', [0.0, 0.05])
def test_formulas(name, rate, min_value):
  decay = create_decay(
    {
      'name': name,
      'decay_steps': 10,
      'decay_rate': rate,
      'min_value': min_value,
    }
  )
  found = [decay(0.2, int(step)) for step in STEPS]
  expected = reference(name, 0.2, rate, min_value)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


def test_a_large_rate_decays_to_nothing():
  decay = create_decay({'name': 'natural_exp', 'decay_rate': 800.0})
  assert float(decay(0.2, 1000)) == 0.0


# From neural-structured-learning 1.4.0 on TensorFlow 2.15.1, inside of a
# tf.function, since it returns no number in eager mode:
#   decay_over_time(25, DecayConfig(10, 0.96, min_value, DecayType.X), 0.2)
@pytest.mark.parametrize(
  ('name', 'min_value', 'expected'),
  [
    ('exponential', 0.0, 0.1805959790945053),
    ('inverse_time', 0.0, 0.05882353335618973),
    ('natural_exp', 0.0, 0.01814359240233898),
    ('natural_exp', 0.15, 0.15000000596046448),
    ('exponential', 0.5, 0.5),
  ],
)
def test_numbers_of_nsl(name, min_value, expected):
  decay = create_decay(
    {'name': name, 'decay_steps': 10, 'min_value': min_value}
  )
  np.testing.assert_allclose(decay(0.2, 25), expected, rtol=1e-6)


def test_the_default_changes_nothing():
  decay = create_decay(default_config().multiplier_decay)
  for step in STEPS:
    np.testing.assert_array_equal(decay(0.2, step), np.float32(0.2))


def test_value_and_step_may_be_traced():
  decay = create_decay({'name': 'exponential', 'decay_steps': 2})
  found = jax.jit(jax.vmap(decay, (0, None)))(jnp.array([0.5, 1.0]), 4)
  np.testing.assert_allclose(found, 0.96**2 * np.array([0.5, 1]), rtol=1e-6)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'name': 'exponental'},
      r"multiplier_decay 'exponental'.*did you mean 'exponential'",
    ),
    ({'decay_step': 2}, r"'decay_step'.*did you mean 'decay_steps'"),
    ({'decay_steps': 0}, r'decay_steps = 0; allowed: an integer >= 1'),
    ({'decay_steps': 2.5}, r'decay_steps = 2.5; allowed: an integer'),
    ({'decay_rate': -1.0}, r'decay_rate = -1.0; allowed: a number >= 0'),
    ({'decay_rate': float('nan')}, r'decay_rate = nan; allowed'),
    ({'min_value': float('inf')}, r'min_value = inf; allowed'),
  ],
)
def test_what_is_wrong_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    create_decay({'name': 'exponential'} | change)
