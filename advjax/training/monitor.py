"""Watching robustness while training: the best epoch, and collapses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from advjax.attacks import pgd
from advjax.losses import cross_entropy
from advjax.training.objectives import Metrics, Objective
from advjax.types import Array

# Catastrophic overfitting loses most of the robust accuracy within an epoch.
_COLLAPSE_RATIO = 0.5
_COLLAPSE_DROP = 0.2


def robust_accuracy_objective(num_steps: int) -> Objective:
  """Returns PGD accuracy (linf, random start) in the form of an objective.

  Its step size is 2.5 epsilon / num_steps, as in Madry et al. 2017.

  Args:
    num_steps: Steps of PGD.

  Returns:
    An objective that reads `epsilon`, with the metrics robust_accuracy and
    clean_accuracy; it is for evaluation, its loss is not meant to be
    minimised.

  Example:
    >>> objective = robust_accuracy_objective(10)
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

  True if it is below half of the best one so far, and at least 0.2 lower.
  Wong et al. 2020 (arXiv 2001.03994) describe how FGSM training comes to
  this within an epoch.

  Args:
    robust_accuracies: One number per look, in order.

  Returns:
    Whether the last one is a collapse.

  Example:
    >>> has_collapsed([0.4, 0.6, 0.1])
    True
    >>> has_collapsed([0.4, 0.6, 0.5])
    False
  """
  if not robust_accuracies:
    return False
  best, last = max(robust_accuracies), robust_accuracies[-1]
  return last < _COLLAPSE_RATIO * best and best - last >= _COLLAPSE_DROP
