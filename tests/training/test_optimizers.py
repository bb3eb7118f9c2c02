"""Optimizers, schedules and decays by closed forms, and their errors."""

import math

import jax
import numpy as np
import pytest

from advjax.config import default_config
from advjax.training.optimizers import (
  create_decay,
  create_optimizer,
  create_schedule,
)


def shape(num_steps, **fields):
  config = {**default_config().schedule, **fields}
  schedule = create_schedule(config, num_steps)
  return jax.jit(jax.vmap(schedule))(np.arange(num_steps))


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
  found = jax.jit(jax.vmap(lambda step: decay(0.2, step)))(STEPS)
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
  ('section', 'fields', 'message'),
  [
    ('optimizer', {'name': 'adma'}, r"'adma'.*did you mean 'adam'"),
    ('optimizer', {'b1': 1.5}, r'b1 = 1.5; allowed: a number from 0.0 to 1.0'),
    ('optimizer', {'momentum': -0.1}, r'optimizer.momentum = -0.1'),
    ('optimizer', {'weight_decay': -1.0}, r'weight_decay = -1.0; allowed'),
    ('optimizer', {'eps': float('nan')}, r'optimizer.eps = nan'),
    ('schedule', {'name': 'cosin'}, r"'cosin'.*did you mean 'cosine'"),
    ('schedule', {'name': 'cosine', 'warmup': 1.5}, r'warmup = 1.5; allowed'),
    ('schedule', {'name': 'piecewise', 'factor': 2.0}, r'factor = 2.0'),
    (
      'schedule',
      {'name': 'piecewise', 'boundaries': (0.5, 1.5)},
      r'schedule.boundaries\[1\] = 1.5',
    ),
    ('multiplier_decay', {'name': 'exponental'}, r"did you mean 'exponential'"),
    ('multiplier_decay', {'decay_step': 2}, r"did you mean 'decay_steps'"),
    ('multiplier_decay', {'decay_steps': 2.5}, r'steps = 2.5; allowed: an int'),
    ('multiplier_decay', {'decay_rate': -1.0}, r'rate = -1.0; allowed: a numb'),
    ('multiplier_decay', {'min_value': float('inf')}, r'min_value = inf; allo'),
  ],
)
def test_a_wrong_field_is_named(section, fields, message):
  create = {
    'optimizer': create_optimizer,
    'schedule': lambda config: create_schedule(config, 10),
    'multiplier_decay': create_decay,
  }[section]
  with pytest.raises(ValueError, match=message):
    create({**default_config()[section], **fields})
