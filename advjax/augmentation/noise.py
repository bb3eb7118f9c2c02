"""Noises: additive Gaussian, Poisson, salt and pepper."""

import jax
import jax.numpy as jnp

from advjax.types import Array


def gaussian_noise(key: Array, image: Array, strength: float) -> Array:
  """Adds normal draws, of a standard deviation that is drawn too.

  x <- clip(x + s n), s ~ U[0, strength] per image, n ~ N(0, 1) per value

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The largest standard deviation.

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.full((2, 2, 3), 0.5)
    >>> noisy = jax.jit(gaussian_noise)(jax.random.key(0), image, 0.01)
    >>> 0 < float(jnp.abs(noisy - image).max()) < 0.1
    True
  """
  scale_key, noise_key = jax.random.split(key)
  scale = jax.random.uniform(scale_key, maxval=strength)
  noise = jax.random.normal(noise_key, image.shape)
  return jnp.clip(image + scale * noise, 0, 1)


def poisson_noise(key: Array, image: Array, strength: float) -> Array:
  """Counts photons: shot noise, stronger where it is dark for the signal.

  x <- clip(n / strength), n ~ Poisson(strength x) per value

  Mean x and variance x / strength before the clip.

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The photon count of a white value; fewer photons are noisier.

  Returns:
    An image of the same shape and range.

  Example:
    >>> noisy = jax.jit(poisson_noise)
    >>> float(noisy(jax.random.key(0), jnp.zeros((2, 2, 3)), 100.0).max())
    0.0
  """
  counts = jax.random.poisson(key, image * strength)
  return jnp.clip(counts / strength, 0, 1)


def salt_and_pepper_noise(key: Array, image: Array, strength: float) -> Array:
  """Makes some pixels black or white, in all channels.

  x <- 0 or 1, each with probability strength / 2, per pixel

  Args:
    key: A key.
    image: `[H, W, C]`, float32 in [0, 1].
    strength: The expected fraction of the pixels, in [0, 1].

  Returns:
    An image of the same shape and range.

  Example:
    >>> image = jnp.full((2, 2, 3), 0.5)
    >>> image = jax.jit(salt_and_pepper_noise)(jax.random.key(0), image, 1.0)
    >>> set(image.ravel().tolist()) <= {0.0, 1.0}
    True
  """
  hit_key, salt_key = jax.random.split(key)
  shape = (*image.shape[:2], 1)
  hit = jax.random.bernoulli(hit_key, strength, shape)
  salt = jax.random.bernoulli(salt_key, shape=shape).astype(image.dtype)
  return jnp.where(hit, salt, image)
