"""Mixtures of two images and of their labels: mixup and CutMix."""

import jax
import jax.numpy as jnp

from advjax.augmentation.geometry import random_rectangle
from advjax.types import Array

# An image `[H, W, C]`, and its label as shares of the classes, `[K]`.
Example = tuple[Array, Array]


def mixup(
  key: Array, example: Example, partner: Example, strength: float
) -> Example:
  """Averages two examples (Zhang et al. 2017, arXiv 1710.09412).

  (x, y) <- l (x, y) + (1 - l) (x', y'), l ~ Beta(strength, strength)

  Args:
    key: A key.
    example: An image `[H, W, C]` in [0, 1] and its label `[K]`.
    partner: Another.
    strength: alpha, above 0: near 0 most of l are near 0 or 1, at 1 they are
      uniform.

  Returns:
    The mixture, of the same shapes.

  Example:
    >>> black = jnp.zeros((2, 2, 3)), jnp.array([1.0, 0.0])
    >>> white = jnp.ones((2, 2, 3)), jnp.array([0.0, 1.0])
    >>> image, label = mixup(jax.random.key(0), black, white, 1.0)
    >>> bool(image[0, 0, 0] == label[1])
    True
  """
  share = jax.random.beta(key, strength, strength)
  image, label = _blend(example, partner, share)
  return jnp.clip(image, 0, 1), label  # Rounding alone could leave the range.


def cutmix(
  key: Array, example: Example, partner: Example, strength: float
) -> Example:
  """Pastes a rectangle of one example into another (Yun et al. 2019).

  A rectangle of sides sqrt(1 - l) H and sqrt(1 - l) W, rounded down, with
  l ~ Beta(strength, strength), around a uniformly drawn pixel, is cut at the
  border. The partner's pixels are inside, and the labels have the shares of
  the areas as they then are. arXiv 1905.04899.

  Args:
    key: A key.
    example: An image `[H, W, C]` in [0, 1] and its label `[K]`.
    partner: Another.
    strength: alpha, above 0; the paper's is 1, where l is uniform.

  Returns:
    The mixture, of the same shapes.

  Example:
    >>> black = jnp.zeros((2, 2, 3)), jnp.array([1.0, 0.0])
    >>> white = jnp.ones((2, 2, 3)), jnp.array([0.0, 1.0])
    >>> image, label = cutmix(jax.random.key(0), black, white, 1.0)
    >>> bool(image.mean() == label[1])
    True
  """
  share_key, place_key = jax.random.split(key)
  side = jnp.sqrt(1 - jax.random.beta(share_key, strength, strength))
  image, _ = example
  rows, columns = ((side * size).astype(jnp.int32) for size in image.shape[:2])
  inside = random_rectangle(place_key, image.shape, rows, columns)
  _, label = _blend(example, partner, 1 - inside.mean())
  return jnp.where(inside, partner[0], image), label


def mix(
  key: Array,
  example: Example,
  partner: Example,
  mixup_strength: float,
  cutmix_strength: float,
) -> Example:
  """Mixup or CutMix, each with probability 1/2 where neither strength is 0."""
  if not cutmix_strength:
    return mixup(key, example, partner, mixup_strength)
  if not mixup_strength:
    return cutmix(key, example, partner, cutmix_strength)
  choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
  averaged = mixup(mixup_key, example, partner, mixup_strength)
  pasted = cutmix(cutmix_key, example, partner, cutmix_strength)
  chosen = jax.random.bernoulli(choice_key)
  return jax.tree.map(
    lambda one, other: jnp.where(chosen, one, other), averaged, pasted
  )


def _blend(example: Example, partner: Example, share: Array) -> Example:
  return jax.tree.map(
    lambda one, other: share * one + (1 - share) * other, example, partner
  )
