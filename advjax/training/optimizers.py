"""Optimizers, schedules, decays of the multiplier, and gradual unfreezing.

An optimizer here yields the direction of the update; the training step scales
it by `-learning_rate * schedule(step)`. So the learning rate stays a traced
number, and a schedule is a shape in [0, 1].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advjax.config import check_range, choose
from advjax.training.step import Decay
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
  name = choose('optimizer.name', config['name'], OPTIMIZERS)
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
  name = choose('schedule.name', config['name'], SCHEDULES)
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
  name = choose('multiplier_decay.name', config['name'], DECAYS)
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


# ----------------------------------------------------------- gradual unfreezing
#
# At first only the head is trained. Each time the training loss stops falling,
# the next stage towards the images is unfrozen, until all are. Neither the
# parameters of frozen stages change nor their BatchNorm statistics. (Howard and
# Ruder 2018, arXiv 1801.06146, unfreeze by epoch.)


def check_unfreezing(
  config: Mapping[str, Any],
  stages: Sequence[Sequence[str]],
  params: Mapping[str, Any],
) -> None:
  """Checks the config of unfreezing, and that each part is in one stage.

  `patience` is in epochs without improvement before the next stage is unfrozen;
  `min_improvement` is the relative decrease of the loss that counts as one;
  `rate_factor` is the learning rate of a stage relative to the next one's,
  towards the head. `params` are the network's, or their shapes.
  """
  check_range('unfreezing.patience', config['patience'], 1, integer=True)
  check_range(
    'unfreezing.min_improvement', config['min_improvement'], 0.0, 0.99
  )
  check_range('unfreezing.rate_factor', config['rate_factor'], 0.0, 1.0)
  if not stages:
    raise ValueError(
      f"unfreezing.name = {config['name']!r}; allowed: 'none', for this "
      'network has no stages (ResNets and those of keras.applications have)'
    )
  names = [name for stage in stages for name in stage]
  wrong = [name for name in params if names.count(name) != 1]
  if wrong:
    raise ValueError(
      f'Model.stages = {stages}; allowed: each entry of params once, which '
      f'{", ".join(wrong)} is not'
    )


def num_frozen(
  losses: Sequence[float], config: Mapping[str, Any], num_stages: int
) -> int:
  """Returns how many stages are frozen after epochs of such mean losses.

  All but the head, and one fewer each time that the loss has not come below
  (1 - min_improvement) times its lowest value since the last unfreezing for
  `patience` epochs in a row. A function of the losses alone, so that a resumed
  run has the same stages frozen.
  """
  frozen, best, waited = num_stages - 1, float('inf'), 0
  for loss in losses:
    improved = loss < (1 - config['min_improvement']) * best
    best, waited = (loss, 0) if improved else (best, waited + 1)
    if waited == config['patience']:
      frozen, best, waited = max(frozen - 1, 0), float('inf'), 0
  return frozen


def staged_optimizer(
  config: Mapping[str, Any],
  stages: Sequence[Sequence[str]],
  rate_factor: float,
  num_frozen: int,
) -> optax.GradientTransformation:
  """Builds an optimizer with a state and a learning rate for each stage.

  direction_s <- rate_factor^(S - 1 - s) direction(gradient_s), 0 where frozen

  A frozen stage keeps its initial optimizer state. The state has the same
  structure whatever is frozen.
  """
  optimizer = create_optimizer(config)
  last = len(stages) - 1
  transforms = {
    index: _frozen(optimizer)
    if index < num_frozen
    else optax.chain(optimizer, optax.scale(rate_factor ** (last - index)))
    for index in range(len(stages))
  }
  stage_of = {name: i for i, names in enumerate(stages) for name in names}

  def labels(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
      name: jax.tree.map(lambda _, n=name: stage_of[n], tree)
      for name, tree in params.items()
    }

  return optax.multi_transform(transforms, labels)


def _frozen(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Zero updates, with the optimizer state of a stage that is scaled."""
  scaled = optax.chain(optimizer, optax.scale(0.0))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return jax.tree.map(jnp.zeros_like, updates), state

  return optax.GradientTransformation(scaled.init, update)
