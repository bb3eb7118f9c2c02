"""What a network says of many images, in batches over all devices."""

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks._core.loop import call, fold
from advjax.callables import Callee
from advjax.evaluation.batches import batches, check_images
from advjax.processes.collectives import gather, own_ranks
from advjax.types import Array, LogitsFn

Devices = Sequence[jax.Device]


P = ParamSpec('P')
R = TypeVar('R')


class NotFinite(ValueError):
  """A network returns logits that are NaN or infinite."""


def matmul_precision() -> str | None:
  """Returns the precision that JAX's config names, None if it names none."""
  return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
  """Makes an evaluation compute float32 products in float32.

  By default JAX rounds their factors, to TF32 on GPUs and to bfloat16 on TPUs,
  which can change what an attack finds. A precision that the caller has set,
  by `jax.default_matmul_precision` or JAX's config, stays.

  Args:
    function: What runs networks.

  Returns:
    The same at the precision 'highest'.

  Example:
    >>> full_precision(matmul_precision)()
    'highest'
  """

  @functools.wraps(function)
  def run(*args: P.args, **kwargs: P.kwargs) -> R:
    with jax.default_matmul_precision(matmul_precision() or 'highest'):
      return function(*args, **kwargs)

  return run


def own_devices(devices: Devices) -> tuple[jax.Device, ...]:
  """Returns those of the devices that are this process's."""
  return tuple(devices[rank] for rank in own_ranks(devices))


@functools.lru_cache(maxsize=64)
def _program(
  devices: tuple[jax.Device, ...], eot_samples: int | None
) -> Callable:
  def logits_of(
    images: Array, indices: Array, network: Callee, key: Array
  ) -> Array:
    if eot_samples is None:
      logits = network(images)
    else:
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
      samples = jax.lax.map(
        lambda sample: call(network, images, fold(keys, sample)),
        jnp.arange(eot_samples, dtype=jnp.uint32),
      )
      logits = jnp.mean(samples, axis=0)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  return jax.pmap(logits_of, in_axes=(0, 0, None, None), devices=list(devices))


@full_precision
def compute_logits(
  logits_fn: LogitsFn,
  images: np.ndarray,
  *,
  batch_size: int = 64,
  devices: Devices | None = None,
  key: Array | None = None,
  eot_samples: int | None = None,
  check: bool = True,
) -> np.ndarray:
  """Computes the logits of many images, and checks that they are logits.

  f(x_i), or the mean of f(x_i, key) over eot_samples keys

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, floating, in the pixel range that logits_fn takes.
    batch_size: Images per device and call.
    devices: Default: all local ones.
    key: For networks that draw: example i gets `fold_in(key, i)`.
    eot_samples: Draws to average over, or None: `logits_fn(images)` alone.
    check: Whether the values are checked; those on perturbed images may well
      be infinite.

  Returns:
    float32 `[N, K]`, or float64 if the logits are.

  Raises:
    ValueError: if there are no images, if a logit is not finite (`NotFinite`),
      or if logits_fn returns probabilities, which weaken every attack.

  Example:
    >>> import numpy as np
    >>> compute_logits(lambda x: 10 * x, np.eye(2, dtype=np.float32)).tolist()
    [[10.0, 0.0], [0.0, 10.0]]
  """
  images = np.asarray(images)
  check_images(images, batch_size)
  devices = tuple(devices or jax.local_devices())
  own = own_ranks(devices)
  program = _program(own_devices(devices), eot_samples)
  network = Callee.of(logits_fn)
  key = jax.random.key(0) if key is None else key
  parts = []
  no_labels = np.zeros(len(images), np.int32)
  for batch in batches(images, no_labels, batch_size, len(devices)):
    found = program(batch.images[own], batch.indices[own], network, key)
    rows = gather(found, devices)
    parts.append(rows.reshape(-1, *rows.shape[2:])[: batch.num_real])
  logits = np.concatenate(parts)
  if logits.ndim != 2:
    raise ValueError(
      f'logits_fn returns shape {logits.shape} for {len(images)} images; '
      f'allowed: [{len(images)}, K]'
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


def predict(
  logits_fn: LogitsFn,
  images: np.ndarray,
  *,
  batch_size: int = 64,
  devices: Devices | None = None,
  check: bool = True,
) -> np.ndarray:
  """Predicts the classes of many images, in batches over all devices.

  argmax_k f(x_i)_k

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, in the pixel range that logits_fn takes.
    batch_size: Images per device and call.
    devices: Default: all local ones.
    check: As `compute_logits` takes it.

  Returns:
    int32 `[N]`.

  Raises:
    ValueError: if there are no images, if a logit is not finite (`NotFinite`),
      or if logits_fn returns probabilities, which weaken every attack.

  Example:
    >>> import numpy as np
    >>> predict(lambda x: 10 * x, np.eye(3, dtype=np.float32)).tolist()
    [0, 1, 2]
  """
  logits = compute_logits(
    logits_fn, images, batch_size=batch_size, devices=devices, check=check
  )
  return logits.argmax(-1).astype(np.int32)
