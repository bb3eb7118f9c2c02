"""Gradual unfreezing: fine-tuning from the head backwards, stage by stage.

At first only the head is trained. Each time the training loss stops falling,
the next stage towards the images is unfrozen, until all are. Neither the
parameters of frozen stages change nor their BatchNorm statistics. (Howard and
Ruder 2018, arXiv 1801.06146, unfreeze by epoch.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advjax.config import check_range
from advjax.training.optimizers import create_optimizer


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
