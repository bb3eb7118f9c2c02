"""The two-function seam between models and everything else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

PyTree = Any


class Model(NamedTuple):
  """A classifier as two pure functions.

  Attributes:
    init: `(key, images) -> (params, model_state)`; images is an example batch
      `[B, H, W, C]` in [0, 1], model_state is {} without BatchNorm.
    apply: `(params, model_state, images, *, train) -> (logits, model_state)`;
      logits `[B, K]` are float32 or wider, model_state is returned unchanged
      unless train is true.
  """

  init: Callable[..., tuple[PyTree, PyTree]]
  apply: Callable[..., tuple[Array, PyTree]]


def from_linen(module: nn.Module) -> Model:
  """Adapts a Linen module that is called as `module(images, train=...)`."""

  def init(key: Array, images: Array) -> tuple[PyTree, PyTree]:
    variables = dict(module.init(key, images, train=False))
    return variables.pop('params', {}), variables

  def apply(
    params: PyTree, model_state: PyTree, images: Array, *, train: bool
  ) -> tuple[Array, PyTree]:
    variables = {'params': params, **model_state}
    if not train or not model_state:
      logits = module.apply(variables, images, train=train)
      return _at_least_float32(logits), model_state
    logits, updated = module.apply(
      variables, images, train=True, mutable=list(model_state)
    )
    # Float64 images would widen the statistics, and a scan's carry with them.
    updated = jax.tree.map(
      lambda new, old: new.astype(old.dtype), dict(updated), dict(model_state)
    )
    return _at_least_float32(logits), updated

  return Model(init, apply)


def _at_least_float32(logits: Array) -> Array:
  return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
