"""Losses to attack with: one number per example, to be ascended.

They are computed in float32 or better, whatever the dtype of the logits, and
their gradients are finite wherever the logits are.
"""

from typing import Any

import jax
import jax.numpy as jnp

from advjax.types import Array

# Where logits differ by more than this the gradient no longer falls.
_SURE = 80


def cross_entropy(logits: Array, labels: Array) -> Array:
  """Cross-entropy of softmax(logits) with integer or soft labels.

  `loss = log(sum_j exp(z_j)) - z_y`, or `-sum_j p_j log softmax(z)_j` for
  labels that are distributions p. Integer labels take the equal form
  `softplus(log(sum_{j != y} exp(z_j)) - z_y)`, whose gradient does not vanish
  by rounding when the model is sure of itself: it is exp(-80) at least.

  Args:
    logits: `[B, K]`.
    labels: int `[B]` in [0, K), or float `[B, K]`.

  Returns:
    Loss `[B]`, float32 or float64.

  Raises:
    ValueError: if the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax import losses
    >>> losses.cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)
    Array([1.3863], dtype=float32)
  """
  logits, labels = _check_logits(logits, labels), jnp.asarray(labels)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    true, other = _true_and_other(logits, labels)
    return _softplus(jax.nn.logsumexp(other, axis=-1) - true)
  _check_same_shape(logits, labels)
  labels = labels.astype(logits.dtype)
  log_probs = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.where(labels == 0, 0, labels * log_probs), axis=-1)


def margin(logits: Array, labels: Array) -> Array:
  """Margin loss: `max_{j != y} z_j - z_y`, positive when misclassified.

  Carlini and Wagner 2016, arXiv 1608.04644.

  Args:
    logits: `[B, K]`.
    labels: int `[B]` in [0, K).

  Returns:
    Loss `[B]`, float32 or float64.

  Raises:
    ValueError: if the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax import losses
    >>> losses.margin(jnp.array([[1.0, 4.0, 2.0]]), jnp.array([1]))
    Array([-2.], dtype=float32)
  """
  logits = _check_logits(logits, labels)
  true, other = _true_and_other(logits, jnp.asarray(labels))
  return jnp.max(other, axis=-1) - true


def dlr(logits: Array, labels: Array) -> Array:
  """Difference of logits ratio, free of the logits' scale and shift.

  `loss = -(z_y - max_{j != y} z_j) / (z_1 - z_3 + 1e-12)`, where z_1 >= z_2 >=
  z_3 are the largest logits. Croce and Hein 2020, arXiv 2003.01690.

  Args:
    logits: `[B, K]` with K >= 3.
    labels: int `[B]` in [0, K).

  Returns:
    Loss `[B]`, float32 or float64.

  Raises:
    ValueError: if the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax import losses
    >>> losses.dlr(jnp.array([[1.0, 4.0, 2.0]]), jnp.array([1])).round(4)
    Array([-0.6667], dtype=float32)
  """
  logits = _rescale(_check_logits(logits, labels, least=3))
  true, other = _true_and_other(logits, jnp.asarray(labels))
  top = jax.lax.top_k(logits, 3)[0]
  return (jnp.max(other, axis=-1) - true) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Array, labels: Array, targets: Array) -> Array:
  """Targeted difference of logits ratio, ascended towards the targets.

  `loss = -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2 + 1e-12)`, where z_1 >= ... >=
  z_4 are the largest logits. Croce and Hein 2020, arXiv 2003.01690. It already
  points towards the targets: ascend it with
  `loss_fn=lambda logits, labels: targeted_dlr(logits, labels, targets)`, and do
  not give the attack `targets=` besides.

  Args:
    logits: `[B, K]` with K >= 4.
    labels: int `[B]` in [0, K).
    targets: int `[B]` in [0, K).

  Returns:
    Loss `[B]`, float32 or float64.

  Raises:
    ValueError: if the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax import losses
    >>> logits = jnp.array([[1.0, 4.0, 3.0, 1.0]])
    >>> losses.targeted_dlr(logits, jnp.array([1]), jnp.array([0]))
    Array([-1.], dtype=float32)
  """
  logits = _rescale(_check_logits(logits, labels, least=4))
  true, _ = _true_and_other(logits, jnp.asarray(labels))
  target, _ = _true_and_other(logits, jnp.asarray(targets), name='targets')
  top = jax.lax.top_k(logits, 4)[0]
  spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
  return (target - true) / (spread + 1e-12)


def kl(logits: Array, reference_logits: Array) -> Array:
  """Divergence of the prediction from a reference prediction, as in TRADES.

  `loss = sum_j p_j (log p_j - log q_j)`, with p = softmax(reference_logits) and
  q = softmax(logits). Zhang et al. 2019, arXiv 1901.08573. As a `loss_fn`, pass
  the clean logits as labels. Its gradient is zero where both are equal: an
  attack needs a random start.

  Args:
    logits: `[B, K]`, of the perturbed images.
    reference_logits: `[B, K]`, of the clean images; logits, not probabilities.

  Returns:
    Loss `[B]`, float32 or float64.

  Raises:
    ValueError: if the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax import losses
    >>> losses.kl(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 0.0]]))
    Array([0.], dtype=float32)
  """
  logits = _check_logits(logits, reference_logits)
  reference_logits = jnp.asarray(reference_logits)
  _check_same_shape(logits, reference_logits)
  log_p = jax.nn.log_softmax(reference_logits.astype(logits.dtype))
  log_q = jax.nn.log_softmax(logits)
  p = jnp.exp(log_p)
  # Far logits differ by more than the largest float: there 0 * -inf is 0.
  return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0), axis=-1)


def check_logits(logits: Any, batch: int, least: int = 2) -> None:
  """Raises a ValueError that says what a network returned, if no logits."""
  is_array = hasattr(logits, 'dtype') and hasattr(logits, 'shape')
  shape: Any = logits.shape if is_array else None
  is_real = is_array and jnp.issubdtype(logits.dtype, jnp.floating)
  if is_real and len(shape) == 2 and shape[0] == batch and shape[1] >= least:
    return
  way_out = '' if is_array else '; return the logits alone'
  if is_array and jnp.issubdtype(logits.dtype, jnp.integer):
    way_out = '; predicted classes have no gradient'
  elif is_real and least == 2 and shape in ((batch,), (batch, 1)):
    join = 'stack' if shape == (batch,) else 'concatenate'
    way_out = (
      '; a binary network with one logit z needs a second: '
      f'jnp.{join}([jnp.zeros_like(z), z], -1)'
    )
  raise ValueError(
    f'logits = {describe(logits)}; allowed: float [{batch}, K] with K >= '
    f'{least}, a row for each image{way_out}'
  )


def describe(value: Any) -> str:
  """Arrays, also those in a pytree, by dtype and shape; numbers as they are."""

  def leaf(x: Any) -> Any:
    is_unknown = isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)
    is_array = is_unknown or getattr(x, 'shape', None)
    return f'{x.dtype} {list(x.shape)}' if is_array else x

  return str(jax.tree.map(leaf, value))


def _check_logits(logits: Any, labels: Any, least: int = 2) -> Array:
  """The logits in float32 or better, one row for each of the labels."""
  rows = jnp.shape(labels) or jnp.shape(logits)
  check_logits(logits, rows[0] if rows else 0, least)
  array: Array = jnp.asarray(logits)
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@jax.custom_jvp
def _softplus(x: Array) -> Array:
  """log(1 + exp(x)), with a slope of exp(-80) at least."""
  result: Array = jax.nn.softplus(x)
  return result


@_softplus.defjvp
def _softplus_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
  x, y = primals[0], _softplus(*primals)
  wrong = x == jnp.inf
  difference = jnp.where(wrong, 0, x - jnp.where(wrong, 0, y))
  slope: Array = jnp.exp(jnp.maximum(difference, -_SURE))
  return y, slope * tangents[0]


def _check_same_shape(logits: Array, labels: Array) -> None:
  if labels.shape != logits.shape or not jnp.issubdtype(
    labels.dtype, jnp.floating
  ):
    raise ValueError(
      f'labels = {labels.dtype} {list(labels.shape)}; allowed: '
      f'int [{logits.shape[0]}] or float {list(logits.shape)}'
    )


def _true_and_other(
  logits: Array, labels: Array, name: str = 'labels'
) -> tuple[Array, Array]:
  """The logit of the label, [B], and all logits with -inf in its place."""
  if labels.shape != logits.shape[:1] or not jnp.issubdtype(
    labels.dtype, jnp.integer
  ):
    raise ValueError(
      f'{name} = {labels.dtype} {list(labels.shape)}; allowed: '
      f'int [{logits.shape[0]}]'
    )
  is_true = labels[:, None].astype(int) == jnp.arange(logits.shape[1])[None]
  true = jnp.sum(jnp.where(is_true, logits, 0), axis=-1)
  return true, jnp.where(is_true, -jnp.inf, logits)


def _rescale(logits: Array) -> Array:
  """Divides by the largest logit if above 1, which keeps all ratios."""
  largest = jnp.max(jnp.abs(logits), axis=-1, keepdims=True)
  return logits / jax.lax.stop_gradient(jnp.maximum(largest, 1))
