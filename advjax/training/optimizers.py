"""Optimizers and schedules from optax, without a learning rate inside.

An optimizer here yields the direction of the update; the train step scales
it by `-learning_rate * schedule(step)`. So the learning rate stays a traced
number, and a schedule is a shape in [0, 1].
"""

from collections.abc import Mapping
from typing import Any

import optax

from advjax.config import check_range, choose

OPTIMIZERS = ('sgd', 'adam', 'adamw')
SCHEDULES = ('constant', 'cosine', 'one_cycle', 'piecewise')


def create_optimizer(
  config: Mapping[str, Any],
) -> optax.GradientTransformation:
  """Builds the optimizer that a config names.

  Args:
    config: `name` ('sgd', 'adam' or 'adamw') and `b1`, `b2`, `eps` for the
      Adams, `momentum` and `nesterov` for SGD, `weight_decay` for all: added
      to the gradient for sgd and adam (an l2 penalty), to the update for
      adamw.

  Returns:
    A transformation of gradients into update directions.

  Raises:
    ValueError: if the name is unknown or a number is out of range.

  Example:
    >>> from advjax.config import default_config
    >>> tx = create_optimizer(default_config().optimizer)
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
  """Builds the shape of the learning rate over the steps of a run.

  Args:
    config: `name`, and `warmup` (for cosine and one_cycle: the share of the
      steps that rises from 0), `boundaries` and `factor` (for piecewise: the
      shares of the run after which the rate is multiplied by the factor).
      one_cycle rises and falls in straight lines.
    num_steps: Steps of the whole run.

  Returns:
    A function from the step to a factor in [0, 1].

  Raises:
    ValueError: if the name is unknown or a number is out of range.

  Example:
    >>> config = {'name': 'one_cycle', 'warmup': 0.5}
    >>> float(create_schedule(config, 100)(25))
    0.5
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
