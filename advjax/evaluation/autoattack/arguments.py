"""What AutoAttack is given, checked."""

from typing import Any

import jax
import numpy as np

from advjax import norms
from advjax.attacks._core import arguments
from advjax.evaluation.autoattack import versions
from advjax.evaluation.autoattack.rounds import Shared
from advjax.evaluation.batches import check_images, check_labels
from advjax.types import Array, Bounds, LogitsFn


def check_arguments(
  logits_fn: LogitsFn,
  images: Any,
  labels: Any,
  epsilon: Any,
  norm: str,
  version: str,
  bounds: Bounds,
  key: Array,
) -> tuple[np.ndarray, np.ndarray, Shared]:
  """Checks the arguments of `autoattack` before any compute is spent.

  Returns:
    Images, labels, and what all examples share.
  """
  if any(isinstance(x, jax.core.Tracer) for x in (images, labels, epsilon)):
    raise ValueError(
      'autoattack works on the host, but was called on traced values; inside '
      'jit, vmap or pmap use advjax.apgd or advjax.pgd'
    )
  if norm not in norms.NORMS:
    raise ValueError(f'norm = {norm!r}; allowed: {", ".join(norms.NORMS)}')
  if np.ndim(epsilon) != 0:
    raise ValueError(f'epsilon = {epsilon!r}; allowed: one number')
  images = np.asarray(images)
  check_images(images, 1)
  if key is None:
    raise ValueError('key must be a key of jax.random.key; got None')
  eot_samples = versions.eot_samples(version)
  labels = np.asarray(labels)
  if eot_samples is None:
    labels = check_labels(labels, images, logits_fn)
  elif labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'labels have shape {labels.shape} and dtype {labels.dtype}; allowed: '
      f'integers of shape {images.shape[:1]}'
    )
  problem = arguments.check(
    logits_fn,
    images,
    np.asarray(labels, np.int32),
    epsilon=epsilon,
    bounds=bounds,
    key=key,
    eot_samples=eot_samples,
  )
  box = problem.lower, problem.upper
  if any(len(bound) > 1 for bound in box):
    raise ValueError(
      'bounds must broadcast to one image, '
      f'{images.shape[1:]}; got shapes {[bound.shape for bound in box]}'
    )
  key = arguments.threefry(key)
  if key.ndim:
    raise ValueError(f'key must be one key; got {len(key)} keys')
  lower, upper = (np.asarray(bound, problem.dtype) for bound in box)
  return images, problem.labels, Shared(problem.epsilon, lower, upper, key)
