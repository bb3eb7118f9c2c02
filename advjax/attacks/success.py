"""Whether images fool a network."""

from advjax import _arguments as arguments
from advjax._arguments import Problem
from advjax.attacks._core import loop
from advjax.callables import compile_per_callable
from advjax.types import Array, Images, Labels, LogitsFn


def is_adversarial(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  *,
  targets: Labels | None = None,
) -> Array:
  """Whether an attack has succeeded: which images are misclassified.

  `argmax_k f(x)_k != y`, with targets `argmax_k f(x)_k = t`; not where a logit
  is NaN. What was misclassified before the attack counts as well.

  Args:
    logits_fn: images `[B, ...]` -> logits `[B, K]`, normalisation included.
    images: float `[B, ...]`, or a pytree, as the attack returns them.
    labels: int `[B]`.
    targets: int `[B]`, of a targeted attack.

  Returns:
    bool `[B]`.

  Raises:
    ValueError: if a shape or a concrete value does not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import advjax
    >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=-1)
    >>> images, labels = jnp.array([[0.5, 0.25], [1, 0]]), jnp.array([0, 0])
    >>> adversarial = advjax.fgsm(logits_fn, images, labels, 0.25)
    >>> advjax.is_adversarial(logits_fn, adversarial, labels)
    Array([ True, False], dtype=bool)
  """
  problem = arguments.check(
    logits_fn, images, labels, targets=targets, integer_labels=True
  )
  return _compiled(logits_fn, problem)


def fools(logits_fn: LogitsFn, problem: Problem) -> Array:
  """The same of the images of a problem, [B]."""
  logits = loop.call_for_logits(logits_fn, problem.images)
  return loop.is_fooled(problem, logits)


_compiled = compile_per_callable(fools)
