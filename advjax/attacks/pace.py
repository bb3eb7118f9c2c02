"""How APGD starts and moves: step sizes that each row chooses for itself.

Croce and Hein 2020, arXiv 2003.01690, for linf and l2; Croce and Hein 2021,
arXiv 2103.01208, for l1. What the papers leave open is as in the authors' code.
What happens at which step is known beforehand: it stands in tables over t.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import norms
from advjax.attacks.search import select
from advjax.attacks.space import Space
from advjax.norms import Norm, expand
from advjax.types import Array


class Point(NamedTuple):
  """A perturbation and what the network says of it."""

  delta: Array  # [B, ...]
  gradient: Array  # [B, ...], finite
  loss: Array  # [B], never NaN


class Walk(NamedTuple):
  """Where the rows are, and how they go on."""

  delta: Array  # [B, ...], the point to look at next
  step_size: Array  # [B]
  best: Point  # the point of highest loss
  memory: Any  # what the next step sizes depend on besides


class Pace(NamedTuple):
  """A way to walk.

  Attributes:
    start: `start(space, keys) -> walk`, from a random point.
    move: `move(space, walk, seen, t) -> walk`, from the point just seen; the
      radius of the space is that of step t + 1.
    radius: `radius(epsilon, t) -> [B]`, of the ball to which step t keeps.
    final: `final(t) -> [B]`, whether that is the ball of radius epsilon.
  """

  start: Callable[[Space, Array], Walk]
  move: Callable[[Space, Walk, Point, Array], Walk]
  radius: Callable[[Array, Array], Array]
  final: Callable[[Array], Array]


class _Halving(NamedTuple):
  previous: Array  # [B, ...], the point before the last move
  loss: Array  # [B], of the point seen last
  rises: Array  # int32 [B], moves since the last checkpoint that went up
  checked: Array  # [B], the highest loss at the last checkpoint
  halved: Array  # bool [B], whether the last checkpoint halved the step


def halving(norm: Norm, num_steps: int) -> Pace:
  """Returns the pace of linf and l2: momentum, and steps that are halved."""
  windows = _windows(num_steps)

  def start(space: Space, keys: Array) -> Walk:
    radius, like = _radius(space), jnp.zeros_like(_nothing(space))
    draws = norm.sample(keys, like)
    size = norm.size(draws)
    scale = radius / jnp.where(size > 0, size, 1)
    delta = _project(space, draws * expand(scale, draws))
    none = jnp.full_like(radius, -jnp.inf)
    memory = _Halving(
      previous=delta,
      loss=-none,  # The start itself is no rise.
      rises=jnp.zeros_like(radius, jnp.int32),
      checked=none,
      halved=jnp.ones_like(radius, bool),  # There was no last checkpoint.
    )
    return Walk(delta, 2 * radius, Point(delta, like, none), memory)

  def move(space: Space, walk: Walk, seen: Point, t: Array) -> Walk:
    memory = walk.memory
    best = select(seen.loss > walk.best.loss, seen, walk.best)
    checked = jnp.where(t == 0, best.loss, memory.checked)
    # Against the point seen last, be it the one that a row went back from.
    rises = memory.rises + (seen.loss > memory.loss)
    window = _at(windows, t)
    checks = window > 0
    slow = 4 * rises < 3 * window
    stuck = ~memory.halved & (best.loss <= checked)
    halves = checks & (slow | stuck)
    step_size = jnp.where(halves, walk.step_size / 2, walk.step_size)
    here = select(halves, best, seen)

    x = here.delta
    step = expand(step_size, x) * norm.direction(here.gradient)
    aim = _project(space, x + step)
    weight = expand(jnp.where(t == 0, 1, 0.75).astype(x.dtype), x)
    drift = (1 - weight) * (x - memory.previous)
    delta = _project(space, x + weight * (aim - x) + drift)
    memory = _Halving(
      previous=x,
      loss=seen.loss,
      rises=jnp.where(checks, 0, rises),
      checked=jnp.where(checks, best.loss, checked),
      halved=jnp.where(checks, halves, memory.halved),
    )
    return Walk(delta, step_size, best, memory)

  return Pace(
    start, move, lambda epsilon, t: epsilon, lambda t: jnp.ones_like(t, bool)
  )


def _windows(num_steps: int) -> np.ndarray:
  """How many steps a checkpoint at step t looks back on; 0: no checkpoint."""
  windows = np.zeros(num_steps + 1, np.int32)
  window, t = max(22 * num_steps // 100, 1), 0
  while t + window <= num_steps:
    t += window
    windows[t] = window
    window = max(window - max(3 * num_steps // 100, 1), 6 * num_steps // 100, 1)
  return windows


class _Sparsity(NamedTuple):
  nonzero: Array  # int32 [B], pixels that the best point changed when checked


def sparse(num_steps: int) -> Pace:
  """Returns the pace of l1: few pixels at a time, through shrinking balls."""
  begins, ends, checks, factors = _phases(num_steps)

  def start(space: Space, keys: Array) -> Walk:
    radius, like = _radius(space), jnp.zeros_like(_nothing(space))
    draws = jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))
    # The size of the draws is that of the box: most of them are cut to 0.
    size = space.upper[0] - space.lower[0]
    size = jnp.where(jnp.isfinite(size), size, expand(radius, like))
    delta = _project(space, draws(keys) * size)
    none = jnp.full_like(radius, -jnp.inf)
    memory = _Sparsity(jnp.zeros_like(radius, jnp.int32))
    return Walk(delta, radius, Point(delta, like, none), memory)

  def move(space: Space, walk: Walk, seen: Point, t: Array) -> Walk:
    radius, begin, check = _radius(space), _at(begins, t), _at(checks, t)
    best = select(begin | (seen.loss > walk.best.loss), seen, walk.best)
    nonzero = jnp.where(
      begin | check, _nonzero(best.delta, radius), walk.memory.nonzero
    )
    sparser = check & (20 * nonzero < 19 * walk.memory.nonzero)
    longest = begin | sparser
    step_size = jnp.where(check, walk.step_size / 1.5, walk.step_size)
    step_size = jnp.where(longest, radius, jnp.maximum(step_size, radius / 10))
    here = select(sparser, best, seen)
    step = expand(step_size, here.delta) * _top(here.gradient, nonzero)
    delta = jnp.where(expand(_at(ends, t), step), best.delta, here.delta + step)
    return Walk(_project(space, delta), step_size, best, _Sparsity(nonzero))

  return Pace(
    start,
    move,
    lambda epsilon, t: epsilon * _at(factors, t).astype(epsilon.dtype),
    lambda t: _at(factors, t) == 1,
  )


def _phases(num_steps: int) -> tuple[np.ndarray, ...]:
  """The tables of l1: where a ball begins and ends, checkpoints and radii."""
  early = 3 * num_steps // 10
  lengths = np.array([early, early, num_steps + 1 - 2 * early])
  every = np.maximum(np.array([early, early, num_steps - 2 * early]) // 25, 1)
  place = np.concatenate([np.arange(n) for n in lengths])
  begins = place == 0
  ends = np.append(begins[1:], False)
  checks = (place > 0) & (place % np.repeat(every, lengths) == 0)
  return begins, ends, checks, np.repeat(np.array([3, 2, 1]), lengths)


def _top(gradient: Array, nonzero: Array) -> Array:
  """The step of l1 size 1 along two thirds of so many largest coordinates."""
  sizes = jnp.abs(gradient).reshape(len(gradient), -1)
  count = sizes.shape[1]
  index = jnp.clip(count - (2 * nonzero + 2) // 3, 0, count - 1)
  threshold = jnp.take_along_axis(jnp.sort(sizes), index[:, None], axis=1)[:, 0]
  signs = jnp.where(
    jnp.abs(gradient) >= expand(threshold, gradient), jnp.sign(gradient), 0
  )
  share = 1 / jnp.maximum(norms.l1.size(signs), 1)
  return signs * expand(share, signs)


def _nonzero(delta: Array, radius: Array) -> Array:
  # A projection may leave the dust of its rounding where it means 0.
  dust = 8 * jnp.finfo(delta.dtype).eps * expand(radius, delta)
  changed = jnp.abs(delta) > dust
  return jnp.sum(changed, axis=tuple(range(1, delta.ndim)), dtype=jnp.int32)


def _project(space: Space, delta: Array) -> Array:
  lower, upper = space.room()
  return space.norm.project(delta, _radius(space), lower[0], upper[0])


def _nothing(space: Space) -> Array:
  """The perturbation that is none, in the precision of perturbations."""
  return space.still(jnp.zeros_like(_radius(space)))[0]


def _radius(space: Space) -> Array:
  if space.epsilon is None:
    raise ValueError('epsilon must be a number or [B]; got None')
  return space.epsilon


def _at(table: np.ndarray, t: Array) -> Array:
  # Rows that are done count on; what they do is not kept.
  return jnp.take(jnp.asarray(table), t, mode='clip')
