"""What the attacks share that look for the closest image that fools."""

from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import losses, norms
from advjax.attacks import checks
from advjax.attacks import inputs as inputs_lib
from advjax.attacks.inputs import Inputs
from advjax.attacks.search import Found, Problem, select
from advjax.norms import Norm, expand
from advjax.types import Array, Bounds, Images, Labels, LogitsFn

# The norm that measures gradients where another one measures perturbations.
_DUALS = MappingProxyType(
  {norms.linf: norms.l1, norms.l2: norms.l2, norms.l1: norms.linf}
)


class Closest(NamedTuple):
  """The closest images found so far that fool."""

  images: Array  # [B, ...], the originals where none is found yet
  size: Array  # [B], their distance; infinite where none is found yet

  @property
  def exists(self) -> Array:
    """Whether a row has one."""
    return jnp.isfinite(self.size)

  def as_found(self) -> Found:
    """The nearer the better."""
    return Found(self.images, self.exists, -self.size)


def prepare(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  *,
  bounds: Bounds,
  targets: Labels | None = None,
) -> Inputs:
  """Checks what all of these attacks are given: one array, integer labels."""
  inputs = inputs_lib.prepare(
    logits_fn,
    images,
    labels,
    epsilon=None,
    step_size=0.0,
    loss_fn=losses.margin,
    bounds=bounds,
    targets=targets,
    mask=None,
    one_array=True,
  )
  checks.check_integers('labels', inputs.labels, len(inputs.images))
  if targets is not None:
    checks.check_integers('targets', inputs.targets, len(inputs.images))
  return inputs


def norm_of(norm: str | Norm, allowed: tuple[str, ...]) -> Norm:
  """Returns one of the norms that an attack knows."""
  for name in allowed:
    if norm == name or norm == norms.NORMS[name]:
      return norms.NORMS[name]
  raise ValueError(f'norm must be one of {sorted(allowed)}; got {norm!r}')


def dual_size(norm: Norm, gradient: Array) -> Array:
  """How fast a loss can rise per length of perturbation: `[B]`."""
  # The squares of tiny gradients would underflow.
  largest = norms.linf.size(gradient)
  safe = jnp.where(largest > 0, largest, 1)
  return safe * _DUALS[norm].size(gradient / expand(safe, gradient))


def finite(gradient: Array) -> Array:
  """A gradient in float32 or better, 0 where it is not finite."""
  wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
  return jnp.where(jnp.isfinite(wide), wide, 0)


def moved(problem: Problem, images: Array) -> Array:
  """The perturbation that made images, as they are after all rounding."""
  dtype = problem.lower.dtype
  return images.astype(dtype) - problem.images.astype(dtype)


def predicts(logits: Array, classes: Array) -> tuple[Array, Array]:
  """Whether a row is classified as its class, and as another one: `[B]`."""
  as_class = jnp.argmax(logits, axis=-1) == classes
  known = ~jnp.any(jnp.isnan(logits), axis=-1)  # NaN predicts nothing.
  return as_class & known, ~as_class & known


def is_fooled(problem: Problem, logits: Array) -> Array:
  """Whether a row is misclassified, or as its target: bool `[B]`."""
  if problem.targets is not None:
    return predicts(logits, problem.targets)[0]
  return predicts(logits, problem.labels)[1]


def climb(
  logits_fn: LogitsFn, problem: Problem, images: Array
) -> tuple[Array, Array, Array]:
  """Asks the network for the margin by which it is fooled.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    problem: The rows.
    images: Where to ask, `[B, ...]`.

  Returns:
    The largest logit other than the label's less the label's (with targets: the
    target's less the largest other one) `[B]`, whether the row is fooled `[B]`,
    and the gradient of the margin `[B, ...]`.
  """

  def total(images: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = logits_fn(images)
    if problem.targets is None:
      margins = losses.margin(logits, problem.labels)
    else:
      margins = -losses.margin(logits, problem.targets)
    return jnp.sum(margins), (margins, is_fooled(problem, logits))

  gradient_fn = jax.value_and_grad(total, has_aux=True)
  (_, (margins, fooled)), gradient = gradient_fn(images)
  return margins, fooled, finite(gradient)


def none_yet(problem: Problem) -> Closest:
  """Nothing is found."""
  size = jnp.full(len(problem.images), jnp.inf, problem.lower.dtype)
  return Closest(problem.images, size)


def nearer(old: Closest, images: Array, size: Array, fooled: Array) -> Closest:
  """Takes the images that fool and are nearer than those before."""
  return select(fooled & (size < old.size), Closest(images, size), old)
