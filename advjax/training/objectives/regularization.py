"""Plain training, and NSL's adversarial regularization."""

from collections.abc import Callable, Mapping
from typing import Any

from jax.tree_util import Partial

from advjax import norms
from advjax.attacks import bim
from advjax.config import choose
from advjax.losses import cross_entropy
from advjax.training.objectives.common import (
  Metrics,
  Objective,
  accuracy,
  adversarial_metrics,
  attacked_logits,
  shares,
)
from advjax.types import Array, Bounds


def _weighted_cross_entropy(weight: Array, logits: Array, labels: Any) -> Array:
  return weight * cross_entropy(logits, labels)


def standard() -> Objective:
  """Plain training: minimises the cross-entropy of the clean images.

  loss = mean_i CE(f(x_i), y_i)

  Returns:
    An objective that reads no hparams.

  Example:
    >>> import jax.numpy as jnp
    >>> def apply(params, model_state, images, *, train):
    ...   return images @ params, model_state
    >>> batch = {'image': jnp.ones((4, 3)), 'label': jnp.zeros(4, int)}
    >>> loss, _ = standard()(apply, jnp.zeros((3, 2)), {}, batch, {}, None)
    >>> round(float(loss), 4)
    0.6931
  """

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    del hparams, key  # Unused: nothing is drawn and there is no perturbation.
    labels = batch['label']
    logits, model_state = apply(params, model_state, batch['image'], train=True)
    loss = cross_entropy(logits, labels)
    metrics = {
      'loss': loss,
      'clean_loss': loss,
      'clean_accuracy': accuracy(logits, labels),
    }
    return (shares(batch) * loss).sum(), (model_state, metrics)

  return objective


def adversarial_regularization(
  *,
  norm: str = 'infinity',
  num_steps: int = 1,
  random_start: bool = False,
  bounds: Bounds = None,
  mask: Any = None,
  adversarial_batch_stats: bool = True,
) -> Objective:
  """NSL's adversarial regularization (Goodfellow et al. 2014, 1412.6572).

  loss = mean_i CE(f(x_i), y_i) + multiplier * mean_i CE(f(x_i + d_i), y_i)

  with d_i made by gradient steps of length `step_size` on the mean loss, as
  Neural Structured Learning makes it: no clip to the pixel range unless
  `bounds` says so, no projection unless `hparams` has an `epsilon` (NSL's
  pgd_epsilon), and the gradient of the batch mean, on whose scale the floor
  of the l2 direction depends. No gradient flows through d_i.

  Args:
    norm: NSL's adv_grad_norm: 'infinity', 'l2' or 'l1'.
    num_steps: NSL's pgd_iterations.
    random_start: NSL's random_init: start uniformly in the ball of radius
      epsilon, or step_size where there is no epsilon.
    bounds: NSL's clip_value_min and clip_value_max; either may be None, a
      number or an array. Where images are a pytree (NSL's dictionaries of
      features), bounds and mask may be trees as `advjax.bim` takes them.
    mask: NSL's feature_mask, values in [0, 1] that broadcast against an
      image and multiply the gradient before its direction is taken. What has
      mask 0 does not move; NSL moves it at a random start.
    adversarial_batch_stats: Whether the adversarial forward pass updates
      the BatchNorm statistics too, as in NSL; the adversarial images are
      made in the BatchNorm mode of training then, else in evaluation mode.

  Returns:
    An objective that reads `multiplier`, `step_size` (NSL's adv_step_size)
    and, if given, `epsilon`.

  Raises:
    ValueError: if norm is unknown.

  Example:
    >>> objective = adversarial_regularization(norm='l2')
  """
  ball = norms.NSL_NORMS[choose('norm', norm, norms.NSL_NORMS)]
  attack_batch_norm = 'train' if adversarial_batch_stats else 'eval'

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels, weight = batch['image'], batch['label'], shares(batch)
    logits, new_state = apply(params, model_state, images, train=True)
    adversarial = bim(
      attacked_logits(apply, params, model_state, attack_batch_norm),
      images,
      labels,
      hparams.get('epsilon'),
      hparams['step_size'],
      num_steps=num_steps,
      key=key if random_start else None,
      norm=ball,
      loss_fn=Partial(_weighted_cross_entropy, weight),
      bounds=bounds,
      mask=mask,
    )
    adversarial_logits, adversarial_state = apply(
      params, new_state, adversarial, train=True
    )
    if adversarial_batch_stats:
      new_state = adversarial_state
    metrics = adversarial_metrics(
      images, adversarial, labels, adversarial_logits, ball
    )
    scaled = hparams['multiplier'] * metrics['adversarial_loss']
    clean_loss = cross_entropy(logits, labels)
    loss = clean_loss + scaled
    metrics |= {
      'loss': loss,
      'clean_loss': clean_loss,
      'clean_accuracy': accuracy(logits, labels),
      'scaled_adversarial_loss': scaled,
    }
    return (weight * loss).sum(), (new_state, metrics)

  return objective
