"""Common code of the objectives: types, shares of the loss, metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.losses import cross_entropy
from advjax.types import Array, Images, LogitsFn

Metrics = dict[str, Array]
Objective = Callable[..., tuple[Array, tuple[Any, Metrics]]]


def shares(batch: Mapping[str, Array]) -> Array:
  """The share of every example in the loss, `[B]`; by default the mean's."""
  if 'weight' in batch:
    return batch['weight']
  batch_size = batch['label'].shape[0]
  return jnp.full((batch_size,), 1.0 / batch_size)


def accuracy(logits: Array, labels: Array) -> Array:
  """1 where the prediction is the label, else 0, `[B]`.

  Of labels that are shares of the classes, `[B, K]`, the largest counts.
  """
  if labels.ndim == 2:
    labels = labels.argmax(-1)
  return (logits.argmax(-1) == labels).astype(jnp.float32)


def adversarial_metrics(
  images: Images,
  adversarial: Images,
  labels: Array,
  logits: Array,
  norm: norms.Norm,
) -> Metrics:
  """The logged metrics of adversarial examples, given their logits."""
  pairs = zip(
    jax.tree.leaves(images), jax.tree.leaves(adversarial), strict=True
  )
  delta = [
    moved.astype(jnp.float32) - x.astype(jnp.float32)
    for x, moved in pairs
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return {
    'adversarial_loss': cross_entropy(logits, labels),
    'adversarial_accuracy': accuracy(logits, labels),
    'perturbation_size': norm.size(delta),
  }


def attacked_logits(
  apply: Callable, params: Any, model_state: Any, batch_norm: str
) -> LogitsFn:
  """The network as attacks see it while training: statistics never move."""
  train = batch_norm == 'train'

  def logits_fn(images: Images) -> Array:
    return apply(params, model_state, images, train=train)[0]

  return logits_fn
