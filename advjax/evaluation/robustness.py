"""Robust accuracy: the worst case of several attacks on every image."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from advjax.evaluation.attacked import AttackFn, attack_and_predict
from advjax.evaluation.batches import check_images, check_labels
from advjax.evaluation.logits import Devices, full_precision, predict
from advjax.types import Array, LogitsFn


class RobustAccuracy(NamedTuple):
  """Which images a network classifies correctly, clean and under attacks.

  Attributes:
    clean: bool `[N]`.
    attacked: For every attack, bool `[N]`: correct on the clean image and on
      the one that this attack makes.
    worst_case: bool `[N]`: correct under all of them. Its mean is the robust
      accuracy.
  """

  clean: np.ndarray
  attacked: dict[str, np.ndarray]
  worst_case: np.ndarray


@full_precision
def robust_accuracy(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  attacks: Mapping[str, AttackFn],
  epsilon: float,
  *,
  key: Array,
  batch_size: int = 64,
  devices: Devices | None = None,
) -> RobustAccuracy:
  """Attacks a network with several attacks; worst case per example.

  correct_i = [f(x_i) = y_i] and, for every attack a, [f(a(x_i)) = y_i]

  Float32 products are computed in float32 on accelerators too, unless
  `jax.default_matmul_precision` says otherwise.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    images: `[N, ...]`, floating, in the pixel range.
    labels: int `[N]`.
    attacks: By name, in the form that `attack_and_predict` takes.
    epsilon: Radius, in the units of the pixels.
    key: Example i gets `fold_in(key, i)`.
    batch_size: Images per device and call.
    devices: Default: all local ones.

  Returns:
    A table of booleans per example.

  Raises:
    ValueError: as `predict` and `attack_and_predict`.

  Example:
    >>> import jax
    >>> import numpy as np
    >>> from advjax.attacks.specs import parse_attack
    >>> table = robust_accuracy(
    ...   lambda x: 10 * x,
    ...   np.eye(3, dtype=np.float32),
    ...   np.arange(3),
    ...   {'fgsm': parse_attack('fgsm')},
    ...   0.9,
    ...   key=jax.random.key(0),
    ... )
    >>> float(table.clean.mean()), float(table.worst_case.mean())
    (1.0, 0.0)
  """
  images = np.asarray(images)
  check_images(images, batch_size)
  labels = check_labels(labels, images, logits_fn)
  clean = labels == predict(
    logits_fn, images, batch_size=batch_size, devices=devices
  )
  attacked = {}
  for name, attack in attacks.items():
    result = attack_and_predict(
      logits_fn,
      {'network': logits_fn},
      attack,
      images,
      labels,
      [epsilon],
      key=key,
      batch_size=batch_size,
      devices=devices,
    )
    attacked[name] = clean & (result.predictions['network'][0] == labels)
  worst_case = functools.reduce(np.logical_and, attacked.values(), clean)
  return RobustAccuracy(clean, attacked, worst_case)
