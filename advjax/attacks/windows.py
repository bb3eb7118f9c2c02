"""Windows of the Square attack: how large, where, and with what inside.

Every row of a batch has a window of a size of its own, which follows from its
step. So windows are masks, made of one range of rows and one of columns each,
and what depends on their size is looked up in small tables made beforehand.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.types import Array

# Of 10,000 queries, those after which the windows shrink to half their area.
_SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Plan(NamedTuple):
  """What is known of the windows before the first query; NumPy arrays.

  Attributes:
    stage: int `[num_queries]`, how often the windows have shrunk; the query
      that is the first of all has no window.
    sides: int `[stages, 2]`, height and width.
    rows: `[stages, 2, 2, H]`, the tables of `bump`: per orientation the weight
      and the peak of every row of the window.
    columns: `[stages, 2, 2, W]`, likewise.
  """

  stage: np.ndarray
  sides: np.ndarray
  rows: np.ndarray
  columns: np.ndarray


class Window(NamedTuple):
  """One window per row of the batch."""

  down: Array  # int32 [B, H], rows below the top of the window
  right: Array  # int32 [B, W]
  inside: Array  # bool [B, H, W, 1]


def shares(num_queries: int, p_init: float) -> np.ndarray:
  """The share of the image that each proposal changes, `[num_queries]`.

  The schedule is that of 10,000 queries, stretched to num_queries.
  """
  return p_init / 2.0 ** _stages(num_queries)


def _stages(num_queries: int) -> np.ndarray:
  progress = np.arange(num_queries) / num_queries * 10_000
  return np.searchsorted(_SHRINKS, progress.astype(int))


def sides(height: int, width: int, share: float, odd: bool) -> tuple[int, int]:
  """Height and width of the window that covers this share of an image.

  A square, as long as one fits in; else a rectangle along the longer side.

  Args:
    height: of the image.
    width: of the image.
    share: in (0, 1].
    odd: whether sides are to be odd and at least 3, where they fit in.
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


def make_plan(
  height: int, width: int, num_queries: int, p_init: float, order: int | None
) -> Plan:
  """Makes the tables for images of this size.

  Args:
    height: of the images.
    width: of the images.
    num_queries: calls of the network in all.
    p_init: share of the image that the first windows cover.
    order: 2 or 1, the norm of the bumps; None: no bumps.
  """
  # The first query is that of the start.
  stage = np.concatenate([[0], _stages(num_queries)[:-1]])
  count = len(_SHRINKS) + 1
  all_sides = np.array(
    [
      sides(height, width, p_init / 2**s, odd=order is not None)
      for s in range(count)
    ]
  )
  rows = np.zeros((count, 2, 2, height))
  columns = np.zeros((count, 2, 2, width))
  if order is not None:
    for s, (h, w) in enumerate(all_sides.tolist()):
      rows[s, 0, :, :h], columns[s, 0, :, :w] = bump(h, w, order)
      columns[s, 1, :, :w], rows[s, 1, :, :h] = bump(w, h, order)
  return Plan(
    stage.astype(np.int32),
    all_sides.astype(np.uint32),
    rows.astype(np.float32),
    columns.astype(np.float32),
  )


def bump(height: int, width: int, order: int) -> tuple[np.ndarray, np.ndarray]:
  """Two hills of opposite sign, one above the other, of norm 1 together.

  A hill is a sum of concentric squares: its height depends on the larger one of
  two distances from its peak, in rows and in columns. As it falls with either,
  it is the smaller one of what it would be for each of the two. So

    bump[i, j] = rows[0, i] * columns[0, j] * min(rows[1, i], columns[1, j]).

  Args:
    height: of the window.
    width: of the window.
    order: 2 or 1, of the norm, which also says how fast the hills fall.

  Returns:
    rows `[2, height]` and columns `[2, width]`: weights, then peaks.
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


def draw(keys: Array, shape: tuple[int, ...]) -> Array:
  """Random words, uint32 `[B, *shape]`, each row's from its key alone."""
  return jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys)


def bits(words: Array, count: int) -> Array:
  """The first bits of `[B, words]`, 32 of each word: `[B, count]`."""
  which = np.arange(count)
  shift = jnp.asarray(which % 32, jnp.uint32)[None]
  return (words[:, which // 32] >> shift) & 1


def place(plan: Plan, t: Array, words: Array) -> Window:
  """Puts a window anywhere in the image, equally often.

  Args:
    plan: of the images.
    t: int `[B]`, the step of each row.
    words: uint32 `[B, 2]`, random; they give the top and the left side.
  """
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


def bumps(
  plan: Plan, t: Array, window: Window, turned: Array, dtype: Any
) -> Array:
  """The bump of each row's window, 0 outside: `[B, H, W, 1]`.

  Args:
    plan: of the images.
    t: int `[B]`, the step of each row.
    window: where.
    turned: int `[B]`; 1 where one hill is to be beside the other.
    dtype: of the result.
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
