"""A trained network as attacks, evaluation and explanations take it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial

from advjax.explain import Network
from advjax.models.adapters import Model
from advjax.types import Array, LogitsFn


def network_of(
  model: Model, params: Any, model_state: Any, name: str = 'the model'
) -> Network:
  """Returns a model with its parameters, as `advjax.explain` takes it.

  Args:
    model: The model, which runs in evaluation mode.
    params: Its parameters; they are traced, others do not recompile.
    model_state: Its BatchNorm statistics.
    name: What messages call it.

  Returns:
    The network; without the parts that the model does not expose.

  Example:
    >>> from advjax.models import create_model
    >>> model = create_model({'name': 'logistic_regression'}, 10)
    >>> images = jax.numpy.zeros((2, 4, 4, 1))
    >>> params, state = jax.jit(model.init)(jax.random.key(0), images)
    >>> network = network_of(model, params, state)
    >>> network.logits_fn(images).shape, network.features_fn
    ((2, 10), None)
  """

  def bound(function: Callable | None) -> Partial | None:
    return function and Partial(function, params, model_state)

  weights = model.class_weights
  return Network(
    name,
    eval_logits_fn(model, params, model_state, None),
    bound(model.features),
    bound(model.head),
    weights and weights(params),
  )


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
