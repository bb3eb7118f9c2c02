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

  Args:
    model: The network.
    params: Its parameters; traced, so that other ones compile nothing again.
    model_state: Its BatchNorm statistics.
    matmul_precision: Of float32 products on accelerators, in the network and
      in its gradients: a name of `jax.default_matmul_precision`; None leaves it
      to the caller's configuration, by default TF32 on GPUs and bfloat16 on
      TPUs.

  Returns:
    A function from images `[B, H, W, C]` to logits `[B, K]`.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.models import create_model
    >>> model = create_model({'name': 'logistic_regression'}, 10)
    >>> images = jnp.zeros((2, 28, 28, 1))
    >>> logits_fn = eval_logits_fn(
    ...   model, *model.init(jax.random.key(0), images)
    ... )
    >>> logits_fn(images).shape
    (2, 10)
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
