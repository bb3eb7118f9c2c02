"""Square: random search with windows, which asks for logits and no gradient."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from advjax import losses, norms
from advjax.attacks import checks, scores, windows
from advjax.attacks import inputs as inputs_lib
from advjax.attacks import search as search_lib
from advjax.attacks.search import Found, Problem, Search
from advjax.norms import Norm, expand
from advjax.types import Array, ArrayLike, Bounds, Labels, LogitsFn, LossFn

# Below any size in units of epsilon, save that of nothing at all.
_TINY = 1e-12
_ORDERS = {norms.linf: None, norms.l2: 2, norms.l1: 1}


class _State(NamedTuple):
  images: Array  # [B, ...], the best so far
  score: Array  # [B], -inf: none seen yet
  fooled: Array  # bool [B]
  # linf: the images whose pixels are all as low and all as high as can be. They
  # do not change, and all that a step does is to choose between the two.
  ends: tuple[Array, ...]


# (problem, state, t, words, plan) -> images [B, ...]
Propose = Callable[[Problem, _State, Array, Array, windows.Plan], Array]


def square(
  logits_fn: LogitsFn,
  images: Array,
  labels: Labels,
  epsilon: ArrayLike,
  *,
  num_queries: int = 5000,
  key: Array,
  num_restarts: int = 1,
  norm: str | Norm = 'linf',
  loss_fn: LossFn = losses.margin,
  bounds: Bounds = (0.0, 1.0),
  targets: Labels | None = None,
  p_init: float = 0.8,
) -> Array:
  """Square attack: changes in random windows, kept where the loss goes up.

  `x_{k+1} = c if loss(logits_fn(c), y) > loss(logits_fn(x_k), y) else x_k`,
  where the candidate c is x_k but for a window at a random place. It covers the
  share p of the image, which falls from p_init with the queries. linf: the
  window is x_0 +- epsilon, one sign per channel, after a start of vertical
  stripes of +- epsilon. l2, l1: a bump of two hills of opposite sign moves into
  the window, and what a second one held is taken from there; a start of bumps
  side by side. An example that is misclassified (with targets: classified as
  the target) is left alone from then on.

  Two-dimensional images `[B, H, W]` have one channel. Vectors `[B, D]` are
  images of height 1, whose windows are runs of coordinates. With more axes, all
  but the last two are the height.

  Andriushchenko et al. 2019, arXiv 1912.00049; l1: Croce and Hein 2021, arXiv
  2103.01208.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included; no
      gradient is taken.
    images: float `[B, H, W, C]` or `[B, ...]`, inside bounds; one array.
    labels: int `[B]`; what loss_fn takes.
    epsilon: radius in units of the images: a scalar or `[B]`; may be traced.
    num_queries: calls of logits_fn per restart, at least 1; static.
    key: one key, folded with the row, or `[B]` keys. Restart r folds in r, so
      that n restarts contain 1.
    num_restarts: number of random starts; static.
    norm: 'linf', 'l2' or 'l1'.
    loss_fn: `(logits, labels) -> [B]`, ascended; static.
    bounds: `(lower, upper)` of the images; either may be None, a number or an
      array that broadcasts. None: no clip.
    targets: like labels; the attack descends towards them instead.
    p_init: share of the image that the first windows cover, in (0, 1]; static.

  Returns:
    Adversarial images of the same shape and dtype, within bounds and within
    epsilon of images, behind stop_gradient: misclassified ones, else those of
    the highest loss.

  Raises:
    ValueError: if a shape, a static choice or a concrete value does not fit.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25]]), jnp.array([0])
    >>> key = jax.random.key(0)
    >>> advjax.square(
    ...   logits_fn, images, labels, 0.0625, num_queries=50, key=key
    ... )
    Array([[0.4375, 0.3125]], dtype=float32)
  """
  for name, value in (('epsilon', epsilon), ('key', key)):
    if value is None:
      raise ValueError(f'{name} must be given; got None')
  search = make_square(
    norm=norms.get(norm),
    num_queries=checks.count('num_queries', num_queries),
    loss_fn=loss_fn,
    targeted=targets is not None,
    p_init=p_init,
  )
  inputs = inputs_lib.prepare(
    logits_fn,
    images,
    labels,
    epsilon=epsilon,
    step_size=0.0,  # It goes as far as it may.
    loss_fn=loss_fn,
    bounds=bounds,
    targets=targets,
    mask=None,
    key=key,
    one_array=True,
  )
  return search_lib.run(
    logits_fn,
    inputs,
    search=search,
    num_restarts=checks.count('num_restarts', num_restarts),
  )


@functools.lru_cache
def make_square(
  *,
  norm: str | Norm,
  num_queries: int,
  loss_fn: LossFn,
  targeted: bool,
  p_init: float,
) -> Search:
  """Returns the search that `square` runs; the same one for the same choices.

  Args:
    norm: 'linf', 'l2' or 'l1'.
    num_queries: calls of the network.
    loss_fn: `(logits, labels) -> [B]`, ascended.
    targeted: whether it descends towards the problem's targets instead.
    p_init: share of the image that the first windows cover, in (0, 1].

  Raises:
    ValueError: if the norm or p_init is another one.
  """
  norm = norms.get(norm)
  if norm not in _ORDERS:
    raise ValueError(
      f'norm must be one of {sorted(norms.NORMS)} for square; got {norm!r}'
    )
  order = _ORDERS[norm]
  if not isinstance(p_init, numbers.Real) or not 0 < p_init <= 1:
    raise ValueError(f'p_init must be a number in (0, 1]; got {p_init!r}')
  propose: Propose = _propose_linf
  if order is not None:
    propose = functools.partial(_propose_bump, order=order)

  def start(problem: Problem) -> _State:
    keys = scores.fold(problem.keys, 0)  # Step 0 draws nothing.
    ends: tuple[Array, ...] = ()
    if order is None:
      images, ends = _stripes(problem, keys)
    else:
      images = _grid_of_bumps(problem, keys, order)
    score = jnp.full(len(images), -jnp.inf, problem.lower.dtype)
    return _State(images, score, score > 0, ends)

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    height, width, channels = _as_image(problem.images)
    plan = windows.make_plan(height, width, num_queries, p_init, order)
    count = (2 if order is None else 5) + -(-channels // 32)
    words = windows.draw(scores.fold(problem.keys, t), (count,))
    moved = propose(problem, state, t, words, plan)
    candidate = search_lib.select(t > 0, moved, state.images)
    logits = logits_fn(candidate)
    wanted = problem.targets if targeted else problem.labels
    score = scores.ascended(loss_fn, logits, wanted, targeted, len(candidate))
    fooled = scores.fooled(logits, wanted, targeted, score)
    better = (score > state.score) & ~jnp.any(jnp.isnan(logits), axis=-1)
    taken = (fooled | better) & ~state.fooled
    new = _State(candidate, score.astype(state.score.dtype), fooled, state.ends)
    return search_lib.select(taken, new, state)

  def found(problem: Problem, state: _State) -> Found:
    seen = state.fooled | (state.score > -jnp.inf)
    images = search_lib.select(seen, state.images, problem.images)
    return Found(images, state.fooled, state.score)

  return Search(start, step, found, num_queries, num_forward=1, num_backward=0)


# ------------------------------------------------------------------------ linf


def _stripes(problem: Problem, keys: Array) -> tuple[Array, tuple[Array, ...]]:
  """Vertical stripes of +-epsilon; the ends of the ball."""
  x = problem.images
  space = search_lib.space_of(problem, norms.linf)
  radius = jnp.broadcast_to(expand(_epsilon(problem), x), x.shape)
  low, high = space.images([-radius])[0], space.images([radius])[0]
  _, width, channels = _as_image(x)
  up = (windows.draw(keys, (1, width, channels)) & 1) > 0
  images = jnp.where(up, _spread(high), _spread(low))
  return images.reshape(x.shape), (low, high)


def _propose_linf(
  problem: Problem, state: _State, t: Array, words: Array, plan: windows.Plan
) -> Array:
  """One end of the ball in the window, per channel."""
  del problem
  low, high = map(_spread, state.ends)
  best = _spread(state.images)
  window = windows.place(plan, t, words[:, :2])
  up = windows.bits(words[:, 2:], best.shape[3])[:, None, None, :] > 0
  changed = jnp.where(up, high, low)
  return jnp.where(window.inside, changed, best).reshape(state.images.shape)


# ---------------------------------------------------------------------- l2, l1


def _grid_of_bumps(problem: Problem, keys: Array, order: int) -> Array:
  """Bumps side by side, each turned and signed at random."""
  dtype = _epsilon(problem).dtype
  height, width, channels = _as_image(problem.images)
  side = max(min(height, width) // 5, 1)
  shape = (height // side, width // side)
  bits = windows.draw(keys, (*shape, 1 + channels)) & 1
  rows, columns = (
    jnp.asarray(part, dtype) for part in windows.bump(side, side, order)
  )
  tile = rows[0][:, None] * jnp.minimum(rows[1][:, None], columns[1][None])
  turned = bits[..., :1, None] > 0
  tiles = jnp.where(turned, tile.T[None, None, None], tile[None, None, None])
  signs = 2 * bits[..., 1:].astype(dtype) - 1
  # [B, down, right, side, side, C] -> [B, H, W, C], with a margin.
  grid = tiles[..., None] * signs[:, :, :, None, None]
  grid = jnp.swapaxes(grid, 2, 3)
  grid = grid.reshape(len(grid), shape[0] * side, shape[1] * side, channels)
  spare = height - grid.shape[1], width - grid.shape[2]
  edges = [(0, 0), *((n // 2, n - n // 2) for n in spare), (0, 0)]
  return _inside(problem, jnp.pad(grid, edges), order)


def _propose_bump(
  problem: Problem,
  state: _State,
  t: Array,
  words: Array,
  plan: windows.Plan,
  order: int,
) -> Array:
  """A bump in one window, of what this one and another one held."""
  epsilon = _epsilon(problem)
  dtype = epsilon.dtype
  x, best = _spread(problem.images), _spread(state.images)
  channels = x.shape[3]
  # In units of epsilon: the squares of tiny ones would underflow.
  radius = expand(jnp.where(epsilon > 0, epsilon, 1), x)
  delta = (best.astype(dtype) - x.astype(dtype)) / radius
  window = windows.place(plan, t, words[:, :2])
  source = windows.place(plan, t, words[:, 2:4])
  turned = (words[:, 4] & 1).astype(jnp.int32)
  signs = 2 * windows.bits(words[:, 5:], channels).astype(dtype) - 1

  area, image = (1, 2), (1, 2, 3)
  both = window.inside | source.inside
  held = _size(jnp.where(both, delta, 0), order, area) ** order
  left = jnp.maximum(1 - _size(delta, order, image) ** order, 0)
  budget = (left / channels + held) ** (1 / order)
  if order == 1:
    budget = budget * channels  # The projection takes what is too much.
  old = _unit(jnp.where(window.inside, delta, 0), order, area)
  new = windows.bumps(plan, t, window, turned, dtype) * signs[:, None, None]
  new = _unit(new + old, order, area) * budget
  delta = jnp.where(source.inside, 0, delta)
  delta = jnp.where(window.inside, new, delta)
  if order == 1:
    delta = delta * expand(epsilon, delta)
  return _inside(problem, delta, order)


def _inside(problem: Problem, delta: Array, order: int) -> Array:
  """The images in ball and box: l2 scales up to the sphere, l1 projects."""
  epsilon, shape = _epsilon(problem), problem.images.shape
  if order == 2:
    space = search_lib.space_of(problem, norms.l2)
    delta = _unit(delta, 2, (1, 2, 3)) * expand(epsilon, delta)
    return space.images([delta.reshape(shape)])[0]
  space = search_lib.space_of(problem, norms.l1)
  (lower,), (upper,) = space.room()
  delta = norms.l1.project(delta.reshape(shape), epsilon, lower, upper)
  return space.images([delta])[0]


# ------------------------------------------------------------------------ rows


def _epsilon(problem: Problem) -> Array:
  if problem.epsilon is None:
    raise ValueError('epsilon must be a number or [B]; got None')
  return problem.epsilon


def _as_image(x: Array) -> tuple[int, int, int]:
  """Height, width and channels of images of any rank."""
  shape = x.shape[1:]
  if len(shape) < 3:
    return math.prod(shape[:-1]), shape[-1], 1
  return math.prod(shape[:-2]), shape[-2], shape[-1]


def _spread(x: Array) -> Array:
  return x.reshape(len(x), *_as_image(x))


def _size(x: Array, order: int, axes: tuple[int, ...]) -> Array:
  """The norm over some axes, which stay."""
  if order == 1:
    return jnp.sum(jnp.abs(x), axes, keepdims=True)
  return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))


def _unit(x: Array, order: int, axes: tuple[int, ...]) -> Array:
  return x / (_size(x, order, axes) + _TINY)
