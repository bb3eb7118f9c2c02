"""Logits of many images, in batches over all devices."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from advjax._arguments import error
from advjax.attacks._core.loop import call, fold
from advjax.callables import Callee
from advjax.devices import Batching, map_examples
from advjax.evaluation.checks import check_images
from advjax.losses import check_logits
from advjax.types import Array, LogitsFn

P = ParamSpec('P')
R = TypeVar('R')


class NotFinite(ValueError):
  """A network returns logits that are NaN or infinite."""


def matmul_precision() -> str | None:
  """Returns the precision that JAX's config names, None if it names none."""
  return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
  """Makes an evaluation compute float32 products in float32.

  By default JAX rounds their factors, to TF32 on GPUs and to bfloat16 on TPUs.
  A precision that the caller has set stays.
  """

  @functools.wraps(function)
  def run(*args: P.args, **kwargs: P.kwargs) -> R:
    with jax.default_matmul_precision(matmul_precision() or 'highest'):
      return function(*args, **kwargs)

  return run


def _logits(
  eot_samples: int | None, images: Array, keys: Array, network: Callee
) -> Array:
  if eot_samples is None:
    logits = call(network, images)
  else:
    samples = jax.lax.map(
      lambda sample: call(network, images, fold(keys, sample)),
      jnp.arange(eot_samples, dtype=jnp.uint32),
    )
    logits = jnp.mean(samples, axis=0)
  check_logits(logits, len(images))
  return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


@full_precision
def compute_logits(
  logits_fn: LogitsFn,
  images: np.ndarray,
  batching: Batching | None = None,
  *,
  eot_samples: int | None = None,
  check: bool = True,
) -> np.ndarray:
  """Computes the logits of many images, and checks that they are logits.

  f(x_i), or the mean of f(x_i, key) over eot_samples keys

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, floating, in the pixel range that logits_fn takes.
    batching: Batch size, devices, and the key of random networks.
    eot_samples: Draws to average over; None: `logits_fn(images)` alone.
    check: Whether the values are checked; logits of adversarial examples may
      be infinite.

  Returns:
    float32 `[N, K]`, or float64 if the logits are.

  Raises:
    ValueError: if there are no images, if a logit is not finite (`NotFinite`),
      or if logits_fn returns probabilities, which weaken every attack.

  Example:
    >>> compute_logits(lambda x: 10 * x, np.eye(2, dtype=np.float32)).tolist()
    [[10.0, 0.0], [0.0, 10.0]]
  """
  images = check_images(images)
  logits = map_examples(
    _logits,
    [images],
    Callee.of(logits_fn),
    static=(eot_samples,),
    batching=batching or Batching(),
  )
  if not check:
    return logits
  finite = np.isfinite(logits).all(-1)
  if not finite.all():
    raise NotFinite(
      f'logits_fn returns logits that are not finite for {(~finite).sum()} '
      f'of {len(images)} images; allowed: finite logits'
    )
  # A row of probabilities: nothing negative, and a sum of 1.
  sums_to_one = abs(logits.sum(-1) - 1) < 1e-3
  if len(images) > 1 and (sums_to_one & (logits >= 0).all(-1)).all():
    raise ValueError(
      'logits_fn returns probabilities: every row is >= 0 and sums to 1; '
      'allowed: logits, without the softmax'
    )
  return logits


def in_top_k(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
  """Whether the label's logit is among the k largest, bool `[...]`.

  Of equal logits the first classes count as the largest, as in argmax.
  """
  if k == 1:
    return logits.argmax(-1) == labels
  num_classes = logits.shape[-1]
  if not 1 <= k < num_classes:
    raise error('top_k', k, f'1 to {num_classes - 1}, of {num_classes} classes')
  # NaN counts as the largest, as in argmax.
  ranked = np.where(np.isnan(logits), np.inf, logits)
  classes = np.argsort(-ranked, axis=-1, kind='stable')[..., :k]
  return (classes == labels[..., None]).any(-1)
