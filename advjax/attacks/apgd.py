"""APGD: projected gradient ascent that chooses its own step sizes."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from advjax import losses, norms
from advjax.attacks import checks, scores, search
from advjax.attacks import inputs as inputs_lib
from advjax.attacks import pace as pace_lib
from advjax.attacks.pace import Pace, Point, Walk
from advjax.attacks.search import Found, Problem, Search, better
from advjax.attacks.space import Space
from advjax.norms import Norm
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
    one_array=True,
  )
  return search.run(
    logits_fn,
    inputs,
    search=make_apgd(
      norm=norm,
      num_steps=checks.count('num_steps', num_steps),
      loss_fn=loss_fn,
      targeted=targets is not None,
      eot_samples=eot_samples,
      success='any' if targets is None else 'target',
    ),
    num_restarts=checks.count('num_restarts', num_restarts),
  )


class _Choices(NamedTuple):
  """What is static."""

  norm: Norm
  pace: Pace
  loss_fn: LossFn
  targeted: bool
  eot_samples: int | None
  success: Literal['any', 'target']


class _State(NamedTuple):
  walk: Walk
  found: Found


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
    num_steps: number of steps, besides the look at the start.
    loss_fn: `(logits, labels) -> [B]`.
    targeted: whether it moves towards the targets of the problem.
    eot_samples: draws of a random model per step, or None.
    success: what counts as fooled: 'any' misclassification, as AutoAttack
      counts targeted attacks too, or the 'target'.

  Raises:
    ValueError: if the norm or success is another one.
  """
  norm = norms.get(norm)
  if norm not in norms.NORMS.values():
    raise ValueError(
      f'norm must be one of {sorted(norms.NORMS)} for apgd; got {norm!r}'
    )
  if success not in (('any', 'target') if targeted else ('any',)):
    raise ValueError(
      "success must be 'any', or 'target' of a targeted attack; "
      f'got {success!r} with targeted={targeted}'
    )
  if norm == norms.l1:
    pace = pace_lib.sparse(num_steps)
  else:
    pace = pace_lib.halving(norm, num_steps)
  choices = _Choices(norm, pace, loss_fn, targeted, eot_samples, success)
  return Search(
    start=functools.partial(_start, choices),
    step=functools.partial(_step, choices),
    found=lambda problem, state: state.found,
    num_steps=num_steps + 1,
    num_forward=eot_samples or 1,
    num_backward=eot_samples or 1,
  )


def _start(choices: _Choices, problem: Problem) -> _State:
  batch = len(problem.images)
  space = _space(choices, problem, jnp.zeros(batch, jnp.int32))
  found = Found(
    problem.images,
    jnp.zeros(batch, bool),
    jnp.full(batch, -jnp.inf, problem.lower.dtype),
  )
  walk = choices.pace.start(space, scores.fold(problem.keys, 0))
  return _State(walk, found)


def _step(
  choices: _Choices,
  logits_fn: LogitsFn,
  problem: Problem,
  state: _State,
  t: Array,
) -> _State:
  walk, found = state
  images = _space(choices, problem, t).images([walk.delta])
  evaluate = scores.make_evaluate(
    logits_fn,
    functools.partial(_score, choices, problem),
    functools.partial(_fooled, choices, problem),
    problem.images,
    choices.eot_samples,
  )
  gradient_fn = jax.value_and_grad(evaluate, has_aux=True)
  (_, (loss, fooled)), gradient = gradient_fn(images, problem.keys, t + 1)
  seen = _point(walk.delta, gradient[0], loss.astype(found.score.dtype))
  # What lies in a larger ball is a stage on the way, no result.
  final = choices.pace.final(t)
  score = jnp.where(final, seen.loss, -jnp.inf)
  found = better(Found(images[0], fooled & final, score), found)
  space = _space(choices, problem, t + 1)
  return _State(choices.pace.move(space, walk, seen, t), found)


def _space(choices: _Choices, problem: Problem, t: Array) -> Space:
  """The ball in which step t takes place."""
  space = search.space_of(problem, choices.norm)
  if space.epsilon is None:
    raise ValueError('epsilon must be a number or [B]; got None')
  return space._replace(epsilon=choices.pace.radius(space.epsilon, t))


def _score(choices: _Choices, problem: Problem, logits: Any) -> Array:
  """What is ascended, [B]."""
  loss_fn = choices.loss_fn
  targets = problem.targets if choices.targeted else None
  if loss_fn is losses.dlr:
    least = 3 if targets is None else 4
    if logits.ndim == 2 and logits.shape[1] < least:
      raise ValueError(
        f'loss_fn: losses.dlr needs at least {least} classes'
        f'{"" if targets is None else " with targets"}; got logits of shape '
        f'{logits.shape}; take losses.margin instead'
      )
    if targets is not None:
      return losses.targeted_dlr(logits, problem.labels, targets)
  wanted = problem.labels if targets is None else targets
  return scores.ascended(
    loss_fn, logits, wanted, targets is not None, len(problem.images)
  )


def _fooled(
  choices: _Choices, problem: Problem, logits: Any, score: Array
) -> Array:
  targeted = choices.success == 'target'
  wanted = problem.targets if targeted else problem.labels
  return scores.fooled(logits, wanted, targeted, score)


def _point(delta: Array, gradient: Array, loss: Array) -> Point:
  """What was seen; NaN is the lowest loss, and nothing climbs along it."""
  # Any loss that a point can have beats the -inf of having seen none.
  lowest = jnp.finfo(loss.dtype).min
  gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
  return Point(
    delta,
    gradient.astype(delta.dtype),
    jnp.where(loss > lowest, loss, lowest),
  )
