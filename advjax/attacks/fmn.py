"""Fast minimum norm: a ball that shrinks and grows around the boundary."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax import norms
from advjax._arguments import Problem
from advjax.attacks._core import boundary, loop
from advjax.attacks._core.loop import Found, Search
from advjax.callables import compile_per_callable
from advjax.norms import Norm, expand
from advjax.types import Array, Bounds, Labels, LogitsFn

_LAST_STEP = 0.01  # As a share of the first one.
_LAST_RATE = 0.001
_GROWTH = 1.25  # Of epsilon, as long as nothing has fooled.


def fmn(
  logits_fn: LogitsFn,
  images: Array,
  labels: Labels,
  *,
  num_steps: int = 100,
  norm: str | Norm = 'l2',
  step_size: float = 1.0,
  gamma: float = 0.05,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
) -> Array:
  """Fast minimum-norm attack; the closest image that fools.

  `delta = project(delta + alpha * g / |g|_2, epsilon)`, where g is the gradient
  of the margin m by which the network is fooled, and project leads into the
  ball of radius epsilon and into the box. After an image that fools, epsilon is
  `min(epsilon * (1 - gamma), smallest size so far)`, after one that does not
  `epsilon * (1 + gamma)`, and as long as none has fooled
  `1.25 * max(epsilon, |delta| + |m| / |g|_*)`, where the second term is the way
  to the linearised boundary in the dual norm. alpha falls from step_size to a
  hundredth of it and gamma to 0.001, as half a cosine.

  Other than in the paper, as long as nothing has fooled: epsilon only grows,
  and delta is lengthened to it, so that flat gradients do not hold a row; in
  linf the step is `epsilon * sign(g)`; in the first quarter of the steps m is
  the margin of the class whose linearised boundary is nearest to the image,
  among the nine strongest others. An image counts if its margin is more than
  the rounding of the logits. And the l1 projection is the nearest point of ball
  and box, where the paper clips afterwards.

  Nothing is drawn: it starts at the images, and two calls agree bit for bit.

  Pintor et al. 2021, arXiv 2102.12827.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds.
    labels: int `[B]`.
    num_steps: forward and backward passes, at least 1; static; 100 as in
      foolbox. The first one sees the images themselves; without targets one
      more forward and min(K, 10) - 1 more backward passes choose the class.
    norm: 'l2', 'linf' or 'l1', what is to be small.
    step_size: l2 length of the first step, whatever the norm, in units of the
      images: for pixels up to 255 take 255; static.
    gamma: share by which epsilon changes at first, below 1; static.
    bounds: `(lower, upper)` of the images or None; see `fgsm`.
    targets: int `[B]`, the classes to be classified as.

  Returns:
    The closest images found that are misclassified, or classified as their
    targets, of the same shape and dtype, within bounds, behind stop_gradient.
    Rows of which this is true from the beginning, and rows for which nothing
    was found, are the originals bit for bit.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> advjax.fmn(logits_fn, images, labels, norm='linf').round(3)
    Array([[0.375, 0.375]], dtype=float32)
  """
  gamma = arguments.static_number('gamma', gamma)
  if gamma >= 1:
    raise arguments.error('gamma', gamma, 'a Python number in [0, 1) (static)')
  static = {
    'num_steps': arguments.count('num_steps', num_steps),
    'norm': norms.get(norm, ('l2', 'linf', 'l1')),
    'step_size': arguments.static_number('step_size', step_size),
    'gamma': gamma,
  }
  problem = arguments.check(
    logits_fn,
    images,
    labels,
    bounds=bounds,
    targets=targets,
    one_array=True,
    integer_labels=True,
  )
  return _run(logits_fn, problem, **static)


class _State(NamedTuple):
  delta: Array  # [B, ...]
  epsilon: Array  # [B], the radius of the ball
  best: Found  # scores are distances, negative


def _minimise(
  logits_fn: LogitsFn,
  problem: Problem,
  *,
  num_steps: int,
  norm: Norm,
  step_size: float,
  gamma: float,
) -> Array:
  problem = problem.per_example()
  aims = None
  if problem.targets is None:
    aims = boundary.nearest_class(logits_fn, problem, norm)

  def start(problem: Problem) -> _State:
    radius = jnp.zeros(problem.batch, problem.dtype)
    return _State(problem.zeros(), radius, loop.nothing_found(problem))

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    images = problem.perturb(state.delta, norm)
    aiming = ~state.best.fooled & (4 * t < num_steps)
    margins, gradient = boundary.margin_and_gradient(
      logits_fn, problem, images, aims, aiming
    )
    fooled = jnp.where(t == 0, margins.fooled, margins.sure)
    best, size = loop.nearer(images, fooled, state.best, problem, norm)
    nearest = -best.score

    cosine = (1 + jnp.cos(math.pi / num_steps * t.astype(size.dtype))) / 2
    length = step_size * (_LAST_STEP + (1 - _LAST_STEP) * cosine)
    rate = _LAST_RATE + (gamma - _LAST_RATE) * cosine
    distance = boundary.distance(norm, gradient, margins.size)
    guess = jnp.where(best.fooled, 0, size + distance)
    epsilon = jnp.where(
      fooled,
      jnp.minimum(state.epsilon * (1 - rate), nearest),
      jnp.maximum(state.epsilon, guess)
      * jnp.where(best.fooled, 1 + rate, _GROWTH),
    )
    lower, upper = problem.slack()
    furthest = norm.size(jnp.maximum(-lower, upper))
    largest = jnp.finfo(size.dtype).max  # Not inf where there are no bounds.
    epsilon = jnp.minimum(epsilon, jnp.minimum(furthest, largest))

    direction = norms.l2.direction(gradient)
    step = expand(length, direction) * direction
    if norm == norms.linf:  # To fill the ball at once, until one has fooled.
      signs = expand(epsilon, gradient) * jnp.sign(gradient)
      step = jnp.where(expand(best.fooled, step), step, signs)
    delta = state.delta + step
    # Nothing has fooled: out to the sphere, be the gradient 0 or in the way.
    reach = epsilon / jnp.maximum(norm.size(delta), jnp.finfo(size.dtype).tiny)
    reach = jnp.where(best.fooled, 1, jnp.clip(reach, 1, 1e4))
    delta = norm.project(norms.scale(delta, reach), epsilon, lower, upper)
    return _State(delta, epsilon, best)

  search = Search(start, step, lambda _, state: state.best, num_steps)
  images: Array = loop.iterate(search, logits_fn, problem)
  return images


_run = compile_per_callable(_minimise)
