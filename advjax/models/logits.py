"""A trained network as attacks and evaluation take it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial

from advjax.models.adapters import Model
from advjax.types import Array, LogitsFn


def eval_logits_fn(
  model: Model,
  params: Any,
  model_state: Any,
  matmul_precision: str | None = 'highest',
) -> LogitsFn:
  """Returns a network in evaluation mode as a function to logits.

  `params` are traced. A `matmul_precision` of None leaves that of float32
  products to the caller's configuration.
  """
  return Partial(
    _eval_logits, model.apply, matmul_precision, params, model_state
  )


def _eval_logits(
  apply: Callable,
  matmul_precision: str | None,
  params: Any,
  model_state: Any,
  images: Array,
) -> Array:
  if matmul_precision is None:  # Inside the context it would undo the caller's.
    return apply(params, model_state, images, train=False)[0]
  with jax.default_matmul_precision(matmul_precision):
    return apply(params, model_state, images, train=False)[0]
