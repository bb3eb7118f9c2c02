"""Carlini and Wagner: distance and margin, weighed against each other."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax import norms
from advjax._arguments import Problem
from advjax.attacks._core import boundary, loop
from advjax.attacks._core.loop import Found
from advjax.callables import compile_per_callable
from advjax.norms import expand
from advjax.types import Array, ArrayLike, Bounds, Labels, LogitsFn

_LARGEST_CONST = 1e10
# The border of the box is infinitely far away behind tanh: start inside, near
# enough that the learning rate's steps move a pixel from there.
_INSIDE = 0.99
_LAST_RATE = 0.001  # As a share of the first one.


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

  Other than in the authors' program: w starts at the image shrunk to 0.99 of
  the box, not 0.999999, and its change is added to the image itself, so that
  pixels at the border move, but end 0.005 of the box short of the other one. A
  search takes all its steps, where theirs ends when the loss of the batch no
  longer falls, so that what a row gets depends on the others. Once one has
  fooled, the learning rate falls to a thousandth in each, as half a cosine. A
  search counts as fooling if its last quarter fools, for what Adam overshoots
  at first says nothing of c. In the first quarter of every other search, and of
  each once one has fooled, m is the margin of the class whose linearised
  boundary is nearest to the image, among the nine strongest others. An image
  counts if its margin is more than the rounding of the logits, and a bisection
  of ten steps goes back from the best one towards the original.

  Carlini and Wagner 2016, arXiv 1608.04644.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds.
    labels: int `[B]`.
    num_steps: steps of a search, at least 1; static; 1000 as in cleverhans, a
      tenth of what the authors' program takes at most.
    num_searches: constants tried per row, at least 1; static. It takes
      num_searches * num_steps forward and backward passes, and 11 forward ones;
      without targets one more forward and min(K, 10) - 1 backward passes choose
      the class.
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
    >>> advjax.carlini_wagner(logits_fn, images, labels, num_steps=200).round(3)
    Array([[0.375, 0.375]], dtype=float32)
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
  numbers = tuple(
    arguments.number(name, value, problem.dtype)
    for name, value in (
      ('learning_rate', learning_rate),
      ('initial_const', initial_const),
      ('confidence', confidence),
    )
  )
  if arguments.is_concrete(numbers[1]) and not numbers[1] > 0:
    raise arguments.error('initial_const', initial_const, 'a number > 0')
  return _run(
    logits_fn, problem, *numbers, num_steps=num_steps, num_searches=num_searches
  )


class _Descent(NamedTuple):
  """The state of Adam with one constant per row."""

  offset: Array  # [B, ...], from the originals, behind tanh
  mean: Array  # [B, ...], Adam's moments
  square: Array  # [B, ...]
  success: Array  # bool [B], whether its last quarter has fooled the network
  best: Found


def _minimise(
  logits_fn: LogitsFn,
  problem: Problem,
  learning_rate: Any,
  initial_const: Any,
  confidence: Any,
  *,
  num_steps: int,
  num_searches: int,
) -> Array:
  problem = problem.per_example()
  learning_rate, initial_const, confidence = map(
    jnp.asarray,
    jax.lax.stop_gradient((learning_rate, initial_const, confidence)),
  )
  originals = problem.images.astype(problem.dtype)
  closed = jnp.isfinite(problem.lower) & jnp.isfinite(problem.upper)
  middle = jnp.where(closed, (problem.lower + problem.upper) / 2, 0)
  half = jnp.where(closed, (problem.upper - problem.lower) / 2, 1)

  def to_images(w: Array) -> Array:
    return jnp.where(closed, middle + half * jnp.tanh(w), w)

  share = (originals - middle) / jnp.where(half > 0, half, 1)
  inside = jnp.arctanh(_INSIDE * jnp.clip(share, -1, 1))
  origin = jnp.where(closed, inside, originals)
  centre = to_images(origin)

  aims = None
  if problem.targets is None:
    aims = boundary.nearest_class(logits_fn, problem, norms.l2)

  def descend(const: Array, best: Found, odd: Any) -> _Descent:
    """Minimises with one constant per row."""

    def step(t: Array, state: _Descent) -> _Descent:
      x, pull = jax.vjp(lambda offset: to_images(origin + offset), state.offset)
      images = problem.perturb(x - centre, norms.l2)
      aiming = (odd | state.best.fooled) & (4 * t < num_steps)
      margins, gradient = boundary.margin_and_gradient(
        logits_fn, problem, images, aims, aiming
      )
      success = margins.sure & (margins.size >= confidence)
      best, _ = loop.nearer(images, success, state.best, problem, norms.l2)
      lacking = jnp.maximum(confidence - margins.size, 0)
      weight = jnp.where(lacking > 0, const, 0)  # No gradient of a NaN either.
      slope = loop.finite(
        pull(2 * (x - centre) - expand(weight, gradient) * gradient)[0]
      )
      # Adam: Kingma and Ba 2014, arXiv 1412.6980.
      mean = 0.9 * state.mean + 0.1 * slope
      square = 0.999 * state.square + 0.001 * slope**2
      age = jnp.asarray(t + 1, problem.dtype)
      scale = jnp.sqrt(square / (1 - 0.999**age)) + 1e-8
      unit = mean / (1 - 0.9**age) / scale
      cosine = (1 + jnp.cos(math.pi / num_steps * (age - 1))) / 2
      rate = _LAST_RATE + (1 - _LAST_RATE) * cosine
      rate = learning_rate * jnp.where(state.best.fooled, rate, 1)
      offset = state.offset - expand(rate, unit) * unit
      suffices = state.success | (success & (4 * t >= 3 * num_steps))
      return _Descent(offset, mean, square, suffices, best)

    zeros = problem.zeros()
    state = _Descent(zeros, zeros, zeros, jnp.zeros(problem.batch, bool), best)
    (state,) = loop.vary_alike(
      lambda state: step(jnp.int32(0), state), (state,)
    )
    result: _Descent = jax.lax.fori_loop(0, num_steps, step, state)
    return result

  def search(r: Array, carry: tuple[Found, Array, Array, Array]) -> Any:
    """Descends; bisects the least constant that suffices, between two [B]."""
    best, const, low, high = carry
    if num_searches >= 10:
      const = jnp.where(r == num_searches - 1, high, const)
    const = jnp.minimum(const, _LARGEST_CONST)
    state = descend(const, best, r % 2 == 1)
    high = jnp.where(state.success, jnp.minimum(high, const), high)
    low = jnp.where(state.success, low, jnp.maximum(low, const))
    following = jnp.where(jnp.isinf(high), const * 10, (low + high) / 2)
    return state.best, following, low, high

  clean = boundary.margin(problem, logits_fn(problem.images))
  best, _ = loop.nearer(
    problem.images,
    clean.fooled & (clean.size >= confidence),
    loop.nothing_found(problem),
    problem,
    norms.l2,
  )
  zero = jnp.zeros(problem.batch, problem.dtype)
  carry = loop.vary_alike(
    lambda *carry: search(jnp.int32(0), carry),
    (best, initial_const + zero, zero, zero + jnp.inf),
  )
  best, *_ = jax.lax.fori_loop(0, num_searches, search, carry)
  return boundary.bisect(logits_fn, problem, best.images, norms.l2, confidence)


_run = compile_per_callable(_minimise)
