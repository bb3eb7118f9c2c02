"""DeepFool: to the nearest boundary of the linearised network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax import norms
from advjax._arguments import Problem
from advjax.attacks._core import boundary, loop
from advjax.callables import compile_per_callable
from advjax.norms import Norm, expand
from advjax.types import Array, Bounds, Labels, LogitsFn

# Added to every distance by the paper's own program, to end beyond a boundary.
_BEYOND = 1e-4


def deepfool(
  logits_fn: LogitsFn,
  images: Array,
  labels: Labels,
  *,
  num_steps: int = 50,
  num_candidates: int = 10,
  overshoot: float = 0.02,
  norm: str | Norm = 'l2',
  bounds: Bounds = (0.0, 1.0),
) -> Array:
  """DeepFool: repeated steps to the nearest boundary of the linearised network.

  `r += (|f_k| / |w_k|_* + 1e-4) * d_k`, where `f_k = z_k(x) - z_y(x)`, w_k is
  its gradient, |.|_* the dual norm, d_k the unit step in the norm along which
  f_k rises fastest, and k the candidate with the least `|f_k| / |w_k|_*`. The
  next x is `clip(x_0 + (1 + overshoot) * r)`: the sum r itself is not clipped.
  A row ends at its first misclassified x, from which a bisection of ten forward
  passes, not in the paper, goes back towards x_0 as far as the margin stays
  more than the rounding of the logits.

  Moosavi-Dezfooli et al. 2015, arXiv 1511.04599.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]` inside bounds.
    labels: int `[B]`.
    num_steps: largest number of steps, at least 1; static; 50, as the next two,
      from the authors' program.
    num_candidates: classes of the highest clean logits, the label's own among
      them, whose boundaries are compared; at least 2; static. Each but the
      label costs a backward pass per step, and a step one forward pass; one
      step more evaluates the last images, unless all rows have ended before.
    overshoot: share by which r is lengthened, so that a step crosses the
      boundary; static. The bisection takes back what was too much of it.
    norm: 'l2' or 'linf', what is to be small.
    bounds: `(lower, upper)` of the images or None; see `fgsm`.

  Returns:
    Misclassified images of the same shape and dtype, within bounds, behind
    stop_gradient. Rows that are misclassified from the beginning, and rows for
    which nothing was found, are the originals bit for bit.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> advjax.deepfool(logits_fn, images, labels, norm='linf').round(3)
    Array([[0.375, 0.375]], dtype=float32)
  """
  norm = norms.get(norm, ('l2', 'linf'))
  static = {
    'num_steps': arguments.count('num_steps', num_steps),
    'num_candidates': arguments.count('num_candidates', num_candidates, 2),
    'overshoot': arguments.static_number('overshoot', overshoot),
  }
  problem = arguments.check(
    logits_fn,
    images,
    labels,
    bounds=bounds,
    one_array=True,
    integer_labels=True,
  )
  return _run(logits_fn, problem, norm=norm, **static)


class _State(NamedTuple):
  t: Array  # the steps so far
  total: Array  # [B, ...], their sum, without overshoot or clip
  candidates: Array  # int [B, num_candidates - 1], the classes to aim at
  images: Array  # [B, ...], the first that fooled, or the originals
  fooled: Array  # [B]


def _until_fooled(
  logits_fn: LogitsFn,
  problem: Problem,
  *,
  num_steps: int,
  num_candidates: int,
  overshoot: float,
  norm: Norm,
) -> Array:
  problem = problem.per_example()
  rows = jnp.arange(problem.batch)

  def step(state: _State) -> _State:
    """The last step only evaluates the images of the one before."""
    images = problem.perturb((1 + overshoot) * state.total, norm)
    logits, pull = jax.vjp(
      lambda x: loop.call_for_logits(logits_fn, x).astype(problem.dtype), images
    )
    own = jax.nn.one_hot(problem.labels, logits.shape[1], dtype=bool)
    others = jnp.where(own, -jnp.inf, logits)
    count = min(num_candidates, logits.shape[1]) - 1
    ranked = jax.lax.top_k(others, count)[1].astype(jnp.int32)
    candidates = jnp.where(
      state.t == 0, state.candidates.at[:, :count].set(ranked), state.candidates
    )

    def towards(k: Array) -> tuple[Array, Array]:
      aim = jax.nn.one_hot(k, logits.shape[1], dtype=logits.dtype)
      (gradient,) = pull(aim - own.astype(logits.dtype))
      gradient = loop.finite(gradient)
      gap = logits[rows, k] - logits[rows, problem.labels]
      return boundary.distance(norm, gradient, gap), gradient

    distances, gradients = jax.vmap(towards)(candidates[:, :count].T)
    nearest = jnp.argmin(distances, axis=0)
    direction = norm.direction(gradients[nearest, rows])
    length = expand(distances[nearest, rows] + _BEYOND, direction)
    total = state.total + length * direction
    # Without a gradient the boundary is infinitely far, and 0 * inf is NaN.
    total = jnp.where(jnp.isfinite(total), total, state.total)
    fooled = loop.is_fooled(problem, logits)
    images = loop.select(fooled & ~state.fooled, images, state.images)
    return _State(state.t + 1, total, candidates, images, state.fooled | fooled)

  start = _State(
    jnp.int32(0),
    problem.zeros(),
    jnp.zeros((problem.batch, num_candidates - 1), jnp.int32),
    problem.images,
    jnp.zeros(problem.batch, bool),
  )
  start = loop.vary_alike(step, (start,))[0]
  # Most rows take a handful of the steps: end when the last one is fooled.
  state: _State = jax.lax.while_loop(
    lambda state: (state.t <= num_steps) & ~jnp.all(state.fooled), step, start
  )
  return boundary.bisect(logits_fn, problem, state.images, norm)


_run = compile_per_callable(_until_fooled)
