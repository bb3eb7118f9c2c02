"""The shortest way onto a hyperplane within a box, exact in linf, l2 and l1.

A hyperplane is given as it is seen from a point: the step d leads onto it if
`<weights, d> = gap`. All of these work row by row on `[B, D]`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from advjax.types import Array

# Where there is no bound, a coordinate gets as far as this: no sum overflows.
_FAR = 1e12


def linf_step(weights: Array, gap: Array, lower: Array, upper: Array) -> Array:
  """The shortest step onto the hyperplane in the linf norm.

  `argmin |d|_inf  such that  <weights, d> = gap, lower <= d <= upper`: all
  coordinates move by the same amount, until the box stops them. Where the box
  does not reach the plane, d leads to the point of the box that is nearest to
  it; where all weights are 0, there is no plane and d is 0.

  Croce and Hein 2019, arXiv 1907.02044.

  Args:
    weights: float `[B, D]`, finite.
    gap: float `[B]`, negative on the other side of the plane; NaN: no plane.
    lower: `[B, D]`, at most 0, -inf where there is no bound.
    upper: `[B, D]`, at least 0.

  Returns:
    The step, `[B, D]`, finite and inside the box.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks import hyperplane
    >>> box = jnp.array([[-1.0, -1.0]]), jnp.array([[1.0, 1.0]])
    >>> hyperplane.linf_step(jnp.array([[3.0, 1.0]]), jnp.array([2.0]), *box)
    Array([[0.5, 0.5]], dtype=float32)
  """
  sign, size, room, length = _towards(weights, gap, lower, upper)
  return sign * _together(size, jnp.sign(size), room, length)


def l2_step(weights: Array, gap: Array, lower: Array, upper: Array) -> Array:
  """The shortest step onto the hyperplane in the l2 norm.

  `argmin |d|_2  such that  <weights, d> = gap, lower <= d <= upper`: every
  coordinate moves in proportion to its weight, until the box stops it.

  Croce and Hein 2019, arXiv 1907.02044.

  Args:
    weights: float `[B, D]`; see `linf_step`, also for what is out of reach.
    gap: float `[B]`.
    lower: `[B, D]`, at most 0.
    upper: `[B, D]`, at least 0.

  Returns:
    The step, `[B, D]`, finite and inside the box.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks import hyperplane
    >>> box = jnp.array([[-1.0, -1.0]]), jnp.array([[1.0, 1.0]])
    >>> hyperplane.l2_step(jnp.array([[3.0, 1.0]]), jnp.array([2.0]), *box)
    Array([[0.6, 0.2]], dtype=float32)
  """
  sign, size, room, length = _towards(weights, gap, lower, upper)
  return sign * _together(size, size, room, length)


def l1_step(weights: Array, gap: Array, lower: Array, upper: Array) -> Array:
  """The shortest step onto the hyperplane in the l1 norm.

  `argmin |d|_1  such that  <weights, d> = gap, lower <= d <= upper`: one
  coordinate after the other moves as far as the box lets it, that of the
  largest weight first; the last one moves as far as is needed.

  Croce and Hein 2019, arXiv 1907.02044.

  Args:
    weights: float `[B, D]`; see `linf_step`, also for what is out of reach.
    gap: float `[B]`.
    lower: `[B, D]`, at most 0.
    upper: `[B, D]`, at least 0.

  Returns:
    The step, `[B, D]`, finite and inside the box.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks import hyperplane
    >>> box = jnp.array([[-1.0, -1.0]]), jnp.array([[0.5, 1.0]])
    >>> hyperplane.l1_step(jnp.array([[3.0, 1.0]]), jnp.array([1.75]), *box)
    Array([[0.5 , 0.25]], dtype=float32)
  """
  sign, size, room, length = _towards(weights, gap, lower, upper)
  return sign * _one_by_one(size, room, length)


STEPS: Mapping[str, Callable[[Array, Array, Array, Array], Array]] = (
  MappingProxyType({'linf': linf_step, 'l2': l2_step, 'l1': l1_step})
)


def distance(norm: str, weights: Array, gap: Array) -> Array:
  """How far a hyperplane is where there is no box; infinite without a plane.

  `|gap| / |weights|_*` with the dual norm.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    weights: float `[B, D]`, finite.
    gap: float `[B]`.

  Returns:
    The distance, `[B]`; NaN where the gap is.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks import hyperplane
    >>> hyperplane.distance('l2', jnp.array([[3.0, 4.0]]), jnp.array([-1.0]))
    Array([0.2], dtype=float32)
  """
  size, largest = _scaled(weights)
  dual = {
    'linf': lambda: jnp.sum(size, axis=1),
    'l2': lambda: jnp.sqrt(jnp.sum(jnp.square(size), axis=1)),
    'l1': lambda: jnp.max(size, axis=1),
  }[norm]()
  here = jnp.abs(gap) / jnp.where(largest > 0, largest, 1)
  return jnp.where(largest > 0, here / jnp.maximum(dual, 1), jnp.inf + here)


def _scaled(weights: Array) -> tuple[Array, Array]:
  """Magnitudes from 0 to 1, whose squares can be summed, and the largest."""
  size = jnp.abs(weights)
  largest = jnp.max(size, axis=1)
  return size / jnp.where(largest > 0, largest, 1)[:, None], largest


def _towards(
  weights: Array, gap: Array, lower: Array, upper: Array
) -> tuple[Array, Array, Array, Array]:
  """Turns every coordinate towards the plane: sign, weight, room; and the gap.

  What has no weight has no room either.
  """
  size, largest = _scaled(weights)
  gap = jnp.where(jnp.isnan(gap), 0, gap)
  length = jnp.abs(gap) / jnp.where(largest > 0, largest, 1)
  length = jnp.minimum(length, jnp.finfo(length.dtype).max)
  sign = jnp.sign(weights) * jnp.sign(gap)[:, None]
  room = jnp.where(sign > 0, upper, -lower)
  room = jnp.where((sign != 0) & (size > 0), jnp.clip(room, 0, _FAR), 0)
  return sign, size, room, length


def _together(size: Array, speed: Array, room: Array, length: Array) -> Array:
  """Moves all coordinates at once until the sum of size * move is length.

  The sum grows ever slower in time, in linear pieces, as coordinates are
  stopped. Newton's method on such a function never oversteps: starting from
  all that can move, it stops those that the time so far is too long for, and
  ends where this changes nothing. That is exact, and takes few rounds.
  """

  def time(stopped: Array) -> Array:
    done = jnp.sum(jnp.where(stopped, size * room, 0), axis=1)
    rate = jnp.sum(jnp.where(stopped, 0, size * speed), axis=1)
    result = jnp.maximum(length - done, 0) / jnp.where(rate > 0, rate, 1)
    largest = jnp.finfo(result.dtype).max
    return jnp.minimum(jnp.where(rate > 0, result, 0), largest)[:, None]

  def stop(carry: tuple[Array, Array]) -> tuple[Array, Array]:
    stopped, _ = carry
    more = stopped | (time(stopped) * speed >= room)
    # A row that has ended stays as it is while others go on.
    return more, jnp.any(more != stopped)

  start = stop((room <= 0, jnp.array(True)))
  stopped, _ = jax.lax.while_loop(lambda carry: carry[1], stop, start)
  return jnp.where(stopped, room, jnp.minimum(time(stopped) * speed, room))


def _one_by_one(size: Array, room: Array, length: Array) -> Array:
  """Moves the heaviest coordinates until the sum of size * move is length."""
  order = jnp.argsort(-size, axis=1)
  size = jnp.take_along_axis(size, order, axis=1)
  room = jnp.take_along_axis(room, order, axis=1)
  gain = size * room
  # The sum of what comes before, without subtracting: room may be huge.
  before = jnp.pad(jnp.cumsum(gain, axis=1)[:, :-1], ((0, 0), (1, 0)))
  left = length[:, None] - before
  part = jnp.minimum(left / jnp.where(size > 0, size, 1), room)
  move = jnp.where(left >= gain, room, part)
  move = jnp.where(left > 0, move, 0)
  return jnp.take_along_axis(move, jnp.argsort(order, axis=1), axis=1)
