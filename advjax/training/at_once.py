"""Steps of several runs in one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.training.objectives import Metrics
from advjax.types import Array


def make_train_runs(train_steps: Callable, *, batched: bool) -> Callable:
  """Builds the loop over several runs at once, on each device.

  Runs that wait (that have diverged, or are further than others) take no
  steps and stay as they are.

  Args:
    train_steps: From `make_train_steps`.
    batched: Whether to take each step of all runs together (`jax.vmap`, for
      accelerators), or run after run (`jax.lax.map`, for CPUs, where batched
      products are slow and each run rounds as it does alone).

  Returns:
    `train_runs(rank, states, data, inputs, num_steps) -> (states, history)`,
    where states, inputs, num_steps and history have a leading axis over runs;
    num_steps is the same number for all runs, or 0 for those that wait.

  Example:
    >>> double = make_train_runs(
    ...   lambda rank, state, data, inputs, steps: (2 * state, {}),
    ...   batched=False,
    ... )
    >>> states, _ = double(0, jnp.ones(3), None, jnp.ones(3), jnp.ones(3))
    >>> states.tolist()
    [2.0, 2.0, 2.0]
  """

  def by_map(
    rank: Array, states: Any, data: Any, inputs: Any, num_steps: Array
  ) -> tuple[Any, Metrics]:
    return jax.lax.map(
      lambda run: train_steps(rank, run[0], data, *run[1:]),
      (states, inputs, num_steps),
    )

  def by_vmap(
    rank: Array, states: Any, data: Any, inputs: Any, num_steps: Array
  ) -> tuple[Any, Metrics]:
    # A count per run would turn the loop into one that selects, step by step,
    # whose state changes: once at its end is enough.
    stepped, history = jax.vmap(train_steps, (None, 0, None, 0, None))(
      rank, states, data, inputs, num_steps.max()
    )

    def choose(new: Array, old: Array) -> Array:
      moves = num_steps.reshape(-1, *[1] * (new.ndim - 1)) > 0
      return jnp.where(moves, new, old)

    return jax.tree.map(choose, stepped, states), history

  return by_vmap if batched else by_map
