"""APGD: projected gradient ascent that chooses its own step sizes.

Croce and Hein 2020, arXiv 2003.01690, for linf and l2; Croce and Hein 2021,
arXiv 2103.01208, for l1. What the papers leave open is as in the authors' code.
What happens at which step is known beforehand: it is in tables over t.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from advjax import _arguments as arguments
from advjax import losses, norms
from advjax._arguments import Problem
from advjax.attacks._core import loop
from advjax.attacks._core.loop import Found, Search, select
from advjax.norms import Norm, expand
from advjax.types import Array, ArrayLike, Bounds, Labels, LogitsFn, LossFn


def apgd(
  logits_fn: LogitsFn,
  images: Array,
  labels: Labels,
  epsilon: ArrayLike,
  *,
  num_steps: int = 100,
  key: Array,
  num_restarts: int = 1,
  norm: str | Norm = 'linf',
  loss_fn: LossFn = losses.cross_entropy,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
  eot_samples: int | None = None,
) -> Array:
  """Auto-PGD: no step size to choose; the best point that it evaluates.

  From a random point of the ball's boundary it moves by

  `z = project(x_k + step_size * direction(g_k))`,
  `x_{k+1} = project(x_k + 0.75 * (z - x_k) + 0.25 * (x_k - x_{k-1}))`,

  first with steps of 2 * epsilon. At checkpoints that follow each other faster
  and faster an example halves its step and goes back to its point of highest
  loss, if fewer than three quarters of its steps since the last one increased
  the loss, or if nothing came of the last one: neither a smaller step nor a
  higher loss. In l1 the steps go along the coordinates of the largest
  gradients, as many as the best perturbation suggests, through balls of radius
  3, 2 and 1 epsilon for 30, 30 and 40 % of the steps.

  Of all points inside the ball it returns per example a misclassified one
  before a correct one (with targets: the target class before another), then the
  one of highest loss.

  Croce and Hein 2020, arXiv 2003.01690; in l1 Croce and Hein 2021, arXiv
  2103.01208.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds.
    labels: int `[B]` or float `[B, K]`; what loss_fn takes.
    epsilon: radius in units of the images: a scalar or `[B]`; may be traced.
    num_steps: number of steps, at least 1; static; 100 as in AutoAttack. The
      model is evaluated once per step and once for the start.
    key: one key, folded with the row, or `[B]` keys. Restart r folds in r, so
      that n restarts contain 1.
    num_restarts: number of random starts; static.
    norm: 'linf', 'l2' or 'l1'.
    loss_fn: `(logits, labels) -> [B]`, ascended. `losses.dlr` needs 3 classes,
      and 4 with targets; for fewer there is `losses.margin`.
    bounds: `(lower, upper)` of the images, each None, a number or an array that
      broadcasts; None: no box.
    targets: int `[B]`; the attack moves towards these classes instead: it
      ascends `losses.targeted_dlr` if loss_fn is `losses.dlr`, else descends
      `loss_fn(logits, targets)`.
    eot_samples: for a random model, which is then called as
      `logits_fn(images, key)` with one example and one key: the number of draws
      per step over which losses, logits and gradients are averaged; static.

  Returns:
    Adversarial images of the same shape and dtype, within bounds and within
    epsilon of images, behind stop_gradient.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> key = jax.random.key(0)
    >>> advjax.apgd(logits_fn, images, labels, 0.125, num_steps=10, key=key)
    Array([[0.375, 0.375]], dtype=float32)
  """
  arguments.check_given(epsilon=epsilon, key=key)
  if eot_samples is not None:
    eot_samples = arguments.count('eot_samples', eot_samples)
  search = Partial(
    make_apgd,
    norm=norm,
    num_steps=arguments.count('num_steps', num_steps),
    loss_fn=loss_fn,
    eot_samples=eot_samples,
    success='any' if targets is None else 'target',
  )
  return loop.attack(
    search,
    logits_fn,
    images,
    labels,
    num_restarts=num_restarts,
    epsilon=epsilon,
    bounds=bounds,
    targets=targets,
    key=key,
    loss_fn=loss_fn,
    eot_samples=eot_samples,
  )


class Point(NamedTuple):
  """A perturbation and what the network says of it."""

  delta: Array  # [B, ...]
  gradient: Array  # [B, ...], finite
  loss: Array  # [B], never NaN


class State(NamedTuple):
  """The state of the ascent of each row."""

  delta: Array  # [B, ...], the point to evaluate next
  step_size: Array  # [B]
  best: Point  # the point of highest loss
  memory: Any  # what the next step sizes depend on besides
  found: Found


class Schedule(NamedTuple):
  """How step sizes are chosen."""

  # Of a random point: delta, step size and memory.
  start: Callable[[Problem], tuple[Array, Array, Any]]
  # From the point just seen; the radius of the problem is that of step t + 1.
  move: Callable[[Problem, State, Point, Array], State]
  # The radius [B] to which step t keeps, in epsilons.
  factor: Callable[[Array], Array]


def make_apgd(
  *,
  norm: str | Norm,
  num_steps: int,
  loss_fn: LossFn,
  eot_samples: int | None = None,
  success: Literal['any', 'target'] = 'any',
) -> Search:
  """APGD as a search, the same one for the same choices.

  It moves towards the targets of a problem that has them. `success` says what
  counts as fooled then: 'any' misclassification, as in AutoAttack, or 'target'.
  """
  norm = norms.get(norm, ('linf', 'l2', 'l1'))
  make_schedule = _sparse if norm == norms.l1 else _halving
  schedule = make_schedule(norm, num_steps)

  def at(problem: Problem, t: Array) -> Problem:
    """The problem with the ball in which step t takes place."""
    factor = schedule.factor(t).astype(problem.dtype)
    return problem._replace(epsilon=problem.epsilon * factor)

  def start(problem: Problem) -> State:
    first = at(problem, jnp.zeros(problem.batch, jnp.int32))
    delta, step_size, memory = schedule.start(
      first._replace(keys=loop.fold(problem.keys, 0))
    )
    found = loop.nothing_found(problem)
    best = Point(delta, jnp.zeros_like(delta), found.score)
    return State(delta, step_size, best, memory, found)

  def step(
    logits_fn: LogitsFn, problem: Problem, state: State, t: Array
  ) -> State:
    images = at(problem, t).perturb(state.delta, norm)
    counted = problem if success == 'target' else problem._replace(targets=None)
    gradient, loss, fooled = loop.evaluate_with_gradient(
      logits_fn,
      problem,
      images,
      t + 1,
      functools.partial(_loss, loss_fn),
      eot_samples,
      counted,
    )
    seen = Point(state.delta, gradient, loss)
    # Points of a larger ball are intermediate, no results.
    final = schedule.factor(t) == 1
    new = Found(images, fooled & final, jnp.where(final, loss, -jnp.inf))
    state = state._replace(found=loop.better(new, state.found))
    return schedule.move(at(problem, t + 1), state, seen, t)

  return Search(
    start=start,
    step=step,
    found=lambda problem, state: state.found,
    num_steps=num_steps + 1,
    num_forward=eot_samples or 1,
    num_backward=eot_samples or 1,
  )


def _loss(loss_fn: LossFn, problem: Problem, logits: Any) -> Array:
  """What is maximised, [B]."""
  if loss_fn is losses.dlr:
    least = 3 if problem.targets is None else 4
    if getattr(logits, 'ndim', 0) == 2 and 2 <= logits.shape[1] < least:
      raise ValueError(
        f'loss_fn = losses.dlr with logits of shape {logits.shape}; allowed: '
        f'at least {least} classes{" with targets" if least == 4 else ""}, or '
        'losses.margin'
      )
    if problem.targets is not None:
      return losses.targeted_dlr(logits, problem.labels, problem.targets)
  return loop.attack_loss(problem, loss_fn, logits)


# -------------------------------------------------------------------- linf, l2


class _Halving(NamedTuple):
  previous: Array  # [B, ...], the point before the last move
  loss: Array  # [B], of the point seen last
  rises: Array  # int32 [B], moves since the last checkpoint that went up
  checked: Array  # [B], the highest loss at the last checkpoint
  halved: Array  # bool [B], whether the last checkpoint halved the step


def _halving(norm: Norm, num_steps: int) -> Schedule:
  """The schedule of linf and l2: momentum, and steps that are halved."""
  windows = _windows(num_steps)

  def project(problem: Problem, delta: Array) -> Array:
    projected: Array = norm.project(delta, problem.epsilon, *problem.slack())
    return projected

  def start(problem: Problem) -> tuple[Array, Array, _Halving]:
    radius = problem.epsilon
    draws = norm.sample(problem.keys, problem.zeros())
    size = norm.size(draws)
    scale = radius / jnp.where(size > 0, size, 1)
    delta = project(problem, draws * expand(scale, draws))
    memory = _Halving(
      previous=delta,
      loss=jnp.full_like(radius, jnp.inf),  # The start itself is no rise.
      rises=jnp.zeros_like(radius, jnp.int32),
      checked=jnp.full_like(radius, -jnp.inf),
      halved=jnp.ones_like(radius, bool),  # There was no last checkpoint.
    )
    return delta, 2 * radius, memory

  def move(problem: Problem, state: State, seen: Point, t: Array) -> State:
    memory = state.memory
    best = select(seen.loss > state.best.loss, seen, state.best)
    checked = jnp.where(t == 0, best.loss, memory.checked)
    # Against the point seen last, be it the one that a row went back from.
    rises = memory.rises + (seen.loss > memory.loss).astype(jnp.int32)
    window = _at(windows, t)
    checks = window > 0
    slow = 4 * rises < 3 * window
    stuck = ~memory.halved & (best.loss <= checked)
    halves = checks & (slow | stuck)
    step_size = jnp.where(halves, state.step_size / 2, state.step_size)
    here = select(halves, best, seen)

    x = here.delta
    step = expand(step_size, x) * norm.direction(here.gradient)
    aim = project(problem, x + step)
    weight = expand(jnp.where(t == 0, 1, 0.75).astype(x.dtype), x)
    momentum = (1 - weight) * (x - memory.previous)
    delta = project(problem, x + weight * (aim - x) + momentum)
    memory = _Halving(
      previous=x,
      loss=seen.loss,
      rises=jnp.where(checks, 0, rises),
      checked=jnp.where(checks, best.loss, checked),
      halved=jnp.where(checks, halves, memory.halved),
    )
    return State(delta, step_size, best, memory, state.found)

  return Schedule(start, move, jnp.ones_like)


def _windows(num_steps: int) -> np.ndarray:
  """How many steps a checkpoint at step t looks back on; 0: no checkpoint."""
  windows = np.zeros(num_steps + 1, np.int32)
  window, t = max(22 * num_steps // 100, 1), 0
  while t + window <= num_steps:
    t += window
    windows[t] = window
    window = max(window - max(3 * num_steps // 100, 1), 6 * num_steps // 100, 1)
  return windows


# -------------------------------------------------------------------------- l1


def _sparse(norm: Norm, num_steps: int) -> Schedule:
  """The schedule of l1: few pixels at a time, through shrinking balls.

  Its memory is int32 [B], the pixels that the best point changed when checked.
  """
  begins, ends, checks, factors = _phases(num_steps)

  def start(problem: Problem) -> tuple[Array, Array, Array]:
    radius, like = problem.epsilon, problem.zeros()
    draws = jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))
    # The size of the draws is that of the box: most of them are cut to 0.
    size = problem.upper - problem.lower
    size = jnp.where(jnp.isfinite(size), size, expand(radius, like))
    delta = norm.project(draws(problem.keys) * size, radius, *problem.slack())
    return delta, radius, jnp.zeros_like(radius, jnp.int32)

  def move(problem: Problem, state: State, seen: Point, t: Array) -> State:
    radius, begin, check = problem.epsilon, _at(begins, t), _at(checks, t)
    best = select(begin | (seen.loss > state.best.loss), seen, state.best)
    nonzero = jnp.where(
      begin | check, _nonzero(best.delta, radius), state.memory
    )
    sparser = check & (20 * nonzero < 19 * state.memory)
    longest = begin | sparser
    step_size = jnp.where(check, state.step_size / 1.5, state.step_size)
    step_size = jnp.where(longest, radius, jnp.maximum(step_size, radius / 10))
    here = select(sparser, best, seen)
    step = expand(step_size, here.delta) * _top(here.gradient, nonzero)
    delta = jnp.where(expand(_at(ends, t), step), best.delta, here.delta + step)
    delta = norm.project(delta, radius, *problem.slack())
    return State(delta, step_size, best, nonzero, state.found)

  return Schedule(start, move, lambda t: _at(factors, t))


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
  count = math.prod(gradient.shape[1:])
  sizes = jnp.abs(gradient).reshape(len(gradient), count)
  index = jnp.clip(count - (2 * nonzero + 2) // 3, 0, count - 1)
  threshold = jnp.take_along_axis(jnp.sort(sizes), index[:, None], axis=1)[:, 0]
  signs = jnp.where(
    jnp.abs(gradient) >= expand(threshold, gradient), jnp.sign(gradient), 0
  )
  share = 1 / jnp.maximum(norms.l1.size(signs), 1)
  return signs * expand(share, signs)


def _nonzero(delta: Array, radius: Array) -> Array:
  # A projection may leave its rounding errors where it means 0.
  tolerance = 8 * jnp.finfo(delta.dtype).eps * expand(radius, delta)
  changed = jnp.abs(delta) > tolerance
  return jnp.sum(changed, axis=tuple(range(1, delta.ndim)), dtype=jnp.int32)


def _at(table: np.ndarray, t: Array) -> Array:
  # Rows that are done count on; their result is not kept.
  return jnp.take(jnp.asarray(table), t, mode='clip')
