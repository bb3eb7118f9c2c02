"""Fast adaptive boundary attack: the nearest misclassified image it can find.

It linearises the model at the current point, steps onto the hyperplane between
the classes and a little over it, drawn towards the original on the way, and
goes back some way whenever it is misclassified.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from advjax import _arguments as arguments
from advjax import norms
from advjax._arguments import Problem
from advjax.attacks._core import boundary, loop
from advjax.attacks._core.loop import Found, Search
from advjax.norms import Norm, expand
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
    num_steps: steps from each start, at least 1; static; 100 as in AutoAttack.
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
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images = jnp.array([[0.5, 0.25]])
    >>> nearest = advjax.fab(
    ...   logits_fn, images, jnp.array([0]), None, num_steps=50
    ... )
    >>> logits_fn(nearest).argmax(axis=1)
    Array([1], dtype=int32)
    >>> float(jnp.abs(nearest - images).max())  # 0.125 and a little more.
    0.126
  """
  num_restarts = arguments.count('num_restarts', num_restarts)
  if num_restarts > 1 and key is None:
    allowed = f'a key, for num_restarts = {num_restarts}'
    raise arguments.error('key', None, allowed)
  search = Partial(
    make_fab,
    norm=norm,
    num_steps=arguments.count('num_steps', num_steps),
    eta=arguments.static_number('eta', eta, 1),
    beta=arguments.static_number('beta', beta, 0, 1),
    alpha_max=arguments.static_number('alpha_max', alpha_max, 0, 1),
    num_restarts=num_restarts,
  )
  return loop.attack(
    search,
    logits_fn,
    images,
    labels,
    epsilon=epsilon,
    bounds=bounds,
    targets=targets,
    key=key,
    integer_labels=True,
  )


class _State(NamedTuple):
  delta: Array  # [B, ...], from the original to the point to linearise at
  best: Found  # the nearest misclassified image; its score is -distance


def make_fab(
  *,
  norm: str | Norm,
  num_steps: int,
  eta: float = 1.05,
  beta: float = 0.9,
  alpha_max: float = 0.1,
  num_restarts: int = 1,
) -> Search:
  """FAB as a search, the same one for the same choices.

  Random starts are steps of the search, for they are drawn around what was
  found before. Without targets `num_backward` is per class other than the
  label: a step takes `num_backward * (K - 1)` backward passes.
  """
  norm = norms.get(norm, ('linf', 'l2', 'l1'))

  def start(problem: Problem) -> _State:
    return _State(problem.zeros(), loop.nothing_found(problem))

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    network = functools.partial(loop.call_for_logits, logits_fn)
    # The iterates may be farther away than epsilon: in the box alone.
    box = problem._replace(epsilon=None)
    any_class = problem._replace(targets=None)  # counts as misclassified
    labels, targets = problem.labels, problem.targets
    if num_restarts > 1:
      state = restart(problem, state, t)
    point = box.perturb(state.delta, norm)
    if targets is None:
      plane, logits = boundary.nearest(network, point, labels, norm)
    else:
      plane, logits = boundary.towards(network, point, labels, targets)
    fooled = loop.is_fooled(any_class, logits)
    best, _ = loop.nearer(point, fooled, state.best, problem, norm)
    delta = move(problem, state.delta, plane)
    point = box.perturb(delta, norm)
    fooled = loop.is_fooled(any_class, network(point))
    best, _ = loop.nearer(point, fooled, best, problem, norm)
    return _State(jnp.where(expand(fooled, delta), beta * delta, delta), best)

  def move(problem: Problem, delta: Array, plane: boundary.Hyperplane) -> Array:
    """Steps over the plane, from where the row is and from the original."""
    here = _flat(delta)
    lower, upper = map(_flat, problem.slack())
    # Both at once. From the original the gap is wider by what the row moved.
    gap = plane.gap + jnp.sum(plane.weights * here, axis=1)
    both = boundary.shortest_step(
      norm,
      jnp.concatenate([plane.weights, plane.weights]),
      jnp.concatenate([plane.gap, gap]),
      jnp.concatenate([lower - here, lower]),
      jnp.concatenate([upper - here, upper]),
    )
    length = jnp.maximum(norm.size(both), 1e-8)
    step, from_original = jnp.split(both, 2)
    length, length_from_original = jnp.split(length, 2)
    pull = length / (length + length_from_original)
    pull = jnp.minimum(pull, alpha_max)[:, None]
    result = (1 - pull) * (here + eta * step) + pull * eta * from_original
    return jnp.clip(result, lower, upper).reshape(delta.shape)

  def restart(problem: Problem, state: _State, t: Array) -> _State:
    """Puts rows that have taken num_steps since their start at a new one."""
    begins = (t > 0) & (t % num_steps == 0)

    def draw(delta: Array) -> Array:
      keys = loop.fold(problem.keys, t // num_steps)
      draws = norm.sample(keys, delta)
      size = norm.size(draws)
      radius = -state.best.score
      if problem.epsilon is not None:
        radius = jnp.minimum(radius, problem.epsilon)
      # Nothing found and no limit: half as far as the row has come.
      radius = jnp.where(radius < jnp.inf, radius, norm.size(delta))
      scale = 0.5 * radius / jnp.where(size > 0, size, 1)
      start = jnp.clip(draws * expand(scale, delta), *problem.slack())
      return jnp.where(expand(begins, delta), start, delta)

    # Steps on which no row starts again draw nothing.
    delta = jax.lax.cond(jnp.any(begins), draw, lambda d: d, state.delta)
    return state._replace(delta=delta)

  def found(problem: Problem, state: _State) -> Found:
    best, fooled = state.best, state.best.fooled
    if problem.epsilon is not None:
      fooled &= problem.excess(best.images, norm) <= 1
    return best._replace(
      images=loop.select(fooled, best.images, problem.images), fooled=fooled
    )

  return Search(start, step, found, num_steps * num_restarts, num_forward=2)


def _flat(x: Array) -> Array:
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))
