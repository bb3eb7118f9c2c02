"""Checks of images and labels whose values attacks cannot read: traced."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from advjax import _arguments as arguments
from advjax import losses
from advjax.callables import output_shape
from advjax.types import LogitsFn


def check_images(
  images: Any,
  bounds: tuple[float | None, float | None] | None = None,
) -> np.ndarray:
  """Returns images `[N, ...]`, or a ValueError if they cannot be attacked."""
  images = np.asarray(images)
  images = images.astype(images.dtype.newbyteorder('='), copy=False)
  is_floating = jnp.issubdtype(images.dtype, jnp.floating)
  if images.ndim < 2 or not len(images) or not is_floating:
    allowed = 'floating [N, ...] with N >= 1 (divide uint8 by 255)'
    raise arguments.error('images', images, allowed)
  lower, upper = bounds or (None, None)
  too_low = lower is not None and images.min() < lower
  too_high = upper is not None and images.max() > upper
  if too_low or too_high or not np.isfinite(images).all():
    allowed = f'finite values{f" from {lower} to {upper}" if bounds else ""}'
    raise arguments.error(
      'images', f'{images.min()} to {images.max()}', allowed
    )
  return images


def check_pictures(
  images: Any, channels: tuple[int, ...] | None = None
) -> np.ndarray:
  """Returns `[N, H, W, C]` in [0, 1], H and W >= 8, or raises a ValueError."""
  shape = np.shape(images)
  unusual = channels and shape[-1:] and shape[-1] not in channels
  if len(shape) != 4 or 0 in shape or min(shape[1:3]) < 8 or unusual:
    allowed = f' and C = {" or ".join(map(str, channels))}' if channels else ''
    allowed = f'[N, H, W, C] with N >= 1, H and W >= 8{allowed}'
    raise arguments.error('images.shape', shape, allowed)
  return check_images(images, (0, 1))


def check_labels(
  labels: Any, images: np.ndarray, logits_fn: LogitsFn | None = None
) -> np.ndarray:
  """Returns the labels as int32, or raises a ValueError.

  Without logits_fn they may be of any classes.
  """
  labels = np.asarray(arguments.check_labels('labels', labels, len(images)))
  if logits_fn is not None:
    logits = arguments.call(output_shape, logits_fn, images[:1])
    losses.check_logits(logits, 1)
    arguments.check_classes('labels', labels, logits.shape[-1])
  return labels.astype(np.int32)
