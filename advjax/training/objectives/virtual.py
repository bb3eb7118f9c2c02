"""NSL's virtual adversarial regularization, and its distances."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import _arguments as arguments
from advjax import norms
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
from advjax.types import Array

# Both of NSL: its approx_difference, and the least size it divides by.
_APPROX_DIFFERENCE = 1e-6
_FLOOR = 1e-6


def _kl(p: Array, q: Array) -> Array:
  # NSL's guard against log(0). Small divergences feel it, so parity needs it.
  return (p * (jnp.log(p + 1e-7) - jnp.log(q + 1e-7))).sum(-1)


def _jensen_shannon(p: Array, q: Array) -> Array:
  middle = (p + q) / 2
  return (_kl(p, middle) + _kl(q, middle)) / 2


def _cosine(reference: Array, moved: Array) -> Array:
  def unit(x: Array) -> Array:
    squares = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))

  return 1 - (unit(reference) * unit(moved)).sum(-1)


# (outputs for the clean images, for the moved ones), `[B, K]` each -> `[B]`.
_DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
  'l2': lambda reference, moved: jnp.square(reference - moved).mean(-1),
  'l1': lambda reference, moved: jnp.abs(reference - moved).mean(-1),
  'cosine': _cosine,
  'jensen_shannon': _jensen_shannon,
  'kl': _kl,
}
_OF_DISTRIBUTIONS = ('jensen_shannon', 'kl')


def _choose_distance(
  distance: str, transform: str
) -> Callable[[Array, Array], Array]:
  function = _DISTANCES[choose('distance', distance, _DISTANCES)]
  choose('transform', transform, ('none', 'softmax'))
  if transform == 'none' and distance not in _OF_DISTRIBUTIONS:
    return function
  return lambda reference, moved: function(
    jax.nn.softmax(reference), jax.nn.softmax(moved)
  )


def virtual_adversarial_regularization(
  *,
  norm: str = 'l2',
  num_steps: int = 1,
  distance: str = 'l2',
  transform: str = 'none',
  mask: Any = None,
  adversarial_batch_stats: bool = True,
) -> Objective:
  """Virtual adversarial training (Miyato et al. 2017, arXiv 1704.03976).

  loss = mean_i CE(f(x_i), y_i) + multiplier * mean_i D(f(x_i), f(x_i + d_i))

  as NSL's virtual_adv_regularizer makes d_i, without the labels: a normal
  draw u per example, then `num_steps` times

    u <- unit(mask * gradient by r of mean_i D(f(x_i), f(x_i + r_i))
              at r = approx_difference * u)

  which is power iteration with a finite difference, and d = step_size * u.
  unit(u) is mask * u / max(|u|, 1e-6) in the norm (NSL's `normalize`: in
  'infinity' it divides by the largest entry and takes no sign). No gradient
  flows through d_i and the clean f(x_i) of the second term.

  Trap: NSL's approx_difference of 1e-6, the default here too, is below the
  rounding of float32 pixels of size 1, and the gradient so close to its zero
  is mostly below the floor of 1e-6: d_i is then noise, shorter than
  step_size. Numbers near step_size give the direction that the paper means.

  Args:
    norm: NSL's adv_grad_norm: 'infinity', 'l2' or 'l1'.
    num_steps: NSL's num_approx_steps.
    distance: D of logits a and b: 'l2', mean_k (a_k - b_k)^2; 'l1',
      mean_k |a_k - b_k|; 'cosine', 1 - cos(a, b); and of their softmax
      'kl', KL(a || b), and 'jensen_shannon'. NSL's DistanceConfig, without
      sum_over_axis for 'l2' and 'l1', along the last axis for the others.
    transform: NSL's transform_fn, 'none' or 'softmax'; 'kl' and
      'jensen_shannon' take the softmax in any case.
    mask: NSL's feature_mask, values in [0, 1] that broadcast against an
      image.
    adversarial_batch_stats: Whether the pass over the perturbed images
      updates the BatchNorm statistics too; they are then made in the
      BatchNorm mode of training, else in evaluation mode.

  Returns:
    An objective that reads `multiplier`, `step_size` (NSL's adv_step_size)
    and, if given, `approx_difference`.

  Raises:
    ValueError: if norm, distance or transform is unknown or the mask is not
      in [0, 1].

  Example:
    >>> objective = virtual_adversarial_regularization(distance='kl')
  """
  ball = norms.NSL_NORMS[choose('norm', norm, norms.NSL_NORMS)]
  distance_fn = _choose_distance(distance, transform)
  batch_norm = 'train' if adversarial_batch_stats else 'eval'
  if mask is not None:
    mask = np.asarray(mask, np.float32)
    arguments.check_mask(mask)

  def unit(direction: Array) -> Array:
    if mask is not None:
      lead = (1,) * (direction.ndim - mask.ndim)
      direction = direction * mask.reshape(lead + mask.shape)
    size = jnp.maximum(ball.size(direction), _FLOOR)
    return direction / norms.expand(size, direction)

  def objective(
    apply: Callable,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Array],
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    images, labels, weight = batch['image'], batch['label'], shares(batch)
    difference = hparams.get('approx_difference', _APPROX_DIFFERENCE)
    attacked = attacked_logits(
      apply, jax.lax.stop_gradient(params), model_state, batch_norm
    )
    # In the mode of the passes below: else the modes would be what differs.
    reference = attacked(images)

    def spread(moves: Array) -> Array:
      return (weight * distance_fn(reference, attacked(images + moves))).sum()

    direction = _power_iteration(
      spread, unit, unit(_normal(key, images)), difference, num_steps
    )
    perturbed = images + hparams['step_size'] * direction

    logits, new_state = apply(params, model_state, images, train=True)
    moved_logits, moved_state = apply(params, new_state, perturbed, train=True)
    if adversarial_batch_stats:
      new_state = moved_state
    virtual_loss = distance_fn(jax.lax.stop_gradient(logits), moved_logits)
    scaled = hparams['multiplier'] * virtual_loss
    clean_loss = cross_entropy(logits, labels)
    loss = clean_loss + scaled
    metrics = adversarial_metrics(images, perturbed, labels, moved_logits, ball)
    metrics |= {
      'loss': loss,
      'clean_loss': clean_loss,
      'clean_accuracy': accuracy(logits, labels),
      'virtual_adversarial_loss': virtual_loss,
      'scaled_virtual_adversarial_loss': scaled,
    }
    return (weight * loss).sum(), (new_state, metrics)

  return objective


def _power_iteration(
  spread: Callable[[Array], Array],
  unit: Callable[[Array], Array],
  direction: Array,
  difference: Array | float,
  num_steps: int,
) -> Array:
  for _ in range(num_steps):
    direction = unit(jax.grad(spread)(difference * direction))
  return direction


def _normal(keys: Array, images: Array) -> Array:
  """One draw per example, from its key alone."""
  shape, dtype = images.shape[1:], images.dtype
  return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
