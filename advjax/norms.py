"""Norms as pure functions: size, steepest direction, projection, sample.

Every function works on one `[B, ...]` array or on a pytree of them and takes
one norm per example, over all axes but the first and over all leaves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array, Tree


class Norm(NamedTuple):
  """A norm, by the functions that attacks need.

  Attributes:
    size: `size(tree) -> [B]`, the norm of every example.
    direction: `direction(gradient, lower=None, upper=None) -> tree`, the step
      of unit length that goes up fastest, 0 where the gradient is 0. `lower <=
      0` and `upper >= 0` say how far each coordinate can still move.
    project: `project(delta, epsilon, lower=None, upper=None) -> tree`, into the
      ball of radius epsilon (a scalar or `[B]`) and into the box lower <= delta
      <= upper, which holds 0.
    sample: `sample(keys, like) -> tree`, one uniform draw from the unit ball
      per key (`[B]`), with the shapes and dtypes of `like`.
  """

  size: Callable[[Tree], Array]
  direction: Callable[..., Tree]
  project: Callable[..., Tree]
  sample: Callable[[Array, Tree], Tree]


def expand(per_example: Array, like: Array) -> Array:
  """Adds axes to `[B]` (or keeps a scalar) so that it broadcasts to `like`."""
  if per_example.ndim == 0:
    return per_example.reshape((1,) * like.ndim)
  return per_example.reshape(per_example.shape + (1,) * (like.ndim - 1))


def _sum(tree: Tree) -> Array:
  """Sums everything that belongs to one example: [B]."""
  sums = [
    jnp.sum(x, axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(tree)
  ]
  return sum(sums[1:], sums[0])


def _max(tree: Tree) -> Array:
  """Largest magnitude of every example: [B]."""
  largest = [
    jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), initial=0)
    for x in jax.tree.leaves(tree)
  ]
  result = largest[0]
  for other in largest[1:]:
    result = jnp.maximum(result, other)
  return result


def scale(tree: Tree, factor: Array) -> Tree:
  """Multiplies every example by its factor ([B])."""
  return jax.tree.map(lambda x: x * expand(factor, x).astype(x.dtype), tree)


def divide(tree: Tree, divisor: Array) -> Tree:
  """Divides every example by its divisor ([B]); 0 / 0 is 0."""
  safe = jnp.where(divisor > 0, divisor, 1)
  return jax.tree.map(lambda x: x / expand(safe, x).astype(x.dtype), tree)


def _clip(tree: Tree, lower: Tree | None, upper: Tree | None) -> Tree:
  if lower is not None:
    tree = jax.tree.map(jnp.maximum, tree, lower)
  if upper is not None:
    tree = jax.tree.map(jnp.minimum, tree, upper)
  return tree


def _draw(
  distribution: Callable[..., Array], keys: Array, like: Tree, extra: int
) -> Array:
  """Draws all coordinates of an example, and some extra, from its key alone.

  One draw for all leaves: every other one would lengthen the compilation.
  """
  size = sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(like)) + extra
  dtype = jnp.result_type(*jax.tree.leaves(like))
  return jax.vmap(lambda key: distribution(key, (size,), dtype))(keys)


def _fill(like: Tree, flat: Array) -> Tree:
  """Cuts `[B, coordinates]` into leaves like those of `like`."""
  leaves, treedef = jax.tree.flatten(like)
  ends = np.cumsum([math.prod(x.shape[1:]) for x in leaves])
  parts = [
    flat[:, end - math.prod(x.shape[1:]) : end].reshape(x.shape).astype(x.dtype)
    for x, end in zip(leaves, ends.tolist(), strict=True)
  ]
  return jax.tree.unflatten(treedef, parts)


def _in_any_box(direction: Callable[[Tree], Tree]) -> Callable[..., Tree]:
  """Takes the box that a direction does not depend on."""
  return lambda gradient, lower=None, upper=None: direction(gradient)


# ------------------------------------------------------------------------ linf


def _linf_project(
  delta: Tree,
  epsilon: Array,
  lower: Tree | None = None,
  upper: Tree | None = None,
) -> Tree:
  epsilon = jnp.asarray(epsilon)

  def clip(x: Array) -> Array:
    radius = expand(epsilon, x).astype(x.dtype)
    return jnp.clip(x, -radius, radius)

  return _clip(jax.tree.map(clip, delta), lower, upper)


def _linf_sample(keys: Array, like: Tree) -> Tree:
  draws = _draw(jax.random.uniform, keys, like, extra=0)
  return _fill(like, 2 * draws - 1)


# -------------------------------------------------------------------------- l2


def _l2_size(tree: Tree) -> Array:
  return jnp.sqrt(_sum(jax.tree.map(jnp.square, tree)))


def _l2_direction(gradient: Tree) -> Tree:
  # Divided by the largest entry first: the squares of the tiny gradients that a
  # confident model returns would underflow to a zero direction.
  gradient = divide(gradient, _max(gradient))
  return divide(gradient, _l2_size(gradient))


def _l2_project(
  delta: Tree,
  epsilon: Array,
  lower: Tree | None = None,
  upper: Tree | None = None,
) -> Tree:
  # In units of epsilon: the squares of tiny ones would underflow.
  size = _l2_size(divide(delta, jnp.asarray(epsilon)))
  factor = jnp.where(epsilon > 0, 1 / jnp.maximum(size, 1), 0)
  return _clip(scale(delta, factor), lower, upper)


def _l2_sample(keys: Array, like: Tree) -> Tree:
  # Uniform in the ball of D dimensions: the first D of the D + 2 coordinates of
  # a point on the sphere. Barthe et al. 2005, arXiv math/0503650.
  draws = _draw(jax.random.normal, keys, like, extra=2)
  return _fill(like, divide(draws, _l2_size(draws)))


# -------------------------------------------------------------------------- l1


def _l1_size(tree: Tree) -> Array:
  return _sum(jax.tree.map(jnp.abs, tree))


def unit_l1(gradient: Tree) -> Tree:
  """gradient / |gradient|_1 per example, as momentum accumulates it."""
  gradient = divide(gradient, _max(gradient))
  return divide(gradient, _l1_size(gradient))


def _slide_direction(
  gradient: Tree, lower: Tree | None = None, upper: Tree | None = None
) -> Tree:
  """The top 5 % of the coordinates, evenly: SLIDE (arXiv 1904.13000)."""
  # A coordinate that the box holds in place would waste its share of the step.
  if lower is not None:
    gradient = jax.tree.map(
      lambda g, slack: jnp.where((slack >= 0) & (g < 0), 0, g), gradient, lower
    )
  if upper is not None:
    gradient = jax.tree.map(
      lambda g, slack: jnp.where((slack <= 0) & (g > 0), 0, g), gradient, upper
    )
  sizes = jax.tree.leaves(jax.tree.map(jnp.abs, gradient))
  flat = jnp.concatenate(
    [x.reshape(len(x), math.prod(x.shape[1:])) for x in sizes], axis=1
  )
  count = -(-flat.shape[1] // 20)
  threshold = jax.lax.top_k(flat, count)[0][:, -1]
  return _evenly(gradient, threshold)


def _evenly(gradient: Tree, threshold: Array) -> Tree:
  """The step of l1 size 1 along what is as large as a threshold, `[B]`."""

  def signs_of(g: Array) -> Array:
    large = jnp.abs(g) >= expand(threshold, g).astype(g.dtype)
    return jnp.where(large, jnp.sign(g), 0)

  signs = jax.tree.map(signs_of, gradient)
  return divide(signs, _l1_size(signs))


def _l1_project(
  delta: Tree,
  epsilon: Array,
  lower: Tree | None = None,
  upper: Tree | None = None,
) -> Tree:
  """The nearest point of the ball and the box together.

  It is `sign(d) * min(max(|d| - shift, 0), slack)`, where slack is the distance
  to the box on the side of d and shift >= 0 the smallest for which it fits. The
  size falls piecewise linearly in shift: bisection finds the linear piece,
  where one division is exact.
  """
  epsilon = jnp.asarray(epsilon)
  size = jax.tree.map(jnp.abs, delta)
  inf = jax.tree.map(lambda d: jnp.full_like(d, jnp.inf), delta)
  below = inf if lower is None else jax.tree.map(jnp.negative, lower)
  above = inf if upper is None else upper
  slack = jax.tree.map(
    lambda d, b, a: jnp.maximum(jnp.where(d > 0, a, b), 0), delta, below, above
  )

  def shrink(shift: Array) -> Tree:
    return jax.tree.map(
      lambda s, r: jnp.minimum(jnp.maximum(s - expand(shift, s), 0), r),
      size,
      slack,
    )

  def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bracket
    middle = (low + high) / 2
    too_big = _l1_size(shrink(middle)) > epsilon
    return jnp.where(too_big, middle, low), jnp.where(too_big, high, middle)

  high = _max(size)
  epsilon = jnp.broadcast_to(epsilon, high.shape).astype(high.dtype)
  # Not zeros: under shard_map the bracket must vary with epsilon as well.
  low = 0 * high + 0 * epsilon
  steps = jnp.finfo(high.dtype).nmant + 8
  low, high = jax.lax.fori_loop(0, steps, halve, (low, high + low))

  at_box = jax.tree.map(lambda s, r: s - expand(high, s) >= r, size, slack)
  free = jax.tree.map(
    lambda s, full: (s > expand(low, s)) & ~full, size, at_box
  )
  fixed = _sum(jax.tree.map(lambda b, r: jnp.where(b, r, 0), at_box, slack))
  moving = _sum(jax.tree.map(lambda f, s: jnp.where(f, s, 0), free, size))
  count = _sum(jax.tree.map(lambda f, s: f.astype(s.dtype), free, size))
  exact = (moving + fixed - epsilon) / jnp.maximum(count, 1)
  fits = _l1_size(shrink(jnp.zeros_like(high))) <= epsilon
  shift = jnp.where(fits, 0, jnp.clip(exact, low, high))

  # The last rounding falls to those that are not at the box, for these are to
  # be seen to be there. Where the box alone holds too much, high does not.
  sizes = shrink(shift)
  at_box = jax.tree.map(lambda s, r: jnp.where(s < r, 0, s), sizes, slack)
  sizes = shrink(jnp.where(_l1_size(at_box) > epsilon, high, shift))
  inside = jax.tree.map(lambda s, r: jnp.where(s < r, s, 0), sizes, slack)
  excess = jnp.maximum(_l1_size(sizes) - epsilon, 0)
  left = jnp.maximum(1 - divide(excess, _l1_size(inside)), 0)
  return jax.tree.map(
    lambda d, s, r: jnp.sign(d) * jnp.where(s < r, s * expand(left, s), s),
    delta,
    sizes,
    slack,
  )


def _l1_sample(keys: Array, like: Tree) -> Tree:
  # Uniform: the first D of D + 1 coordinates of a Laplace direction.
  draws = _draw(jax.random.laplace, keys, like, extra=1)
  return _fill(like, divide(draws, _l1_size(draws)))


# ------------------------------------------------------------------------- NSL


def _nsl_l2_direction(gradient: Tree) -> Tree:
  squares = _sum(jax.tree.map(jnp.square, gradient))
  return scale(gradient, jax.lax.rsqrt(jnp.maximum(squares, 1e-12)))


def _nsl_l1_direction(gradient: Tree) -> Tree:
  return _evenly(gradient, _max(gradient))


_signs = _in_any_box(lambda gradient: jax.tree.map(jnp.sign, gradient))
linf = Norm(_max, _signs, _linf_project, _linf_sample)
l2 = Norm(_l2_size, _in_any_box(_l2_direction), _l2_project, _l2_sample)
l1 = Norm(_l1_size, _slide_direction, _l1_project, _l1_sample)

NORMS: Mapping[str, Norm] = MappingProxyType({'linf': linf, 'l2': l2, 'l1': l1})

# The norms of TensorFlow's Neural Structured Learning, under its names: the l2
# direction fades out for gradients below 1e-6, the l1 direction is the largest
# coordinate alone (ties share). NSL has no l1 projection; this one projects.
NSL_NORMS: Mapping[str, Norm] = MappingProxyType(
  {
    'infinity': linf,
    'linf': linf,
    'l2': l2._replace(direction=_in_any_box(_nsl_l2_direction)),
    'l1': l1._replace(direction=_in_any_box(_nsl_l1_direction)),
    'slide': l1,
  }
)
# Both l1 directions by names that say which: gradient attacks take these too.
_DIRECTIONS = {**NORMS, 'slide': l1, 'nsl_l1': NSL_NORMS['l1']}


def get(norm: str | Norm, allowed: Sequence[str] | None = None) -> Norm:
  """Returns the norm of that name, or the norm itself.

  'l1' and 'slide' are one: its steps share the top 5 % of the coordinates, as
  in SLIDE (arXiv 1904.13000). Those of 'nsl_l1' take the largest one alone, as
  NSL's 'l1' does.

  Args:
    norm: A name or a `Norm`.
    allowed: The names to choose from; None: all five, and any other `Norm`.

  Returns:
    The norm.

  Raises:
    ValueError: if it is none of these.

  Example:
    >>> from advjax import norms
    >>> norms.get('l2') == norms.get(norms.l2) == norms.l2
    True
  """
  names = list(_DIRECTIONS if allowed is None else allowed)
  for name in names:
    if norm in (name, _DIRECTIONS[name]):
      return _DIRECTIONS[name]
  if allowed is None and isinstance(norm, Norm):
    return norm
  others = ' or a norms.Norm' if allowed is None else ''
  others += " (did you mean 'linf'?)" if norm == 'infinity' else ''
  listed = ', '.join(map(repr, names))
  raise ValueError(f'norm = {norm!r}; allowed: {listed}{others}')
