"""Colour jitter, as torchvision's ColorJitter on floats.

dm-pix follows TensorFlow in most of it: its brightness adds, its contrast has
a mean per channel, its saturation scales that of HSV. Only its hue and its
grey values are those of torchvision and Pillow, and taken from there.
"""

import dm_pix as pix
import jax
import jax.numpy as jnp

from advjax.types import Array


def random_brightness(key: Array, image: Array, strength: float) -> Array:
  """Multiplies an image by a factor.

  x <- clip(f x), f ~ U[1 - strength, 1 + strength]

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: In [0, 1].

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.full((2, 2, 3), 0.5)
    >>> random_brightness(jax.random.key(0), image, 0.4).shape
    (2, 2, 3)
  """
  return adjust_brightness(image, _factor(key, strength))


def random_contrast(key: Array, image: Array, strength: float) -> Array:
  """Moves an image away from the mean of its grey values, or towards it.

  x <- clip(f x + (1 - f) mean(grey(x))), f ~ U[1 - strength, 1 + strength]

  Args:
    key: A key.
    image: `[H, W, C]` with C 1 or 3, float32 in [0, 1].
    strength: In [0, 1].

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.full((2, 2, 3), 0.5)
    >>> random_contrast(jax.random.key(0), image, 0.4).shape
    (2, 2, 3)
  """
  return adjust_contrast(image, _factor(key, strength))


def random_saturation(key: Array, image: Array, strength: float) -> Array:
  """Moves pixels away from their grey values, or towards them.

  x <- clip(f x + (1 - f) grey(x)), f ~ U[1 - strength, 1 + strength]

  where grey is 0.299 R + 0.587 G + 0.114 B.

  Args:
    key: A key.
    image: `[H, W, 3]`, float32 in [0, 1].
    strength: In [0, 1].

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.full((2, 2, 3), 0.5)
    >>> random_saturation(jax.random.key(0), image, 0.4).shape
    (2, 2, 3)
  """
  return adjust_saturation(image, _factor(key, strength))


def random_hue(key: Array, image: Array, strength: float) -> Array:
  """Turns the hues of an image by an angle.

  h <- h + d mod 1 in HSV, d ~ U[-strength, strength]

  Args:
    key: A key.
    image: `[H, W, 3]`, float32 in [0, 1].
    strength: In [0, 0.5], where 0.5 is half a turn.

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.full((2, 2, 3), 0.5)
    >>> random_hue(jax.random.key(0), image, 0.1).shape
    (2, 2, 3)
  """
  turned = pix.random_hue(key, image, strength)
  return jnp.clip(turned, 0, 1)  # Rounding alone could leave the range.


def adjust_brightness(image: Array, factor: Array) -> Array:
  """Multiplies `[H, W, C]` by a factor and clips to [0, 1]."""
  return _blend(image, jnp.zeros_like(image), factor)


def adjust_contrast(image: Array, factor: Array) -> Array:
  """Blends `[H, W, C]` with the mean of its grey values, C being 1 or 3."""
  grey = image if image.shape[-1] == 1 else pix.rgb_to_grayscale(image)
  return _blend(image, jnp.full_like(image, grey.mean()), factor)


def adjust_saturation(image: Array, factor: Array) -> Array:
  """Blends `[H, W, 3]` with its grey values."""
  grey = pix.rgb_to_grayscale(image, keep_dims=True)
  return _blend(image, grey, factor)


def _factor(key: Array, strength: float) -> Array:
  return jax.random.uniform(key, minval=1 - strength, maxval=1 + strength)


def _blend(image: Array, other: Array, factor: Array) -> Array:
  return jnp.clip(factor * image + (1 - factor) * other, 0, 1)
