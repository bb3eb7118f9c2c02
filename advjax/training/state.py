"""The state of a training run: one pytree."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.models import Model
from advjax.types import Array


class TrainState(NamedTuple):
  """Everything that a step changes.

  Attributes:
    step: Steps done, int32 `[]`.
    params: The network's parameters.
    model_state: BatchNorm statistics, or an empty dictionary.
    opt_state: The optimizer's state.
    ema_params: The moving average of params, or None without one.
  """

  step: Array
  params: Any
  model_state: Any
  opt_state: Any
  ema_params: Any


def create_state(
  model: Model,
  optimizer: optax.GradientTransformation,
  images: Array,
  key: Array,
  *,
  with_ema: bool = False,
) -> TrainState:
  """Initialises the network and its optimizer.

  Args:
    model: The network; it starts from its trained weights if it has any.
    optimizer: From `create_optimizer`.
    images: An example batch `[B, H, W, C]`, float32 in [0, 1].
    key: Draws the initial weights.
    with_ema: Whether to keep a moving average of the params.

  Returns:
    The state before the first step.

  Example:
    >>> from advjax.config import default_config
    >>> from advjax.models import create_model
    >>> from advjax.training.optimizers import create_optimizer
    >>> model = create_model({'name': 'logistic_regression'}, 10)
    >>> optimizer = create_optimizer(default_config().optimizer)
    >>> images = jnp.zeros((1, 28, 28, 1))
    >>> state = create_state(model, optimizer, images, jax.random.key(0))
    >>> int(state.step)
    0
  """
  # It runs once: compiling it well would take longer than it saves.
  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', True)
  try:
    params, model_state = jax.jit(model.init)(key, images)
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
  if model.pretrained is not None:
    trained = model.pretrained(params, model_state)
    params, model_state = jax.tree.map(jnp.array, trained)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=optimizer.init(params),
    ema_params=jax.tree.map(jnp.copy, params) if with_ema else None,
  )


def evaluation_params(state: TrainState) -> Any:
  """Returns the params to evaluate: the moving average where there is one.

  Args:
    state: A training state.

  Returns:
    `state.ema_params` or `state.params`.

  Example:
    >>> evaluation_params(TrainState(0, 'params', {}, (), None))
    'params'
  """
  return state.params if state.ema_params is None else state.ema_params


def num_params(params: Mapping[str, Any]) -> int:
  """Returns the number of parameters.

  Args:
    params: A pytree of arrays.

  Returns:
    The number of their elements.

  Example:
    >>> num_params({'kernel': jnp.zeros((3, 2)), 'bias': jnp.zeros(2)})
    8
  """
  return sum(leaf.size for leaf in jax.tree.leaves(params))
