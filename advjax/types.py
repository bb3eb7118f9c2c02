"""Names for the arguments that the attacks share."""

from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

Array = jax.Array

# One `[B, ...]` array, or a pytree of such arrays (a dictionary of features).
Images = Any

# Integer class indices [B], class probabilities [B, K], or whatever a custom
# loss understands, with the batch as the leading axis of every leaf.
Labels = Any

# images [B, ...] -> logits [B, K]; any normalisation lives inside. Attacks that
# average over randomness call it as logits_fn(images, key).
LogitsFn = Callable[..., Any]

# (logits, labels) -> loss [B], one number per example.
LossFn = Callable[[Any, Any], Array]

# (lower, upper), each None, a number, an array that broadcasts to the images,
# or a pytree prefix of these; None stands for no box at all.
Bounds = Any

__all__ = [
  'Array',
  'ArrayLike',
  'Bounds',
  'Images',
  'Labels',
  'LogitsFn',
  'LossFn',
]
