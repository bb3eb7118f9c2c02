"""What an attack climbs: the score of an iterate, and whether it fools."""

from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp

from advjax.attacks import inputs as inputs_lib
from advjax.types import Array, Images, LogitsFn, LossFn

# (leaves, keys, t) -> (sum of the scores, (scores [B], fooled [B])); keys may
# be None for a model that is not random, t is a scalar or [B].
Evaluate = Callable[..., tuple[Array, tuple[Array, Array]]]


def make_evaluate(
  logits_fn: LogitsFn,
  score_fn: Callable[[Any], Array],
  fooled_fn: Callable[[Any, Array], Array],
  images: Images,
  eot_samples: int | None,
) -> Evaluate:
  """Returns the function to differentiate, with the scores beside their sum.

  Args:
    logits_fn: the model; called with one image and one key at a time if
      eot_samples is not None.
    score_fn: logits -> score `[B]`, to be ascended.
    fooled_fn: (logits, score) -> bool `[B]`.
    images: in whose floating leaves the perturbed ones are put.
    eot_samples: draws of a random model over which logits and scores are
      averaged. The draws depend on the row's key, its t and the sample.
  """

  def once(leaves: list[Array], keys: Array | None) -> tuple[Array, Any]:
    logits = call(logits_fn, inputs_lib.replace_floating(images, leaves), keys)
    return score_fn(logits), logits

  def evaluate(leaves: list[Array], keys: Array | None, t: Any) -> Any:
    if eot_samples is None:
      score, logits = once(leaves, None)
    else:
      # One after the other and recomputed for the gradient: the memory of one
      # sample, whatever their number.
      step_keys = fold(keys, t)
      sample = jax.checkpoint(lambda s: once(leaves, fold(step_keys, s)))
      score, logits = jax.tree.map(
        lambda x: jnp.mean(x, axis=0),
        jax.lax.map(sample, jnp.arange(eot_samples, dtype=jnp.uint32)),
      )
    return jnp.sum(score), (score, fooled_fn(logits, score))

  return evaluate


def ascended(
  loss_fn: LossFn, logits: Any, wanted: Any, targeted: bool, batch: int
) -> Array:
  """The loss as a score [B]: targets are descended towards."""
  loss = jnp.asarray(loss_fn(logits, wanted))
  if loss.shape != (batch,):
    raise ValueError(
      f'loss_fn must return one loss per example, {(batch,)}; '
      f'got shape {loss.shape}'
    )
  loss = loss.astype(jnp.promote_types(loss.dtype, jnp.float32))
  return -loss if targeted else loss


def call(logits_fn: LogitsFn, images: Images, keys: Array | None) -> Any:
  """The logits; with keys, those of a random model."""
  if keys is None:
    return logits_fn(images)

  # Example by example: what a random model draws cannot depend on the batch.
  def one(image: Any, key: Array) -> Any:
    logits = logits_fn(jax.tree.map(lambda x: x[None], image), key)
    return jax.tree.map(lambda x: x[0], logits)

  return jax.vmap(one)(images, keys)


def fooled(logits: Any, wanted: Any, targeted: bool, score: Array) -> Array:
  """Whether the prediction is what the attack wants; False if unknown. [B]"""
  unknown = jnp.zeros_like(score, dtype=bool)
  if not isinstance(logits, jax.Array) or not isinstance(wanted, jax.Array):
    return unknown
  if logits.ndim == 2 and wanted.shape == logits.shape:
    wanted = jnp.argmax(wanted, axis=-1)
  elif logits.ndim != 2 or not jnp.issubdtype(wanted.dtype, jnp.integer):
    return unknown
  if wanted.ndim != 1:
    return unknown
  hit = (jnp.argmax(logits, axis=-1) == wanted) == targeted
  # NaN logits predict nothing, even where the score does not see them.
  return hit & ~jnp.isnan(score) & ~jnp.any(jnp.isnan(logits), axis=-1)


@overload
def fold(keys: Array, data: Any) -> Array: ...


@overload
def fold(keys: None, data: Any) -> None: ...


def fold(keys: Array | None, data: Any) -> Array | None:
  """Folds a number, or one per key ([B]), into keys [B]."""
  if keys is None:
    return None
  axis = 0 if jnp.ndim(data) else None
  return jax.vmap(jax.random.fold_in, (0, axis))(keys, data)
