"""Random rectangles, and cutout, which fills one."""

import jax
import jax.numpy as jnp

from advjax.types import Array

_GREY = 0.5


def cutout(key: Array, image: Array, strength: int) -> Array:
  """Fills a square with grey (DeVries and Taylor 2017, arXiv 1708.04552).

  Its centre is any pixel with the same probability, and what of it is
  outside is lost. The paper fills with 0 after normalisation, the mean
  colour; in [0, 1] that is closest to 0.5.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The side of the square in pixels.

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.zeros((4, 4, 3))
    >>> float(cutout(jax.random.key(0), image, 2).max())
    0.5
  """
  square = random_rectangle(key, image.shape, strength, strength)
  return jnp.where(square, _GREY, image)


def random_rectangle(
  key: Array,
  shape: tuple[int, ...],
  rows: Array | int,
  columns: Array | int,
) -> Array:
  """Draws a rectangle around a uniformly drawn pixel of an image.

  Args:
    key: A key.
    shape: The shape of the image, `(H, W, C)`.
    rows: How many rows the rectangle has; may be traced.
    columns: How many columns it has.

  Returns:
    Where it is, bool `[H, W, 1]`; what would be outside is lost.

  Example:
    >>> random_rectangle(jax.random.key(0), (4, 4, 3), 1, 1).sum().item()
    1
  """
  row_key, column_key = jax.random.split(key)
  inside_rows = _random_interval(row_key, shape[0], rows)
  inside_columns = _random_interval(column_key, shape[1], columns)
  return inside_rows[:, None, None] & inside_columns[None, :, None]


def _random_interval(key: Array, size: int, length: Array | int) -> Array:
  start = jax.random.randint(key, (), 0, size) - length // 2
  places = jnp.arange(size)
  return (places >= start) & (places < start + length)
