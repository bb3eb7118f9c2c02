"""Hyperplanes between classes, where the logits are linearised at a point."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks import hyperplane
from advjax.attacks import inputs as inputs_lib
from advjax.norms import expand
from advjax.types import Array, LogitsFn


class Plane(NamedTuple):
  """A hyperplane as seen from a point: onto it if `<weights, step> = gap`.

  Finite: a gradient that is not counts as 0, a gap that is not as 0.
  """

  weights: Array  # [B, D], float32 or better
  gap: Array  # [B]


def towards(
  logits_fn: LogitsFn, point: Array, labels: Array, targets: Array
) -> tuple[Plane, Array]:
  """The hyperplane where the logits of label and target are equal.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`.
    point: float `[B, ...]`, where to linearise: one pass forward and backward.
    labels: int `[B]`.
    targets: int `[B]`.

  Returns:
    The plane and the logits `[B, K]`, behind stop_gradient.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks import planes
    >>> logits_fn = lambda x: jnp.stack([2 * x[:, 0], x[:, 1]], axis=-1)
    >>> classes = jnp.array([0]), jnp.array([1])
    >>> planes.towards(logits_fn, jnp.array([[0.5, 0.25]]), *classes)[0]
    Plane(weights=Array([[-2.,  1.]], dtype=float32),
          gap=Array([0.75], dtype=float32))
  """

  def difference(point: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = logits_fn(point)
    result = _pick(logits, targets) - _pick(logits, labels)
    return jnp.sum(result), (result, logits)

  gradient, (value, logits) = jax.grad(difference, has_aux=True)(point)
  return _plane(gradient, value), jax.lax.stop_gradient(logits)


def nearest(
  logits_fn: LogitsFn, point: Array, labels: Array, norm: str
) -> tuple[Plane, Array]:
  """The nearest hyperplane between the label and another class, without a box.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`.
    point: float `[B, ...]`, where to linearise: one pass forward and one
      backward for each class but the label.
    labels: int `[B]`.
    norm: 'linf', 'l2' or 'l1'.

  Returns:
    The plane and the logits `[B, K]`, behind stop_gradient. Where there is no
    plane at all, its weights are 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks import planes
    >>> logits_fn = lambda x: jnp.stack([2 * x[:, 0], x[:, 1]], axis=-1)
    >>> point, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> planes.nearest(logits_fn, point, labels, 'l2')[0]
    Plane(weights=Array([[-2.,  1.]], dtype=float32),
          gap=Array([0.75], dtype=float32))
  """
  logits, pullback = jax.vjp(logits_fn, point)
  label = _pick(logits, labels)

  def look(best: Any, other: Array) -> tuple[Any, None]:
    classes = other + (other >= labels)  # The label is left out.
    (gradient,) = pullback(_one_hot(classes, logits) - _one_hot(labels, logits))
    value = _pick(logits, classes) - label
    plane = _plane(gradient, value)
    # Of the value as it is: NaN or infinite, it is not the nearest.
    distance = hyperplane.distance(norm, plane.weights, value)
    new = plane, jax.lax.stop_gradient(distance).astype(best[1].dtype)
    nearer = new[1] < best[1]
    return jax.tree.map(
      lambda n, o: jnp.where(expand(nearer, n), n, o), new, best
    ), None

  # One class after the other: the memory of one gradient, not of K.
  nothing = _plane(jnp.zeros_like(point), jnp.zeros_like(label))
  best = nothing, jnp.full_like(nothing.gap, jnp.inf)
  others = jnp.arange(logits.shape[1] - 1)
  (plane, _), _ = jax.lax.scan(look, best, others)
  return plane, jax.lax.stop_gradient(logits)


def _plane(gradient: Array, value: Array) -> Plane:
  """Where value, made linear by its gradient, is 0."""

  def finite(x: Array) -> Array:
    x = jax.lax.stop_gradient(x)
    wide = inputs_lib.compute_dtype(gradient)
    return jnp.where(jnp.isfinite(x), x, 0).astype(wide)

  flat = gradient.reshape(len(gradient), math.prod(gradient.shape[1:]))
  return Plane(finite(flat), -finite(value))


def _one_hot(classes: Array, logits: Array) -> Array:
  return jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype)


def _pick(logits: Array, classes: Array) -> Array:
  """The logits of one class per row, in float32 or better: [B]."""
  wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  return jnp.sum(jnp.where(_one_hot(classes, logits) > 0, wide, 0), axis=1)
