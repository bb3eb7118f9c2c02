"""Augmentations that move or cover pixels: flips, crops and cutout."""

import dm_pix as pix
import jax
import jax.numpy as jnp

from advjax.types import Array

# As many as torchvision makes before it takes what it has.
_TRIES = 10


def random_horizontal_flip(key: Array, image: Array, strength: float) -> Array:
  """Mirrors an image, left for right, with a probability.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The probability, in [0, 1].

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.array([[[0.0], [1.0]]])
    >>> flip = jax.jit(random_horizontal_flip)
    >>> flip(jax.random.key(0), image, 1.0)[..., 0].tolist()
    [[1.0, 0.0]]
  """
  return pix.random_flip_left_right(key, image, probability=strength)


def random_vertical_flip(key: Array, image: Array, strength: float) -> Array:
  """Turns an image upside down with a probability.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The probability, in [0, 1].

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.array([[[0.0]], [[1.0]]])
    >>> flip = jax.jit(random_vertical_flip)
    >>> flip(jax.random.key(0), image, 1.0)[..., 0].tolist()
    [[1.0], [0.0]]
  """
  return pix.random_flip_up_down(key, image, probability=strength)


def random_crop(key: Array, image: Array, strength: int) -> Array:
  """Moves an image by a few pixels: pads it with zeros and crops.

  The standard augmentation of CIFAR, with 4 pixels (He et al. 2015,
  arXiv 1512.03385). All (2 padding + 1)^2 places are equally likely.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: Pixels of black on each side.

  Returns:
    An image of the same shape and range.

  Example:
    >>> white = jnp.ones((4, 4, 3))
    >>> crop = jax.jit(random_crop, static_argnums=2)
    >>> image = crop(jax.random.key(0), white, 1)
    >>> image.shape, bool((image[1:-1, 1:-1] == 1).all())
    ((4, 4, 3), True)
  """
  padding = ((strength, strength), (strength, strength), (0, 0))
  return pix.random_crop(key, jnp.pad(image, padding), image.shape)


def random_resized_crop(
  key: Array, image: Array, strength: float, max_ratio: float = 4 / 3
) -> Array:
  """Stretches a random rectangle of an image over all of it.

  The rectangle has the share a ~ U[strength, 1] of the area and the ratio of
  width to height r, log r ~ U[-log max_ratio, log max_ratio]: in whole
  pixels, sqrt(a r H W) wide and sqrt(a H W / r) high. One that is larger than
  the image is drawn again, ten times at most, then cut to fit; its place is
  uniform. So does torchvision, save that it takes the middle in the end.
  Szegedy et al. 2014, arXiv 1409.4842.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The smallest fraction of the area, in (0, 1].
    max_ratio: The largest ratio of the sides, at least 1.

  Returns:
    The rectangle, resized bilinearly to `[H, W, C]`.

  Example:
    >>> white = jnp.ones((4, 4, 3))
    >>> image = jax.jit(random_resized_crop)(jax.random.key(0), white, 0.25)
    >>> image.shape, float(image.min())
    ((4, 4, 3), 1.0)
  """
  height, width, _ = image.shape
  area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
  areas = jax.random.uniform(area_key, (_TRIES,), minval=strength, maxval=1.0)
  areas = areas * (height * width)
  log_ratio = jnp.log(max_ratio)
  ratios = jnp.exp(
    jax.random.uniform(
      ratio_key, (_TRIES,), minval=-log_ratio, maxval=log_ratio
    )
  )
  widths = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
  heights = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
  # The first that fits; the first of all where none does.
  chosen = ((heights <= height) & (widths <= width)).argmax()
  rows = jnp.clip(heights[chosen], 1, height)
  columns = jnp.clip(widths[chosen], 1, width)
  top = jax.random.randint(top_key, (), 0, height - rows + 1)
  left = jax.random.randint(left_key, (), 0, width - columns + 1)
  return resize_crop(image, top, left, rows, columns)


def resize_crop(
  image: Array, top: Array, left: Array, rows: Array, columns: Array
) -> Array:
  """Stretches `rows` x `columns` of an image over all of it, bilinearly."""
  return _stretch(_stretch(image, top, rows, axis=0), left, columns, axis=1)


def _stretch(image: Array, start: Array, length: Array, axis: int) -> Array:
  """Linear interpolation along an axis, between pixels of the crop alone.

  jax.image.scale_and_translate does not fit: it mixes pixels beside the
  crop into its border.
  """
  size = image.shape[axis]
  places = (jnp.arange(size) + 0.5) * length / size - 0.5
  places = jnp.clip(places, 0, length - 1)
  below = jnp.floor(places)
  weight = jnp.expand_dims(places - below, [a for a in range(3) if a != axis])
  first = start + below.astype(jnp.int32)
  second = jnp.minimum(first + 1, start + length - 1)
  one, other = jnp.take(image, first, axis), jnp.take(image, second, axis)
  return one * (1 - weight) + other * weight


def cutout(key: Array, image: Array, strength: int) -> Array:
  """Fills a square with grey (DeVries and Taylor 2017, arXiv 1708.04552).

  Its centre is any pixel with the same probability; the square is cut at the
  border. The paper fills with 0 after normalisation, the mean colour; in [0, 1]
  that is closest to 0.5.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The side of the square in pixels.

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jax.jit(cutout)(jax.random.key(0), jnp.zeros((4, 4, 3)), 2)
    >>> float(image.max())
    0.5
  """
  square = random_rectangle(key, image.shape, strength, strength)
  return jnp.where(square, 0.5, image)


def random_rectangle(
  key: Array, shape: tuple[int, ...], rows: Array | int, columns: Array | int
) -> Array:
  """Where a rectangle around a uniformly drawn pixel is: bool `[H, W, 1]`."""
  row_key, column_key = jax.random.split(key)
  inside_rows = _random_interval(row_key, shape[0], rows)
  inside_columns = _random_interval(column_key, shape[1], columns)
  return inside_rows[:, None, None] & inside_columns[None, :, None]


def _random_interval(key: Array, size: int, length: Array | int) -> Array:
  start = jax.random.randint(key, (), 0, size) - length // 2
  places = jnp.arange(size)
  return (places >= start) & (places < start + length)
