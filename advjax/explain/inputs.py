"""What the methods share: checked inputs, and the logit of a class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks._core import arguments
from advjax.callables import output_shape
from advjax.types import Array, LogitsFn


def check(logits_fn: LogitsFn, images: Any, labels: Any) -> tuple[Array, Array]:
  """Returns images and labels as arrays, once they are seen to fit.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, K]`.
    images: Floating, `[B, H, W, C]`.
    labels: int `[B]`, each in [0, K).

  Returns:
    Both, as arrays.

  Raises:
    ValueError: if one of them is not as above.
  """
  arguments.check_callable('logits_fn', logits_fn)
  images = check_images(images)
  labels = check_labels(labels, len(images))
  check_logits(output_shape(logits_fn, images), labels)
  arguments.check_classes(logits_fn, (images,), labels=labels)
  return images, labels


def check_images(images: Any) -> Array:
  """Returns images as an array, if they are floating `[B, H, W, C]`."""
  images = _as_array(images)
  if images.ndim != 4 or not arguments.is_floating(images):
    raise ValueError(
      f'images must be floating [B, H, W, C]; got {images.dtype} {images.shape}'
    )
  return images


def check_labels(labels: Any, batch: int) -> Array:
  """Returns labels as an array, if they are one integer per image."""
  labels = _as_array(labels)
  arguments.check_integers('labels', labels, batch)
  return labels


def class_logits(logits: Array, labels: Array) -> Array:
  """The logit of each row's class, `[B]`, float32 or wider."""
  check_logits(logits, labels)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def check_logits(logits: Any, labels: Array) -> None:
  """Checks that there is a row of logits for each label."""
  if getattr(logits, 'ndim', None) != 2 or logits.shape[0] != len(labels):
    raise ValueError(
      f'logits must have shape [{len(labels)}, K]; got '
      f'{getattr(logits, "shape", logits)}'
    )


def wide(images: Array) -> Any:
  """The dtype of sums over maps: that of the images, at least float32."""
  return jnp.promote_types(images.dtype, jnp.float32)


def _as_array(x: Any) -> Any:
  if isinstance(x, jax.Array):
    return x
  x = np.asarray(x)
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
