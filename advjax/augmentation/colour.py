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
    >>> jitter = jax.jit(random_brightness)
    >>> float(jitter(jax.random.key(0), jnp.zeros((2, 2, 3)), 0.4).max())
    0.0
  """
  return _blend(key, image, jnp.zeros_like(image), strength)


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
    >>> image = jnp.array([[[0.4], [0.6]]])  # Its mean is 0.5.
    >>> image = jax.jit(random_contrast)(jax.random.key(0), image, 0.4)
    >>> round(float(image.mean()), 6)
    0.5
  """
  grey = image if image.shape[-1] == 1 else pix.rgb_to_grayscale(image)
  return _blend(key, image, jnp.full_like(image, grey.mean()), strength)


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
    >>> grey = jnp.full((2, 2, 3), 0.5)
    >>> image = jax.jit(random_saturation)(jax.random.key(0), grey, 0.4)
    >>> bool(jnp.allclose(image, grey, atol=1e-4))
    True
  """
  grey = pix.rgb_to_grayscale(image, keep_dims=True)
  return _blend(key, image, grey, strength)


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
    >>> grey = jnp.full((2, 2, 3), 0.5)
    >>> turned = jax.jit(random_hue)(jax.random.key(0), grey, 0.1)
    >>> bool((turned == grey).all())
    True
  """
  turned = pix.random_hue(key, image, strength)
  return jnp.clip(turned, 0, 1)  # Rounding alone could leave the range.


def _blend(key: Array, image: Array, other: Array, strength: float) -> Array:
  factor = jax.random.uniform(key, minval=1 - strength, maxval=1 + strength)
  return jnp.clip(factor * image + (1 - factor) * other, 0, 1)
