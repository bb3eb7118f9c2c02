"""Square: random search with windows, a score-based black-box attack.

Every row of a batch has a window of a size of its own, which follows from its
step. So windows are masks, made of one range of rows and one of columns each,
and what depends on their size is looked up in small tables made beforehand.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from advjax import _arguments as arguments
from advjax import losses, norms
from advjax._arguments import Problem
from advjax.attacks._core import loop
from advjax.attacks._core.loop import Found, Search
from advjax.norms import Norm, expand
from advjax.types import Array, ArrayLike, Bounds, Labels, LogitsFn, LossFn

# Below any size in units of epsilon, save that of nothing at all.
_TINY = 1e-12
_ORDERS = {norms.linf: None, norms.l2: 2, norms.l1: 1}
# Of 10,000 queries, those after which the windows shrink to half their area.
_SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


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
    num_queries: calls of logits_fn per restart, at least 1; static; 5000 as in
      AutoAttack.
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
  arguments.check_given(epsilon=epsilon, key=key)
  search = Partial(
    make_square,
    norm=norm,
    num_queries=arguments.count('num_queries', num_queries),
    loss_fn=loss_fn,
    p_init=arguments.static_number('p_init', p_init, high=1),
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
  )


class _State(NamedTuple):
  best: Found  # with a score of -inf: none seen yet
  # linf: the images whose pixels are all as low and all as high as can be. They
  # do not change, and all that a step does is to choose between the two.
  ends: tuple[Array, ...]


def make_square(
  *,
  norm: str | Norm,
  num_queries: int,
  loss_fn: LossFn = losses.margin,
  p_init: float = 0.8,
) -> Search:
  """Square as a search, the same one for the same choices."""
  norm = norms.get(norm, ('linf', 'l2', 'l1'))
  order = _ORDERS[norm]
  if p_init == 0:
    raise arguments.error('p_init', p_init, 'a Python number in (0, 1]')

  def start(problem: Problem) -> _State:
    keys = loop.fold(problem.keys, 0)  # Step 0 draws nothing.
    ends: tuple[Array, ...] = ()
    if order is None:
      images, ends = _stripes(problem, keys)
    else:
      images = _grid_of_bumps(problem, keys, norm, order)
    return _State(loop.nothing_found(problem)._replace(images=images), ends)

  def step(
    logits_fn: LogitsFn, problem: Problem, state: _State, t: Array
  ) -> _State:
    height, width, channels = _as_image(problem.images)
    plan = make_plan(height, width, num_queries, p_init, order)
    count = (2 if order is None else 5) + -(-channels // 32)
    words = _draw(loop.fold(problem.keys, t), (count,))
    if order is None:
      moved = _propose_linf(state, t, words, plan)
    else:
      moved = _propose_bump(problem, state, t, words, plan, norm, order)
    best = state.best
    candidate = loop.select(t > 0, moved, best.images)
    logits = logits_fn(candidate)
    score = loop.attack_loss(problem, loss_fn, logits)
    fooled = loop.is_fooled(problem, logits) & ~jnp.isnan(score)
    better = (score > best.score) & ~jnp.any(jnp.isnan(logits), axis=-1)
    taken = (fooled | better) & ~best.fooled
    new = Found(candidate, fooled, score.astype(problem.dtype))
    return _State(loop.select(taken, new, best), state.ends)

  def found(problem: Problem, state: _State) -> Found:
    best = state.best
    seen = best.fooled | (best.score > -jnp.inf)
    images = loop.select(seen, best.images, problem.images)
    return best._replace(images=images)

  return Search(start, step, found, num_queries, num_backward=0)


# --------------------------------------------------------------------- windows


class Plan(NamedTuple):
  """The windows precomputed before the first query."""

  stage: np.ndarray  # int [num_queries], how often the windows have shrunk
  sides: np.ndarray  # int [stages, 2], height and width
  # [stages, 2, 2, H] and [stages, 2, 2, W], the tables of `bump`: per
  # orientation the weight and the peak of every row and column of the window.
  rows: np.ndarray
  columns: np.ndarray


class Window(NamedTuple):
  """One window per row of the batch."""

  down: Array  # int32 [B, H], rows below the top of the window
  right: Array  # int32 [B, W]
  inside: Array  # bool [B, H, W, 1]


def make_plan(
  height: int, width: int, num_queries: int, p_init: float, order: int | None
) -> Plan:
  """Makes the tables; order is 2 or 1, the norm of the bumps, None: no bumps.

  The schedule is that of 10,000 queries, stretched to num_queries. The first
  query is that of the start.
  """
  progress = np.arange(num_queries) / num_queries * 10_000
  stages = np.searchsorted(_SHRINKS, progress.astype(int))
  count = len(_SHRINKS) + 1
  sides = np.array(
    [
      window_sides(height, width, p_init / 2**s, odd=order is not None)
      for s in range(count)
    ]
  )
  rows = np.zeros((count, 2, 2, height))
  columns = np.zeros((count, 2, 2, width))
  if order is not None:
    for s, (h, w) in enumerate(sides.tolist()):
      rows[s, 0, :, :h], columns[s, 0, :, :w] = bump(h, w, order)
      columns[s, 1, :, :w], rows[s, 1, :, :h] = bump(w, h, order)
  return Plan(
    np.concatenate([[0], stages[:-1]]).astype(np.int32),
    sides.astype(np.uint32),
    rows.astype(np.float32),
    columns.astype(np.float32),
  )


def window_sides(
  height: int, width: int, share: float, odd: bool
) -> tuple[int, int]:
  """Height and width of the window that covers this share of an image.

  A square, as long as one fits in; else a rectangle along the longer side. Odd
  sides are at least 3, where they fit in.
  """
  side = max(round((share * height * width) ** 0.5), 3 if odd else 1)
  if odd and side % 2 == 0:
    side += 1
  short = min(height, width)
  longer = side
  if side > short:
    longer = max(round(share * height * width / short), side)
    side = short
  if height < width:
    return side, min(longer, width)
  return min(longer, height), side


def bump(height: int, width: int, order: int) -> tuple[np.ndarray, np.ndarray]:
  """Two hills of opposite sign, one above the other, of norm 1 together.

  A hill is a sum of concentric squares: its height depends on the larger one of
  two distances from its peak, in rows and in columns. As it falls with either,
  it is the smaller one of what it would be for each of the two. So

    bump[i, j] = rows[0, i] * columns[0, j] * min(rows[1, i], columns[1, j]).

  Returns rows `[2, height]` and columns `[2, width]`: weights, then peaks.
  """
  half = height // 2
  ups = [np.abs(np.arange(n) - n // 2) for n in (half, height - half)]
  away = np.abs(np.arange(width) - width // 2)
  reach = 1 + max(x.max(initial=0) for x in (*ups, away))
  falls = np.arange(1, reach + 1) ** (-4.0 / order)
  hill = np.cumsum(falls[::-1])[::-1]
  columns = np.stack([np.ones(width), hill[away]])
  parts = []
  for sign, up in zip((1, -1), ups, strict=True):
    values = np.minimum(hill[up][:, None], columns[1][None])
    size = np.sum(values**order) ** (1 / order)
    parts.append([np.full(len(up), sign / size if len(up) else 0), hill[up]])
  rows = np.concatenate(parts, axis=1)
  # Of a window of a single row, the lower half is all.
  rows[0] /= 2 ** (1 / order) if half else 1
  return rows, columns


def _draw(keys: Any, shape: tuple[int, ...]) -> Array:
  """Random words, uint32 `[B, *shape]`, each row's from its key alone."""
  return jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys)


def _bits(words: Array, count: int) -> Array:
  """The first bits of `[B, words]`, 32 of each word: `[B, count]`."""
  which = np.arange(count)
  shift = jnp.asarray(which % 32, jnp.uint32)[None]
  return (words[:, which // 32] >> shift) & 1


def _place(plan: Plan, t: Array, words: Array) -> Window:
  """Puts a window anywhere in the image, equally often: `[B, 2]` words."""
  shape = plan.rows.shape[-1], plan.columns.shape[-1]
  stage = jnp.asarray(plan.stage)[t]
  size = jnp.asarray(plan.sides)[stage]
  # All places, as in the paper; the authors' code leaves out the last ones.
  ends = jnp.asarray([shape], jnp.uint32) - size + 1
  corner = (words % ends).astype(jnp.int32)
  size = size.astype(jnp.int32)
  down = jnp.arange(shape[0])[None] - corner[:, :1]
  right = jnp.arange(shape[1])[None] - corner[:, 1:]
  in_rows = (down >= 0) & (down < size[:, :1])
  in_columns = (right >= 0) & (right < size[:, 1:])
  inside = in_rows[:, :, None, None] & in_columns[:, None, :, None]
  return Window(down, right, inside)


def _place_bumps(
  plan: Plan, t: Array, window: Window, turned: Array, dtype: Any
) -> Array:
  """The bump of each row's window, 0 outside: `[B, H, W, 1]`.

  `turned`, int `[B]`, is 1 where one hill is to be beside the other.
  """
  stage = jnp.asarray(plan.stage)[t]

  def profile(table: np.ndarray, at: Array) -> Array:
    own = jnp.asarray(table, dtype)[stage, turned]
    at = jnp.clip(at, 0, table.shape[-1] - 1)
    return jnp.take_along_axis(own, at[:, None, :], axis=2)

  rows = profile(plan.rows, window.down)[:, :, :, None, None]
  columns = profile(plan.columns, window.right)[:, :, None, :, None]
  bump = rows[:, 0] * columns[:, 0] * jnp.minimum(rows[:, 1], columns[:, 1])
  return jnp.where(window.inside, bump, 0)


# ------------------------------------------------------------------------ linf


def _stripes(problem: Problem, keys: Any) -> tuple[Array, tuple[Array, ...]]:
  """Vertical stripes of +-epsilon; the ends of the ball."""
  x = problem.images
  radius = jnp.broadcast_to(expand(problem.epsilon, x), x.shape)
  low, high = (problem.perturb(d, norms.linf) for d in (-radius, radius))
  _, width, channels = _as_image(x)
  up = (_draw(keys, (1, width, channels)) & 1) > 0
  images = jnp.where(up, _spread(high), _spread(low))
  return images.reshape(x.shape), (low, high)


def _propose_linf(state: _State, t: Array, words: Array, plan: Plan) -> Array:
  """One end of the ball in the window, per channel."""
  low, high = map(_spread, state.ends)
  best = _spread(state.best.images)
  window = _place(plan, t, words[:, :2])
  up = _bits(words[:, 2:], best.shape[3])[:, None, None, :] > 0
  changed = jnp.where(up, high, low)
  return jnp.where(window.inside, changed, best).reshape(
    state.best.images.shape
  )


# ---------------------------------------------------------------------- l2, l1


def _grid_of_bumps(
  problem: Problem, keys: Any, norm: Norm, order: int
) -> Array:
  """Bumps side by side, each turned and signed at random."""
  dtype = problem.dtype
  height, width, channels = _as_image(problem.images)
  side = max(min(height, width) // 5, 1)
  shape = (height // side, width // side)
  bits = _draw(keys, (*shape, 1 + channels)) & 1
  rows, columns = (jnp.asarray(part, dtype) for part in bump(side, side, order))
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
  return _inside(problem, jnp.pad(grid, edges), norm, order)


def _propose_bump(
  problem: Problem,
  state: _State,
  t: Array,
  words: Array,
  plan: Plan,
  norm: Norm,
  order: int,
) -> Array:
  """A bump in one window, of what this one and another one held."""
  epsilon, dtype = problem.epsilon, problem.dtype
  x, best = _spread(problem.images), _spread(state.best.images)
  channels = x.shape[3]
  # In units of epsilon: the squares of tiny ones would underflow.
  radius = expand(jnp.where(epsilon > 0, epsilon, 1), x)
  delta = (best.astype(dtype) - x.astype(dtype)) / radius
  window = _place(plan, t, words[:, :2])
  source = _place(plan, t, words[:, 2:4])
  turned = (words[:, 4] & 1).astype(jnp.int32)
  signs = 2 * _bits(words[:, 5:], channels).astype(dtype) - 1

  area, image = (1, 2), (1, 2, 3)
  both = window.inside | source.inside
  held = _size(jnp.where(both, delta, 0), order, area) ** order
  left = jnp.maximum(1 - _size(delta, order, image) ** order, 0)
  budget = (left / channels + held) ** (1 / order)
  if order == 1:
    budget = budget * channels  # The projection takes what is too much.
  old = _unit(jnp.where(window.inside, delta, 0), order, area)
  new = _place_bumps(plan, t, window, turned, dtype) * signs[:, None, None]
  new = _unit(new + old, order, area) * budget
  delta = jnp.where(source.inside, 0, delta)
  delta = jnp.where(window.inside, new, delta)
  if order == 1:
    delta = delta * expand(epsilon, delta)
  return _inside(problem, delta, norm, order)


def _inside(problem: Problem, delta: Array, norm: Norm, order: int) -> Array:
  """The images in ball and box: l2 scales up to the sphere, l1 projects."""
  epsilon, shape = problem.epsilon, problem.images.shape
  if order == 2:
    delta = _unit(delta, 2, (1, 2, 3)) * expand(epsilon, delta)
    delta = delta.reshape(shape)
  else:
    delta = norm.project(delta.reshape(shape), epsilon, *problem.slack())
  return jnp.asarray(problem.perturb(delta, norm))


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
