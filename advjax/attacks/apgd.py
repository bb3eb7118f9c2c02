"""APGD: projected gradient ascent that chooses its own step sizes."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses, norms
from advjax.attacks import checks, scores, search
from advjax.attacks import inputs as inputs_lib
from advjax.attacks.search import Found, Problem, Search, better, select
from advjax.attacks.space import Space
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
  """Auto-PGD: no step size to choose; the best point that it meets.

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
    num_steps: number of steps, at least 1; static. The model is asked once per
      step and once for the start.
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
  for name, value in (('epsilon', epsilon), ('key', key)):
    if value is None:
      raise ValueError(f'{name} must be given; got None')
  if eot_samples is not None:
    eot_samples = checks.count('eot_samples', eot_samples)
  own_search = make_apgd(
    norm=norm,
    num_steps=checks.count('num_steps', num_steps),
    loss_fn=loss_fn,
    targeted=targets is not None,
    eot_samples=eot_samples,
    success='any' if targets is None else 'target',
  )
  inputs = inputs_lib.prepare(
    logits_fn,
    images,
    labels,
    epsilon=epsilon,
    step_size=0.0,  # It finds its own.
    loss_fn=loss_fn,
    bounds=bounds,
    targets=targets,
    mask=None,
    key=key,
    eot_samples=eot_samples,
  )
  return search.run(
    logits_fn,
    inputs,
    search=own_search,
    num_restarts=checks.count('num_restarts', num_restarts),
  )


class _Best(NamedTuple):
  """Where the loss was highest, and what the step from there needs."""

  delta: Array  # [B, ...]
  gradient: Array  # [B, ...]
  loss: Array  # [B]


class _State(NamedTuple):
  """What APGD knows of its rows; all [B] or [B, ...]."""

  delta: Array  # the point to evaluate next
  step_size: Array
  best: _Best
  pace: Any  # what the choice of step sizes remembers
  found: Found


class _Halving(NamedTuple):
  """What the step sizes of linf and l2 depend on."""

  previous: Array  # [B, ...], the point before the last move
  loss: Array  # [B], at the last point
  rises: Array  # int32 [B], steps since the last checkpoint that climbed
  checked: Array  # [B], the highest loss at the last checkpoint
  halved: Array  # bool [B], whether the last checkpoint halved the step


class _Sparse(NamedTuple):
  """What the step sizes of l1 depend on."""

  nonzero: Array  # int32 [B], coordinates that the best perturbation changes


class _Rule(NamedTuple):
  """How a norm starts and moves."""

  start: Callable[[Space, Array], tuple[Array, Any]]  # -> (delta, pace)
  radius: Callable[[Array, Array], Array]  # (epsilon, t) -> [B]
  counts: Callable[[Array], Array]  # t -> bool [B], inside the real ball
  move: Callable[..., _State]  # (space, next radius, state, seen, t) -> state


@functools.lru_cache
def make_apgd(
  *,
  norm: str | Norm,
  num_steps: int,
  loss_fn: LossFn,
  targeted: bool,
  eot_samples: int | None,
  success: Literal['any', 'target'] = 'any',
) -> Search:
  """Returns APGD as a search; the same one for the same choices.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    num_steps: number of steps, besides the evaluation of the start.
    loss_fn: `(logits, labels) -> [B]`.
    targeted: whether it moves towards the targets of the problem.
    eot_samples: draws of a random model per step, or None.
    success: what counts as fooled: 'any' misclassification, or the 'target'.

  Raises:
    ValueError: if the norm is another one.
  """
  norm = norms.get(norm)
  if norm not in norms.NORMS.values():
    raise ValueError(
      f'norm must be one of {sorted(norms.NORMS)} for apgd; got {norm!r}'
    )
  rule = _l1_rule(num_steps) if norm == norms.l1 else _rule(norm, num_steps)

  def start(problem: Problem) -> _State:
    space = _space(problem, norm, rule.radius(problem.epsilon, _zeros(problem)))
    delta, pace = rule.start(space, scores.fold(problem.keys, 0))
    lowest = jnp.full(space.batch, -jnp.inf, problem.lower.dtype)
    return _State(
      delta=delta,
      step_size=jnp.zeros_like(lowest),
      best=_Best(delta, jnp.zeros_like(delta), lowest),
      pace=pace,
      found=Found(problem.images, jnp.zeros_like(lowest, bool), lowest),
    )

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    space = _space(problem, norm, rule.radius(problem.epsilon, t))
    evaluate = scores.make_evaluate(
      logits_fn,
      lambda logits: _score(loss_fn, logits, problem, targeted),
      lambda logits, score: _fooled(logits, score, problem, success),
      problem.images,
      eot_samples,
    )
    images = space.images([state.delta])
    (_, (loss, fooled)), gradient = jax.value_and_grad(evaluate, has_aux=True)(
      images, problem.keys, t + 1
    )
    seen = _finite(state.delta, gradient[0], loss.astype(state.best.loss.dtype))
    counts = rule.counts(t)
    lowest = jnp.where(counts, seen.loss, -jnp.inf)
    found = better(Found(images[0], fooled & counts, lowest), state.found)
    state = state._replace(found=found)
    radius = rule.radius(problem.epsilon, t + 1)
    return rule.move(space, radius, state, seen, t)

  samples = eot_samples or 1
  return Search(
    start, step, lambda _, state: state.found, num_steps + 1, samples, samples
  )
