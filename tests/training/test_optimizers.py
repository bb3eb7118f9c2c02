"""Optimizers, schedules and decays by closed forms, and their errors."""

import math

import jax
import numpy as np
import pytest

from advjax.config import default_config
from advjax.training.setup import (
  create_decay,
  create_optimizer,
  create_schedule,
)


def shape(num_steps, **fields):
  config = {**default_config().schedule, **fields}
  schedule = create_schedule(config, num_steps)
  return [float(schedule(step)) for step in range(num_steps)]


def test_cosine_after_a_warmup():
  rise = [0.0, 0.25, 0.5, 0.75]
  fall = [(1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
  found = shape(16, name='cosine', warmup=0.25)
  np.testing.assert_allclose(found, rise + fall, atol=1e-6)


def test_one_cycle_rises_and_falls_in_straight_lines():
  found = shape(8, name='one_cycle', warmup=0.5)
  expected = [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_piecewise():
  found = shape(8, name='piecewise', boundaries=(0.5, 0.75), factor=0.1)
  expected = [1.0] * 4 + [0.1] * 2 + [0.01] * 2
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def direction(fields, params, gradients):
  """The last of the directions for some gradients."""
  optimizer = create_optimizer({**default_config().optimizer, **fields})
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, params)
  return np.asarray(jax.tree.leaves(updates)[0])


PARAMS = np.array([1.0, -2.0], np.float32)


GRADIENTS = [np.array([0.5, 0.25], np.float32), np.array([0.25, -1], 'float32')]


def test_sgd_adds_the_decay_to_the_gradient_and_then_momentum():
  found = direction(
    {'name': 'sgd', 'momentum': 0.5, 'weight_decay': 0.1}, PARAMS, GRADIENTS
  )
  first, second = (gradient + 0.1 * PARAMS for gradient in GRADIENTS)
  np.testing.assert_allclose(found, 0.5 * first + second, rtol=1e-6)


def adam(gradients, b1=0.9, b2=0.999, eps=1e-8):
  m = v = 0.0
  for gradient in gradients:
    m = b1 * m + (1 - b1) * gradient
    v = b2 * v + (1 - b2) * gradient**2
  count = len(gradients)
  return m / (1 - b1**count) / (np.sqrt(v / (1 - b2**count)) + eps)


def test_adam_sees_the_decay_and_adamw_does_not():
  decay = {'weight_decay': 0.1}
  coupled = direction({'name': 'adam'} | decay, PARAMS, GRADIENTS)
  expected = adam([gradient + 0.1 * PARAMS for gradient in GRADIENTS])
  np.testing.assert_allclose(coupled, expected, rtol=1e-4)
  decoupled = direction({'name': 'adamw'} | decay, PARAMS, GRADIENTS)
  expected = adam(GRADIENTS) + 0.1 * PARAMS
  np.testing.assert_allclose(decoupled, expected, rtol=1e-4)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'name': 'adma'}, r"unknown optimizer 'adma'.*did you mean 'adam'"),
    ({'b1': 1.5}, r'optimizer.b1 = 1.5; allowed: a number from 0.0 to 1.0'),
    ({'momentum': -0.1}, r'optimizer.momentum = -0.1'),
    ({'weight_decay': -1.0}, r'optimizer.weight_decay = -1.0; allowed'),
    ({'eps': float('nan')}, r'optimizer.eps = nan'),
  ],
)
def test_a_wrong_optimizer_is_named(fields, message):
  with pytest.raises(ValueError, match=message):
    create_optimizer({**default_config().optimizer, **fields})


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'name': 'cosin'}, r"unknown schedule 'cosin'.*did you mean 'cosine'"),
    ({'name': 'cosine', 'warmup': 1.5}, r'schedule.warmup = 1.5; allowed'),
    ({'name': 'piecewise', 'factor': 2.0}, r'schedule.factor = 2.0'),
    (
      {'name': 'piecewise', 'boundaries': (0.5, 1.5)},
      r'schedule.boundaries\[1\] = 1.5',
    ),
  ],
)
def test_a_wrong_schedule_is_named(fields, message):
  with pytest.raises(ValueError, match=message):
    create_schedule({**default_config().schedule, **fields}, 10)


STEPS = np.array([0, 1, 7, 10, 19, 20, 25, 1000])


def decayed_by(name, value, rate, min_value):
  progress = STEPS / 10
  decayed = {
    'exponential': value * rate**progress,
    'inverse_time': value / (1 + rate * progress),
    'natural_exp': value * np.exp(-rate * progress),
  }[name]
  return np.maximum(decayed, min_value)


@pytest.mark.parametrize('name', ['exponential', 'inverse_time', 'natural_exp'])
@pytest.mark.parametrize('rate', [0.5, 1.25])
@pytest.mark.parametrize('min_value', [0.0, 0.05])
def test_decay_formulas(name, rate, min_value):
  decay = create_decay(
    {
      'name': name,
      'decay_steps': 10,
      'decay_rate': rate,
      'min_value': min_value,
    }
  )
  found = [decay(0.2, int(step)) for step in STEPS]
  expected = decayed_by(name, 0.2, rate, min_value)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


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
def test_decay_numbers_of_nsl(name, min_value, expected):
  decay = create_decay(
    {'name': name, 'decay_steps': 10, 'min_value': min_value}
  )
  np.testing.assert_allclose(decay(0.2, 25), expected, rtol=1e-6)


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
def test_a_wrong_decay_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    create_decay({'name': 'exponential'} | change)
