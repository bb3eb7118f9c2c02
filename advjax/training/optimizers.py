"""Optimizers, learning-rate schedules and the decay of the multiplier.

An optimizer here yields the direction of the update; the training step scales
it by `-learning_rate * schedule(step)`. So the learning rate stays a traced
number, and a schedule is a shape in [0, 1].
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from advjax.config import check_range, choose
from advjax.types import Array, ArrayLike

OPTIMIZERS = ('sgd', 'adam', 'adamw')
SCHEDULES = ('constant', 'cosine', 'one_cycle', 'piecewise')
DECAYS = ('constant', 'exponential', 'inverse_time', 'natural_exp')
_DECAY_FIELDS = ('name', 'decay_steps', 'decay_rate', 'min_value')


def create_optimizer(
  config: Mapping[str, Any],
) -> optax.GradientTransformation:
  """Builds the transformation of gradients into update directions.

  `weight_decay` is added to the gradient for sgd and adam (an l2 penalty), to
  the update for adamw.
  """
  name = choose('optimizer', config['name'], OPTIMIZERS)
  for field in ('b1', 'b2', 'momentum'):
    check_range(f'optimizer.{field}', config[field], 0.0, 1.0)
  for field in ('eps', 'weight_decay'):
    check_range(f'optimizer.{field}', config[field], 0.0)
  decay = optax.add_decayed_weights(config['weight_decay'])
  if name == 'sgd':
    return optax.chain(
      decay,
      optax.trace(decay=config['momentum'], nesterov=config['nesterov']),
    )
  adam = optax.scale_by_adam(config['b1'], config['b2'], config['eps'])
  return (
    optax.chain(decay, adam) if name == 'adam' else optax.chain(adam, decay)
  )


def create_schedule(
  config: Mapping[str, Any], num_steps: int
) -> optax.Schedule:
  """Builds the shape of the learning rate: step -> a factor in [0, 1].

  `warmup` is the share of the steps that rises from 0 (cosine, one_cycle, whose
  lines are straight); `boundaries` are shares of the run after which the rate
  is multiplied by `factor` (piecewise).
  """
  name = choose('schedule', config['name'], SCHEDULES)
  if name == 'constant':
    return optax.constant_schedule(1.0)
  if name == 'piecewise':
    check_range('schedule.factor', config['factor'], 0.0, 1.0)
    for index, boundary in enumerate(config['boundaries']):
      check_range(f'schedule.boundaries[{index}]', boundary, 0.0, 1.0)
    return optax.piecewise_constant_schedule(
      1.0,
      {
        int(share * num_steps): config['factor']
        for share in config['boundaries']
      },
    )
  check_range('schedule.warmup', config['warmup'], 0.0, 1.0)
  rise = int(config['warmup'] * num_steps)
  fall = max(num_steps - rise, 1)
  down = (
    optax.cosine_decay_schedule(1.0, fall)
    if name == 'cosine'
    else optax.linear_schedule(1.0, 0.0, fall)
  )
  up = optax.linear_schedule(0.0, 1.0, rise)
  return optax.join_schedules([up, down], [rise]) if rise else down


# (value, step) -> value at that step
Decay = Callable[[ArrayLike, ArrayLike], Array]


def create_decay(config: Mapping[str, Any]) -> Decay:
  """Builds the decay of `hparams.multiplier`: NSL's `decay_over_time`.

  With p = step / decay_steps:

  exponential:  max(value * decay_rate ** p, min_value)
  inverse_time: max(value / (1 + decay_rate * p), min_value)
  natural_exp:  max(value * exp(-decay_rate * p), min_value)
  constant:     value

  Trap: as in NSL, `min_value` also lifts a value that starts below it.
  """
  for field in config:
    choose('field of multiplier_decay', field, _DECAY_FIELDS)
  name = choose('multiplier_decay', config['name'], DECAYS)
  steps = config.get('decay_steps', 1000)
  rate = config.get('decay_rate', 0.96)
  low = config.get('min_value', 0.0)
  check_range('multiplier_decay.decay_steps', steps, 1, integer=True)
  check_range('multiplier_decay.decay_rate', rate, 0.0)
  check_range('multiplier_decay.min_value', low, 0.0)
  if name == 'constant':
    return lambda value, step: jnp.asarray(value)

  def decay(value: ArrayLike, step: ArrayLike) -> Array:
    progress = jnp.asarray(step) / steps
    if name == 'exponential':
      decayed = value * rate**progress
    elif name == 'inverse_time':
      decayed = value / (1 + rate * progress)
    else:
      decayed = value * jnp.exp(-rate * progress)
    return jnp.maximum(decayed, low)

  return decay
