"""Carlini and Wagner: distance and margin, weighed against each other."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.attacks._core import arguments, minimum_norm
from advjax.attacks._core.arguments import Problem
from advjax.attacks._core.minimum_norm import Closest
from advjax.callables import compile_per_callable
from advjax.norms import expand
from advjax.types import Array, ArrayLike, Bounds, Labels, LogitsFn

_LARGEST_CONST = 1e10
# The border of the box is infinitely far away behind tanh: start inside.
_INSIDE = 0.999999


def carlini_wagner(
  logits_fn: LogitsFn,
  images: Array,
  labels: Labels,
  *,
  num_steps: int = 1000,
  num_searches: int = 9,
  learning_rate: ArrayLike = 0.01,
  initial_const: ArrayLike = 1e-3,
  confidence: ArrayLike = 0.0,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
) -> Array:
  """Carlini and Wagner's l2 attack; the closest image that fools.

  It minimises `|x - x_0|_2^2 + c * max(confidence - m(x), 0)` over w by Adam,
  where m is the margin by which the network is fooled, the largest logit other
  than the label's less the label's, and `x = middle + half * tanh(w)`, with the
  middle and half the width of the box, is inside by itself (without both bounds
  a pixel is its w). Each row has a constant c of its own:
  from one search to the next it grows tenfold until a search fools the network,
  and is bisected from then on; of ten searches or more, the last one repeats
  the smallest c that did.

  A search takes all its steps. The authors' program ends one when the loss of
  the batch no longer falls, so that what a row gets depends on the others.
  Adam does not move pixels at the border of the box while c is tiny: their
  gradient behind tanh is below its 1e-8.

  Carlini and Wagner 2016, arXiv 1608.04644.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds.
    labels: int `[B]`.
    num_steps: steps of a search, at least 1; static.
    num_searches: constants tried per row, at least 1; static. The network is
      evaluated num_searches * num_steps + 1 times.
    learning_rate: of Adam; may be traced, as the next two.
    initial_const: the first c, above 0. It weighs logits against squared units
      of the images: for pixels up to 255 take 255^2 times as much.
    confidence: margin from which an image counts as fooling, in logits.
    bounds: `(lower, upper)` of the images or None; see `fgsm`.
    targets: int `[B]`, the classes to be classified as; m is then the target's
      logit less the largest other one.

  Returns:
    The closest images found that are misclassified, or classified as their
    targets, with a margin of at least confidence; of the same shape and dtype,
    within bounds, behind stop_gradient. Rows of which this is true from the
    beginning, and rows for which nothing was found, are the originals bit for
    bit.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> advjax.carlini_wagner(logits_fn, images, labels, num_steps=200).round(1)
    Array([[0.4, 0.4]], dtype=float32)
  """
  num_steps = arguments.count('num_steps', num_steps)
  num_searches = arguments.count('num_searches', num_searches)
  problem = arguments.check(
    logits_fn,
    images,
    labels,
    bounds=bounds,
    targets=targets,
    one_array=True,
    integer_labels=True,
  )
  traced = _Traced(
    *(
      arguments.number(name, value, problem.dtype)
      for name, value in (
        ('learning_rate', learning_rate),
        ('initial_const', initial_const),
        ('confidence', confidence),
      )
    )
  )
  first = traced.initial_const
  if arguments.is_concrete(first) and not first > 0:
    raise arguments.error('initial_const', initial_const, 'a number > 0')
  return _run(
    logits_fn, problem, traced, num_steps=num_steps, num_searches=num_searches
  )


class _Traced(NamedTuple):
  """Numbers that may be traced, all scalars."""

  learning_rate: Array
  initial_const: Array
  confidence: Array


class _Bracket(NamedTuple):
  """The binary search for the least constant that suffices, all [B]."""

  const: Array  # the next one to try
  low: Array  # too small
  high: Array  # large enough, or inf


class _Descent(NamedTuple):
  """The state of Adam with one constant per row."""

  offset: Array  # [B, ...], from the originals, behind tanh
  mean: Array  # [B, ...], Adam's moments
  square: Array  # [B, ...]
  success: Array  # bool [B], whether this descent has fooled the network
  closest: Closest


def _minimise(
  logits_fn: LogitsFn,
  problem: Problem,
  traced: _Traced,
  *,
  num_steps: int,
  num_searches: int,
) -> Array:
  problem = problem.per_example()
  traced = _Traced(*map(jnp.asarray, jax.lax.stop_gradient(traced)))
  margins, fooled, _ = minimum_norm.margin_and_gradient(
    logits_fn, problem, problem.images
  )
  best = minimum_norm.none_yet(problem)
  zero = jnp.zeros_like(best.size)
  done = fooled & (margins >= traced.confidence)
  best = minimum_norm.closer(best, problem.images, zero, done)

  def search(
    r: Array, carry: tuple[Closest, _Bracket]
  ) -> tuple[Closest, _Bracket]:
    best, bracket = carry
    const = bracket.const
    if num_searches >= 10:
      const = jnp.where(r == num_searches - 1, bracket.high, const)
    const = jnp.minimum(const, _LARGEST_CONST)
    best, success = _descend(logits_fn, problem, traced, const, best, num_steps)
    high = jnp.where(success, jnp.minimum(bracket.high, const), bracket.high)
    low = jnp.where(success, bracket.low, jnp.maximum(bracket.low, const))
    following = jnp.where(jnp.isinf(high), const * 10, (low + high) / 2)
    return best, _Bracket(following, low, high)

  bracket = _Bracket(traced.initial_const + zero, zero, zero + jnp.inf)
  best, _ = jax.lax.fori_loop(0, num_searches, search, (best, bracket))
  return jnp.asarray(jax.lax.stop_gradient(best.images))


_run = compile_per_callable(_minimise, ('num_steps', 'num_searches'))


def _descend(
  logits_fn: LogitsFn,
  problem: Problem,
  traced: _Traced,
  const: Array,
  best: Closest,
  num_steps: int,
) -> tuple[Closest, Array]:
  """Minimises with one constant per row; says which rows have fooled."""
  dtype = problem.dtype
  originals = problem.images.astype(dtype)
  closed = jnp.isfinite(problem.lower) & jnp.isfinite(problem.upper)
  middle = jnp.where(closed, (problem.lower + problem.upper) / 2, 0)
  half = jnp.where(closed, (problem.upper - problem.lower) / 2, 1)

  def to_images(w: Array) -> Array:
    return jnp.where(closed, middle + half * jnp.tanh(w), w)

  share = (originals - middle) / jnp.where(half > 0, half, 1)
  inside = jnp.arctanh(_INSIDE * jnp.clip(share, -1, 1))
  origin = jnp.where(closed, inside, originals)
  centre = to_images(origin)

  def step(t: Array, state: _Descent) -> _Descent:
    x, pull = jax.vjp(lambda offset: to_images(origin + offset), state.offset)
    images = problem.perturb(x - originals, norms.l2)
    margins, fooled, gradient = minimum_norm.margin_and_gradient(
      logits_fn, problem, images
    )
    success = fooled & (margins >= traced.confidence)
    size = norms.l2.size(arguments.difference(images, problem.images))

    lacking = jnp.maximum(traced.confidence - margins, 0)
    weight = jnp.where(lacking > 0, const, 0)  # No gradient of a NaN either.
    slope = minimum_norm.finite(
      pull(2 * (x - centre) - expand(weight, gradient) * gradient)[0]
    )
    # Adam: Kingma and Ba 2014, arXiv 1412.6980.
    mean = 0.9 * state.mean + 0.1 * slope
    square = 0.999 * state.square + 0.001 * slope**2
    age = (t + 1).astype(dtype)
    scale = jnp.sqrt(square / (1 - 0.999**age)) + 1e-8
    unit = mean / (1 - 0.9**age) / scale

    return _Descent(
      offset=state.offset - traced.learning_rate * unit,
      mean=mean,
      square=square,
      success=state.success | success,
      closest=minimum_norm.closer(state.closest, images, size, success),
    )

  zeros = problem.zeros()
  no_success = jnp.zeros(problem.batch, bool)
  state = jax.lax.fori_loop(
    0, num_steps, step, _Descent(zeros, zeros, zeros, no_success, best)
  )
  return state.closest, state.success
