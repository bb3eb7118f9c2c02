"""Is the true class among the k that a network holds for the likeliest?"""

import jax
import numpy as np

from advjax.evaluation.logits import Devices, compute_logits
from advjax.types import Array, LogitsFn


def in_top_k(
  logits: Array | np.ndarray, labels: Array | np.ndarray, k: int
) -> Array:
  """Whether the logit of the label is among the k largest.

  `[y_i in {the k classes of largest f(x_i)}]`; of equal logits the first
  classes count as the largest, as argmax has it.

  Args:
    logits: `[..., K]`.
    labels: int `[...]` in [0, K).
    k: How many, at least 1 and fewer than the classes.

  Returns:
    bool `[...]`.

  Raises:
    ValueError: if k is out of range.

  Example:
    >>> in_top_k(np.array([[3.0, 1.0, 2.0]]), np.array([2]), 2).tolist()
    [True]
  """
  num_classes = logits.shape[-1]
  if not 1 <= k < num_classes:
    raise ValueError(
      f'top_k = {k}; allowed: 1 to {num_classes - 1}, for there are '
      f'{num_classes} classes'
    )
  classes = jax.lax.top_k(logits, k)[1]
  return (classes == labels[..., None]).any(-1)


def predict_in_top_k(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  k: int,
  *,
  batch_size: int = 64,
  devices: Devices | None = None,
  check: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
  """Predicts the classes of many images, and looks for the label in the top k.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, in the pixel range that logits_fn takes.
    labels: int `[N]`.
    k: As `in_top_k` takes it.
    batch_size: Images per device and call.
    devices: Default: all local ones.
    check: As `compute_logits` takes it.

  Returns:
    Predictions int32 `[N]`, and whether the label is in the top k, bool `[N]`.

  Raises:
    ValueError: as `compute_logits` and `in_top_k`.

  Example:
    >>> predictions, found = predict_in_top_k(
    ...   lambda x: 10 * x, np.eye(3, dtype=np.float32), np.array([0, 0, 2]), 2
    ... )
    >>> predictions.tolist(), found.tolist()
    ([0, 1, 2], [True, True, True])
  """
  logits = compute_logits(
    logits_fn, images, batch_size=batch_size, devices=devices, check=check
  )
  return (
    logits.argmax(-1).astype(np.int32),
    np.asarray(in_top_k(logits, labels, k)),
  )
