"""How a weight in the loss falls while training goes on."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from advjax.config import check_range, choose
from advjax.types import Array, ArrayLike

# (value, step) -> value at that step
Decay = Callable[[ArrayLike, ArrayLike], Array]

_FIELDS = ('name', 'decay_steps', 'decay_rate', 'min_value')
_NAMES = ('constant', 'exponential', 'inverse_time', 'natural_exp')


def create_decay(config: Mapping[str, Any]) -> Decay:
  """Builds the decay that a config names, as NSL's `decay_over_time` has it.

  With p = step / decay_steps:

  exponential:  max(value * decay_rate ** p, min_value)
  inverse_time: max(value / (1 + decay_rate * p), min_value)
  natural_exp:  max(value * exp(-decay_rate * p), min_value)
  constant:     value

  Trap: as in NSL, `min_value` also lifts a value that starts below it.

  Args:
    config: `name`, one of the four, and optionally `decay_steps` (default
      1000), `decay_rate` (0.96) and `min_value` (0.0).

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
