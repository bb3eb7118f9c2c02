"""Types of the arguments that attacks, losses and models share."""

from typing import Any, Protocol

import jax
from jax.typing import ArrayLike as ArrayLike

Array = jax.Array

# A pytree of arrays.
Tree = Any

# One `[B, ...]` array, or a pytree of such arrays (a dictionary of features).
Images = Any

# Integer class indices [B], class probabilities [B, K], or whatever a custom
# loss understands, with the batch as the leading axis of every leaf.
Labels = Any

# (lower, upper), each None, a number, an array that broadcasts to the images,
# or a pytree prefix of these; None: no bounds.
Bounds = Any


class LogitsFn(Protocol):
  """A model: `logits_fn(images) -> logits`, normalisation included.

  images `[B, ...]` or a pytree of such arrays, logits float `[B, K]` (or what
  a custom loss takes). Random models are called as `logits_fn(images, key)`
  where an attack averages over their draws (`eot_samples`).
  """

  def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class LossFn(Protocol):
  """A loss: `loss_fn(logits, labels) -> loss`, one number per example.

  logits float `[B, K]`, labels int `[B]` or float `[B, K]`, loss float `[B]`.
  """

  def __call__(self, logits: Any, labels: Any, /) -> Array: ...

  def __hash__(self) -> int: ...


class Attack(Protocol):
  """An attack closed over its static choices.

  `attack(logits_fn, images, labels, epsilon, keys) -> images`: images `[B,
  ...]`, labels int `[B]`, epsilon the radius, a scalar or `[B]`, and keys one
  key or one per example `[B]`; returns adversarial images of the same shapes
  and dtypes. `advjax.parse_attack` makes them from their names.
  """

  def __call__(
    self,
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    epsilon: Any,
    keys: Array,
    /,
  ) -> Images: ...
