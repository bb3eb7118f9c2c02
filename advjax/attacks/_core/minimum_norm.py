"""What minimum-norm attacks share: the margin, and the closest image found."""

from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import losses, norms
from advjax.attacks._core import loop
from advjax.attacks._core.arguments import Problem, wide
from advjax.norms import Norm, expand
from advjax.types import Array, LogitsFn

# The norm that measures gradients where another one measures perturbations.
_DUALS = MappingProxyType(
  {norms.linf: norms.l1, norms.l2: norms.l2, norms.l1: norms.linf}
)


class Closest(NamedTuple):
  """The closest adversarial images found so far."""

  images: Array  # [B, ...], the originals where none is found yet
  size: Array  # [B], their distance; infinite where none is found yet


def none_yet(problem: Problem) -> Closest:
  """Nothing is found."""
  return Closest(
    problem.images, jnp.full(problem.batch, jnp.inf, problem.dtype)
  )


def closer(old: Closest, images: Array, size: Array, fooled: Array) -> Closest:
  """Takes the images that fool and are closer than those before."""
  return loop.select(fooled & (size < old.size), Closest(images, size), old)


def dual_size(norm: Norm, gradient: Array) -> Array:
  """How fast a loss can rise per length of perturbation: `[B]`."""
  # The squares of tiny gradients would underflow.
  largest = norms.linf.size(gradient)
  safe = jnp.where(largest > 0, largest, 1)
  return safe * _DUALS[norm].size(gradient / expand(safe, gradient))


def finite(gradient: Array) -> Array:
  """A gradient in float32 or better, 0 where it is not finite."""
  gradient = gradient.astype(wide(gradient))
  return jnp.where(jnp.isfinite(gradient), gradient, 0)


def margin_and_gradient(
  logits_fn: LogitsFn, problem: Problem, images: Array
) -> tuple[Array, Array, Array]:
  """The margin by which rows are fooled `[B]`, whether, and its gradient.

  The margin is the largest logit other than the label's less the label's; with
  targets, the target's less the largest other one.
  """

  def total(images: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = logits_fn(images)
    margins = loop.attack_loss(problem, losses.margin, logits)
    return jnp.sum(margins), (margins, loop.is_fooled(problem, logits))

  gradient_fn = jax.value_and_grad(total, has_aux=True)
  (_, (margins, fooled)), gradient = gradient_fn(images)
  return margins, fooled, finite(gradient)
