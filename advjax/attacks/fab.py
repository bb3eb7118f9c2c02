"""Fast adaptive boundary attack: the nearest misclassified image it can find.

It sees the model as linear around the point where it is, steps onto the
hyperplane between the classes and a little over it, drawn towards the original
on the way, and goes back some way whenever it is misclassified.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.attacks import checks, closest, hyperplane, planes, search
from advjax.attacks import inputs as inputs_lib
from advjax.attacks.planes import Plane
from advjax.attacks.search import Found, Problem, Search
from advjax.attacks.space import Space
from advjax.losses import cross_entropy
from advjax.norms import expand
from advjax.types import Array, ArrayLike, Bounds, LogitsFn


def fab(
  logits_fn: LogitsFn,
  images: Array,
  labels: Array,
  epsilon: ArrayLike | None,
  *,
  num_steps: int = 100,
  key: Array | None = None,
  num_restarts: int = 1,
  norm: str = 'linf',
  bounds: Bounds = (0.0, 1.0),
  targets: Array | None = None,
  eta: float = 1.05,
  beta: float = 0.9,
  alpha_max: float = 0.1,
) -> Array:
  """Fast adaptive boundary attack: the nearest misclassified image found.

  `x' = clip((1 - a) (x + eta d(x)) + a (x_0 + eta d(x_0)))`, where d(z) is the
  shortest step within bounds from z onto the hyperplane on which the linearised
  logits of the label and of another class are equal, and
  `a = min(|d(x)| / (|d(x)| + |d(x_0)|), alpha_max)`. Where x' is misclassified,
  the next step starts at `x_0 + beta (x' - x_0)`.

  Without targets the other class is, at each step, the one whose hyperplane is
  nearest, which takes a gradient for each class; with targets (FAB-T) it is
  that of the target, and any class but the label counts as misclassified.

  Croce and Hein 2019, arXiv 1907.02044.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds.
    labels: int `[B]`.
    epsilon: how far away the found image may be: a scalar or `[B]`, in units of
      the images; may be traced. None: any distance.
    num_steps: steps from each start, at least 1; static.
    key: one key, folded with the row, or `[B]` keys; for the random starts.
    num_restarts: starts, one after the other; static. The first one is at the
      images, the others are drawn half as far from them as the nearest found
      so far, or as epsilon if that is less.
    norm: 'linf', 'l2' or 'l1'.
    bounds: `(lower, upper)` of the images; either may be None, a number or an
      array that broadcasts. None: no box.
    targets: int `[B]`; the class whose hyperplane to step onto.
    eta: how far to step over the hyperplane, at least 1; static.
    beta: where to go back to, in [0, 1]; static.
    alpha_max: the largest pull towards the original, in [0, 1]; static.

  Returns:
    Images of the same shape and dtype, within bounds and within epsilon of
    images, behind stop_gradient: the nearest misclassified ones that were
    found, and the originals where there are none.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.attacks.fab import fab
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images = jnp.array([[0.5, 0.25]])
    >>> nearest = fab(logits_fn, images, jnp.array([0]), None, num_steps=50)
    >>> logits_fn(nearest).argmax(axis=1)
    Array([1], dtype=int32)
    >>> float(jnp.abs(nearest - images).max())  # 0.125 and a little more.
    0.126
  """
  num_restarts = checks.count('num_restarts', num_restarts)
  if num_restarts > 1 and key is None:
    raise ValueError(
      f'key must be given for num_restarts = {num_restarts}; got None'
    )
  inputs = inputs_lib.prepare(
    logits_fn,
    images,
    labels,
    epsilon=epsilon,
    step_size=0.0,
    loss_fn=cross_entropy,
    bounds=bounds,
    targets=targets,
    mask=None,
    key=key,
    one_array=True,
  )
  checks.check_integers('labels', inputs.labels, len(inputs.images))
  if targets is not None:
    checks.check_integers('targets', inputs.targets, len(inputs.images))
  made = make_fab(
    norm=norm,
    num_steps=checks.count('num_steps', num_steps),
    targeted=targets is not None,
    eta=checks.static_number('eta', eta, 1),
    beta=checks.static_number('beta', beta, 0, 1),
    alpha_max=checks.static_number('alpha_max', alpha_max, 0, 1),
    num_restarts=num_restarts,
  )
  return search.run(logits_fn, inputs, search=made, num_restarts=1)


@functools.lru_cache
def make_fab(
  *,
  norm: str,
  num_steps: int,
  targeted: bool,
  eta: float = 1.05,
  beta: float = 0.9,
  alpha_max: float = 0.1,
  num_restarts: int = 1,
) -> Search:
  """Returns FAB as a search, the same object for the same choices.

  Random starts are steps of the search, for they are drawn around what was
  found before. Without targets `num_backward` is per class other than the
  label: a step takes `num_backward * (K - 1)` backward passes.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    num_steps: steps from each start.
    targeted: whether the problems have targets.
    eta: how far to step over the hyperplane.
    beta: where to go back to.
    alpha_max: the largest pull towards the original.
    num_restarts: starts, the one at the images included.

  Returns:
    The search, of `num_steps * num_restarts` steps.

  Raises:
    ValueError: if there is no such norm.

  Example:
    >>> from advjax.attacks.fab import make_fab
    >>> make_fab(norm='l2', num_steps=100, targeted=True).num_steps
    100
  """
  if norm not in hyperplane.STEPS:
    raise ValueError(
      f'norm must be one of {sorted(hyperplane.STEPS)}; got {norm!r}'
    )

  def plane_at(
    logits_fn: LogitsFn, problem: Problem, point: Array
  ) -> tuple[Plane, Array]:
    labels, targets = problem.labels, problem.targets
    if not targeted:
      return planes.nearest(logits_fn, point, labels, norm)
    assert targets is not None
    return planes.towards(logits_fn, point, labels, targets)

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    space = _space_of(problem, norm)
    if num_restarts > 1:
      state = _restart(problem, space, state, t, num_steps)
    point = space.images([state.delta])[0]
    plane, logits = plane_at(logits_fn, problem, point)
    state = _keep(problem, space, state, point, logits)[0]
    delta = _move(space, norm, state.delta, plane, eta, alpha_max)
    point = space.images([delta])[0]
    state, fooled = _keep(problem, space, state, point, logits_fn(point))
    return state._replace(
      delta=jnp.where(expand(fooled, delta), beta * delta, delta)
    )

  return Search(
    start=_start,
    step=step,
    found=_found,
    num_steps=num_steps * num_restarts,
    num_forward=2,
    num_backward=1,
  )


class _State(NamedTuple):
  """Where a row is, and the nearest misclassified image it has seen."""

  delta: Array  # [B, ...], from the original to the point to linearise at
  images: Array  # [B, ...]
  distance: Array  # [B], infinite: none so far


def _start(problem: Problem) -> _State:
  images = problem.images
  delta = jnp.zeros_like(images, dtype=inputs_lib.compute_dtype(images))
  # Made from delta: under shard_map it must vary over the mesh as the images.
  infinite = jnp.inf + jnp.sum(_flat(delta), axis=1)
  return _State(delta, images, infinite)


def _found(problem: Problem, state: _State) -> Found:
  fooled = state.distance < jnp.inf
  if problem.epsilon is not None:
    fooled &= state.distance <= problem.epsilon
  images = search.select(fooled, state.images, problem.images)
  return Found(images, fooled, -state.distance)


def _space_of(problem: Problem, norm: str) -> Space:
  """The box alone: on its way a row may be farther away than epsilon."""
  return search.space_of(problem._replace(epsilon=None), norms.get(norm))


def _keep(
  problem: Problem, space: Space, state: _State, point: Array, logits: Array
) -> tuple[_State, Array]:
  """Keeps a misclassified point that is nearer; says where it is one: [B]."""
  fooled = closest.predicts(logits, problem.labels)[1]
  wide = state.delta.dtype
  moved = point.astype(wide) - problem.images.astype(wide)
  distance = space.norm.size([moved])
  nearer = fooled & (distance < state.distance)
  seen = state._replace(images=point, distance=distance)
  kept = search.select(nearer, seen, state)
  return kept, fooled


def _move(
  space: Space,
  norm: str,
  delta: Array,
  plane: Plane,
  eta: float,
  alpha_max: float,
) -> Array:
  """Steps over the plane, from where the row is and from the original."""
  here = _flat(delta)
  lower, upper = (_flat(room[0]) for room in space.room())
  # Both at once. From the original the gap is wider by what the row has moved.
  gap = plane.gap + jnp.sum(plane.weights * here, axis=1)
  both = hyperplane.STEPS[norm](
    jnp.concatenate([plane.weights, plane.weights]),
    jnp.concatenate([plane.gap, gap]),
    jnp.concatenate([lower - here, lower]),
    jnp.concatenate([upper - here, upper]),
  )
  length = jnp.maximum(space.norm.size([both]), 1e-8)
  step, from_original = jnp.split(both, 2)
  length, length_from_original = jnp.split(length, 2)
  pull = length / (length + length_from_original)
  pull = jnp.minimum(pull, alpha_max)[:, None]
  result = (1 - pull) * (here + eta * step) + pull * eta * from_original
  return jnp.clip(result, lower, upper).reshape(delta.shape)


def _restart(
  problem: Problem, space: Space, state: _State, t: Array, num_steps: int
) -> _State:
  """Puts rows that have taken num_steps since their last start at a new one."""
  begins = (t > 0) & (t % num_steps == 0)

  def draw(delta: Array) -> Array:
    keys = jax.vmap(jax.random.fold_in)(problem.keys, t // num_steps)
    draws = space.norm.sample(keys, [delta])
    size = space.norm.size(draws)
    radius = state.distance
    if problem.epsilon is not None:
      radius = jnp.minimum(radius, problem.epsilon)
    # Nothing found and no limit: half as far as the row has come.
    radius = jnp.where(radius < jnp.inf, radius, space.norm.size([delta]))
    scale = 0.5 * radius / jnp.where(size > 0, size, 1)
    (lower,), (upper,) = space.room()
    start = jnp.clip(draws[0] * expand(scale, delta), lower, upper)
    return jnp.where(expand(begins, delta), start, delta)

  # Steps on which no row begins anew draw nothing.
  delta = jax.lax.cond(jnp.any(begins), draw, lambda d: d, state.delta)
  return state._replace(delta=delta)


def _flat(x: Array) -> Array:
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))
