"""The decision boundary: margins, and where it is if the network is linear.

A hyperplane is given as it is seen from a point: the step d leads onto it if
`<weights, d> = gap`. Croce and Hein 2019, arXiv 1907.02044.
"""

import math
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import losses, norms
from advjax._arguments import Problem, difference, wide
from advjax.attacks._core import loop
from advjax.norms import Norm, expand
from advjax.types import Array, LogitsFn

# Where there is no bound, a coordinate gets as far as this: no sum overflows.
_FAR = 1e12
# Of the largest logit: less than this is no margin but rounding.
_ROUNDING = {2: 1.0, 4: 64.0, 8: 64.0}  # By bytes, in units of the last place.
BISECTIONS = 10


# The norm that measures gradients where another one measures perturbations.
_DUALS = MappingProxyType(
  {norms.linf: norms.l1, norms.l2: norms.l2, norms.l1: norms.linf}
)


class Margin(NamedTuple):
  """By how much rows are fooled, `[B]` each.

  The largest logit other than the label's less the label's; with targets, the
  target's less the largest other one.
  """

  size: Array
  fooled: Array  # bool
  sure: Array  # bool, fooled by more than rounding can undo


def margin(problem: Problem, logits: Any) -> Margin:
  """What the logits say about every row."""
  size = loop.attack_loss(problem, losses.margin, logits).astype(problem.dtype)
  fooled = loop.is_fooled(problem, logits)
  largest = jnp.max(jnp.abs(logits), axis=1).astype(size.dtype)
  kind = jnp.result_type(logits)
  least = _ROUNDING[kind.itemsize] * float(jnp.finfo(kind).eps) * largest
  return Margin(size, fooled, fooled & (size > least))


def margin_and_gradient(
  logits_fn: LogitsFn,
  problem: Problem,
  images: Array,
  aims: Array | None = None,
  aiming: Any = False,
) -> tuple[Margin, Array]:
  """The margins and their gradient; of rows that aim, as if to their class."""

  def total(images: Array) -> tuple[Array, Margin]:
    logits = loop.call_for_logits(logits_fn, images)
    margins = margin(problem, logits)
    if aims is not None:
      aimed = _pick(logits, aims) - _pick(logits, problem.labels)
      size = jnp.where(aiming, aimed.astype(margins.size.dtype), margins.size)
      margins = margins._replace(size=size)
    return jnp.sum(margins.size), margins

  (_, margins), gradient = jax.value_and_grad(total, has_aux=True)(images)
  return margins, loop.finite(gradient)


def nearest_class(
  logits_fn: LogitsFn, problem: Problem, norm: Norm, count: int = 10
) -> Array:
  """The class whose linearised boundary is nearest to the originals: int `[B]`.

  Of `count` classes of the highest logits, the label's own among them; all but
  it take a backward pass.
  """
  logits, pull = jax.vjp(
    lambda images: loop.call_for_logits(logits_fn, images), problem.images
  )
  own = _one_hot(problem.labels, logits)
  others = jnp.where(own > 0, -jnp.inf, logits)
  _, classes = jax.lax.top_k(others, min(count, logits.shape[1]) - 1)

  def far(k: Array) -> Array:
    (gradient,) = pull(_one_hot(k, logits) - own)
    gap = _pick(logits, k) - _pick(logits, problem.labels)
    return distance(norm, loop.finite(gradient), gap)

  nearest = jnp.argmin(jax.lax.map(far, classes.T), axis=0)
  return jnp.take_along_axis(classes, nearest[:, None], axis=1)[:, 0]


def bisect(
  logits_fn: LogitsFn,
  problem: Problem,
  images: Array,
  norm: Norm,
  confidence: Any = 0,
) -> Array:
  """Goes back towards the originals as far as rows that fool go on to.

  BISECTIONS forward passes. What is an original stays one, bit for bit.
  """
  moved = difference(images, problem.images)

  def halve(_: Any, carry: tuple[Array, Array, Array]) -> Any:
    low, high, nearest = carry
    middle = (low + high) / 2
    candidate = problem.perturb(expand(middle, moved) * moved, norm)
    margins = margin(problem, logits_fn(candidate))
    fools = margins.sure & (margins.size >= confidence)
    nearest = loop.select(fools, candidate, nearest)
    low = jnp.where(fools, low, middle)
    return low, jnp.where(fools, middle, high), nearest

  zero = jnp.zeros(problem.batch, moved.dtype)
  carry = loop.vary_alike(
    lambda *carry: halve(0, carry), (zero, zero + 1, images)
  )
  *_, nearest = jax.lax.fori_loop(0, BISECTIONS, halve, carry)
  return jnp.asarray(jax.lax.stop_gradient(nearest))


class Hyperplane(NamedTuple):
  """Where two logits, linearised at a point, are equal.

  Finite: a gradient that is not counts as 0, a gap that is not as 0.
  """

  weights: Array  # [B, D], float32 or better
  gap: Array  # [B]


def towards(
  logits_fn: LogitsFn, point: Array, labels: Array, targets: Array
) -> tuple[Hyperplane, Array]:
  """The hyperplane between label and target, and the logits `[B, K]`."""

  def difference(point: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = logits_fn(point)
    result = _pick(logits, targets) - _pick(logits, labels)
    return jnp.sum(result), (result, logits)

  gradient, (value, logits) = jax.grad(difference, has_aux=True)(point)
  return _hyperplane(gradient, value), jax.lax.stop_gradient(logits)


def nearest(
  logits_fn: LogitsFn, point: Array, labels: Array, norm: Norm
) -> tuple[Hyperplane, Array]:
  """The hyperplane nearest to the point, between the label and another class.

  As if there were no box; with weights 0 where there is none at all. One
  backward pass for each class but the label. Also returns the logits.
  """
  logits, pullback = jax.vjp(logits_fn, point)
  label = _pick(logits, labels)

  def compare(best: Any, other: Array) -> tuple[Any, None]:
    # The label is left out.
    classes = other + (other >= labels.astype(other.dtype)).astype(other.dtype)
    (gradient,) = pullback(_one_hot(classes, logits) - _one_hot(labels, logits))
    value = _pick(logits, classes) - label
    plane = _hyperplane(gradient, value)
    # Of the value as it is: NaN or infinite, it is not the nearest.
    far = jax.lax.stop_gradient(distance(norm, plane.weights, value))
    new = plane, far.astype(best[1].dtype)
    return loop.select(new[1] < best[1], new, best), None

  # One class after the other: the memory of one gradient, not of K.
  nothing = _hyperplane(jnp.zeros_like(point), jnp.zeros_like(label))
  best = nothing, jnp.full_like(nothing.gap, jnp.inf)
  others = jnp.arange(logits.shape[1] - 1)
  (plane, _), _ = jax.lax.scan(compare, best, others)
  return plane, jax.lax.stop_gradient(logits)


def distance(norm: Norm, weights: Array, gap: Array) -> Array:
  """`|gap| / |weights|_*` with the dual norm, `[B]`.

  Infinite, not NaN, where the weights are 0 or the gap is NaN.
  """
  size, largest = _scaled(weights)
  here = jnp.abs(gap) / jnp.where(largest > 0, largest, 1)
  far = here / jnp.maximum(_DUALS[norm].size(size), 1)
  return jnp.where((largest > 0) & (far >= 0), far, jnp.inf)


def shortest_step(
  norm: Norm, weights: Array, gap: Array, lower: Array, upper: Array
) -> Array:
  """`argmin |d|  such that  <weights, d> = gap, lower <= d <= upper`.

  linf: all coordinates move by the same amount, until the box stops them. l2:
  each moves in proportion to its weight. l1: one after the other moves as far
  as the box lets it, that of the largest weight first. Where the box does not
  reach the plane, d leads to the point of the box that is nearest to it. All
  weights 0 or a gap of NaN mean no plane: d is 0. d is finite, `[B, D]`.
  """
  size, largest = _scaled(weights)
  gap = jnp.where(jnp.isnan(gap), 0, gap)
  length = jnp.abs(gap) / jnp.where(largest > 0, largest, 1)
  length = jnp.minimum(length, jnp.finfo(length.dtype).max)
  sign = jnp.sign(weights) * jnp.sign(gap)[:, None]
  slack = jnp.where(sign > 0, upper, -lower)
  slack = jnp.where((sign != 0) & (size > 0), jnp.clip(slack, 0, _FAR), 0)
  if norm == norms.l1:
    return sign * _one_by_one(size, slack, length)
  speed = jnp.sign(size) if norm == norms.linf else size
  return sign * _together(size, speed, slack, length)


def _together(size: Array, speed: Array, slack: Array, length: Array) -> Array:
  """Moves all coordinates at once until the sum of size * move is length.

  The sum grows ever slower in time, in linear pieces, as coordinates are
  stopped. Newton's method on such a function never oversteps: starting from
  all that can move, it stops those that the time so far is too long for, and
  ends where this changes nothing. That is exact, and takes few rounds.
  """

  def time(stopped: Array) -> Array:
    done = jnp.sum(jnp.where(stopped, size * slack, 0), axis=1)
    rate = jnp.sum(jnp.where(stopped, 0, size * speed), axis=1)
    result = jnp.maximum(length - done, 0) / jnp.where(rate > 0, rate, 1)
    largest = jnp.finfo(result.dtype).max
    return jnp.minimum(jnp.where(rate > 0, result, 0), largest)[:, None]

  def stop(carry: tuple[Array, Array]) -> tuple[Array, Array]:
    stopped, _ = carry
    more = stopped | (time(stopped) * speed >= slack)
    # A row that has ended stays as it is while others continue.
    return more, jnp.any(more != stopped)

  start = stop((slack <= 0, jnp.array(True)))
  stopped, _ = jax.lax.while_loop(lambda carry: carry[1], stop, start)
  return jnp.where(stopped, slack, jnp.minimum(time(stopped) * speed, slack))


def _one_by_one(size: Array, slack: Array, length: Array) -> Array:
  """Moves the heaviest coordinates until the sum of size * move is length."""
  order = jnp.argsort(-size, axis=1)
  size = jnp.take_along_axis(size, order, axis=1)
  slack = jnp.take_along_axis(slack, order, axis=1)
  gain = size * slack
  # The sum of what comes before, without subtracting: slack may be huge.
  before = jnp.pad(jnp.cumsum(gain, axis=1)[:, :-1], ((0, 0), (1, 0)))
  left = length[:, None] - before
  part = jnp.minimum(left / jnp.where(size > 0, size, 1), slack)
  move = jnp.where(left >= gain, slack, part)
  move = jnp.where(left > 0, move, 0)
  return jnp.take_along_axis(move, jnp.argsort(order, axis=1), axis=1)


def _scaled(weights: Array) -> tuple[Array, Array]:
  """Magnitudes from 0 to 1, whose squares can be summed, and the largest."""
  size, largest = jnp.abs(weights), norms.linf.size(weights)
  return size / expand(jnp.where(largest > 0, largest, 1), size), largest


def _hyperplane(gradient: Array, value: Array) -> Hyperplane:
  """Where value, made linear by its gradient, is 0."""
  gradient, value = jax.lax.stop_gradient((gradient, value))
  flat = gradient.reshape(len(gradient), math.prod(gradient.shape[1:]))
  value = jnp.where(jnp.isfinite(value), value, 0).astype(wide(gradient))
  return Hyperplane(loop.finite(flat), -value)


def _one_hot(classes: Array, logits: Array) -> Array:
  return jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype)


def _pick(logits: Array, classes: Array) -> Array:
  """The logits of one class per row, in float32 or better: [B]."""
  wide_logits = logits.astype(wide(logits))
  return jnp.sum(
    jnp.where(_one_hot(classes, logits) > 0, wide_logits, 0), axis=1
  )
