"""How a weight in the loss falls while training goes on."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from advjax.config import check_range, choose
from advjax.types import Array, ArrayLike

# (value, step) -> value at that step
Decay = Callable[[ArrayLike, ArrayLike], Array]

_FIELDS = ('name', 'decay_steps', 'decay_rate', 'min_value', 'staircase')
_NAMES = ('constant', 'exponential', 'inverse_time', 'natural_exp')


def create_decay(config: Mapping[str, Any]) -> Decay:
  """Builds the decay that a config names, as NSL's `decay_over_time` has it.

  With p = step / decay_steps, or its floor in a staircase:

  exponential:  max(value * decay_rate ** p, min_value)
  inverse_time: max(value / (1 + decay_rate * p), min_value)
  natural_exp:  max(value * exp(-decay_rate * p), min_value)
  constant:     value

  Trap: as in NSL, `min_value` also lifts a value that starts below it.

  Args:
    config: `name`, one of the four, and optionally `decay_steps` (default
      1000), `decay_rate` (0.96), `min_value` (0.0) and `staircase` (False).

  Returns:
    `decay(value, step)`; both may be traced, the value a float.

  Raises:
    ValueError: naming the field that is unknown or out of range.

  Example:
    >>> decay = create_decay(
    ...   {'name': 'inverse_time', 'decay_steps': 10, 'decay_rate': 0.5}
    ... )
    >>> float(decay(0.3, 20))
    0.15
  """
  for field in config:
    choose('field of multiplier_decay', field, _FIELDS)
  name = choose('multiplier_decay', config['name'], _NAMES)
  steps = config.get('decay_steps', 1000)
  rate = config.get('decay_rate', 0.96)
  low = config.get('min_value', 0.0)
  staircase = config.get('staircase', False)
  check_range('multiplier_decay.decay_steps', steps, 1, integer=True)
  check_range('multiplier_decay.decay_rate', rate, 0.0)
  check_range('multiplier_decay.min_value', low, 0.0)
  if not isinstance(staircase, bool):
    raise ValueError(
      f'multiplier_decay.staircase = {staircase!r}; allowed: True or False'
    )
  if name == 'constant':
    return lambda value, step: jnp.asarray(value)
  if name == 'exponential' and rate == 0:
    raise ValueError(
      f'multiplier_decay.decay_rate = {rate!r}; allowed: a number > 0'
    )
  if name == 'inverse_time':
    shape = _inverse_time(steps, rate, staircase)
  else:
    base = rate if name == 'exponential' else math.exp(-rate)
    shape = optax.exponential_decay(1.0, steps, base, staircase=staircase)
  return lambda value, step: jnp.maximum(value * shape(step), low)


def _inverse_time(steps: int, rate: float, staircase: bool) -> optax.Schedule:
  def schedule(step: Any) -> Array:
    progress = jnp.asarray(step) / steps
    return 1 / (1 + rate * (jnp.floor(progress) if staircase else progress))

  return schedule
