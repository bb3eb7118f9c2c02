"""Metrics over a split, and the robust accuracy during training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks import pgd
from advjax.data import Split, to_float
from advjax.devices import AXIS, parallelize
from advjax.losses import cross_entropy
from advjax.processes.collectives import own_ranks
from advjax.training.objectives import Metrics, Objective
from advjax.training.step import reduce_metrics
from advjax.types import Array

# Catastrophic overfitting loses most of the robust accuracy within an epoch.
_COLLAPSE_RATIO = 0.5
_COLLAPSE_DROP = 0.2


def make_evaluate(
  apply: Callable,
  objective: Objective,
  devices: Sequence[jax.Device],
  *,
  batch_size: int,
  matmul_precision: str = 'highest',
) -> Callable[..., dict[str, float]]:
  """Builds a function that averages an objective's metrics over a split.

  `evaluate(params, model_state, split, hparams, key) -> metrics`: the network
  in evaluation mode, `batch_size` images per device, the last batch padded.
  """

  def apply_eval(
    params: Any, model_state: Any, images: Array, *, train: bool
  ) -> tuple[Array, Any]:
    del train
    with jax.default_matmul_precision(matmul_precision):
      return apply(params, model_state, images, train=False)

  def per_device(
    rank: Array, batch: Mapping[str, Array], others: tuple[Any, ...]
  ) -> dict[str, Array]:
    del rank
    params, model_state, hparams, key = others
    mask = batch['mask']
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch['index'])
    batch = {
      'image': to_float(batch['image']),
      'label': batch['label'],
      'weight': mask / jax.lax.psum(mask.sum(), AXIS),
    }
    _, (_, metrics) = objective(
      apply_eval, params, model_state, batch, hparams, keys
    )
    return reduce_metrics(metrics, mask)

  mapped = parallelize(
    per_device, devices, num_args=2, split_args=(0,), donate=False
  )

  def evaluate(
    params: Any,
    model_state: Any,
    split: Split,
    hparams: Mapping[str, float],
    key: Array,
  ) -> dict[str, float]:
    num_examples, own = len(split.labels), own_ranks(devices)
    shape = (len(devices), min(batch_size, -(-num_examples // len(devices))))
    rows = shape[0] * shape[1]
    totals: dict[str, float] = {}
    for start in range(0, num_examples, rows):
      order = start + np.arange(rows).reshape(shape)
      index = order % num_examples
      mask = (order < num_examples).astype(np.float32)
      batch = {
        'image': split.images[index[own]],
        'label': split.labels[index[own]],
        'index': index[own].astype(np.int32),
        'mask': mask[own],
      }
      means = mapped(batch, (params, model_state, hparams, key))
      for name, mean in means.items():
        total = totals.get(name, 0.0) + float(mean[0]) * float(mask.sum())
        totals[name] = total
    return {name: total / num_examples for name, total in totals.items()}

  return evaluate


def robust_accuracy_objective(num_steps: int) -> Objective:
  """Returns PGD accuracy (linf, random start) in the form of an objective.

  The step size is 2.5 epsilon / num_steps (Madry et al. 2017, 1706.06083).
  """

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels = batch['image'], batch['label']

    def logits_fn(images: Array) -> Array:
      return apply(params, model_state, images, train=False)[0]

    epsilon = hparams['epsilon']
    adversarial = pgd(
      logits_fn,
      images,
      labels,
      epsilon,
      2.5 * epsilon / num_steps,
      num_steps=num_steps,
      key=key,
    )
    # One forward pass for both: half the program to compile.
    both = logits_fn(jnp.concatenate([adversarial, images]))
    logits, clean_logits = jnp.split(both, 2)
    metrics = {
      'robust_accuracy': (logits.argmax(-1) == labels).astype('float32'),
      'clean_accuracy': (clean_logits.argmax(-1) == labels).astype('float32'),
    }
    loss = (batch['weight'] * cross_entropy(logits, labels)).sum()
    return loss, (model_state, metrics)

  return objective


def has_collapsed(robust_accuracies: Sequence[float]) -> bool:
  """Whether the newest robust accuracy shows catastrophic overfitting.

  FGSM training can overfit within an epoch (Wong et al. 2020, 2001.03994).
  """
  if not robust_accuracies:
    return False
  best, last = max(robust_accuracies), robust_accuracies[-1]
  return last < _COLLAPSE_RATIO * best and best - last >= _COLLAPSE_DROP
