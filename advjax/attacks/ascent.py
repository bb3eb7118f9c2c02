"""The one loop behind all gradient attacks: step, project, clip, repeat."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax.attacks import inputs as inputs_lib
from advjax.attacks import scores
from advjax.attacks.inputs import Inputs
from advjax.attacks.scores import Evaluate
from advjax.attacks.space import Leaves, Space, make_space
from advjax.callables import compile_per_callable
from advjax.norms import Norm, expand
from advjax.types import Array, LogitsFn, LossFn


class _Best(NamedTuple):
  """The best iterate so far, per example."""

  images: Leaves
  score: Array  # [B]
  fooled: Array  # [B]


def _ascend(
  logits_fn: LogitsFn,
  loss_fn: LossFn,
  inputs: Inputs,
  *,
  norm: Norm,
  num_steps: int,
  num_restarts: int = 1,
  eot_samples: int | None = None,
  keep_best: bool = False,
) -> Leaves:
  """Returns the perturbed leaves: the last iterate, or the best one."""
  inputs = jax.lax.stop_gradient(inputs)
  space = make_space(inputs, norm)
  evaluate = _make_evaluate(logits_fn, loss_fn, inputs, space, eot_samples)
  keys = None
  if inputs.key is not None:
    keys = inputs_lib.example_keys(inputs.key, space.batch)
  zero = _zero(evaluate, inputs, space, keys)

  def attempt(best: _Best | None, r: Any) -> Any:
    return _attempt(
      space, evaluate, scores.fold(keys, r), zero, best, num_steps
    )

  if not keep_best:
    return jax.lax.stop_gradient(attempt(None, 0))
  nothing = [x + expand(zero, x).astype(x.dtype) for x in space.originals]
  best = _Best(nothing, zero - jnp.inf, zero > 0)
  if num_restarts == 1:
    best = attempt(best, 0)
  else:
    # One after the other: the memory of one restart, whatever their number.
    best, _ = jax.lax.scan(
      lambda best, r: (attempt(best, r), None), best, _counter(num_restarts)
    )
  return jax.lax.stop_gradient(best.images)


ascend = compile_per_callable(
  _ascend, ('norm', 'num_steps', 'num_restarts', 'eot_samples', 'keep_best')
)


def _attempt(
  space: Space,
  evaluate: Evaluate,
  keys: Array | None,
  zero: Array,
  best: _Best | None,
  num_steps: int,
) -> Any:
  """All steps from one start: returns the new best, or the last iterate."""
  gradient_fn = jax.value_and_grad(evaluate, has_aux=True)

  def step(carry: Any, t: Any) -> tuple[Any, None]:
    delta, velocity, best = carry
    images = space.images(delta)
    (_, seen), gradient = gradient_fn(images, keys, t + 1)
    if best is not None:
      best = _better(best, images, *seen)
    delta, velocity = space.move(delta, velocity, gradient)
    return (delta, velocity, best), None

  still = space.still(zero)
  start_keys = scores.fold(keys, 0)
  delta = still
  if start_keys is not None:  # In the type of `still`: see _zero.
    delta = [s + d for s, d in zip(still, space.start(start_keys), strict=True)]
  carry = (delta, None if space.decay is None else still, best)
  if num_steps == 1:
    carry, _ = step(carry, 0)
  else:
    carry, _ = jax.lax.scan(step, carry, _counter(num_steps))
  delta, _, best = carry
  images = space.images(delta)
  if best is None:
    return images
  _, seen = evaluate(images, keys, num_steps + 1)
  return _better(best, images, *seen)


def _better(best: _Best, images: Leaves, score: Array, fooled: Array) -> _Best:
  """Misclassified before correct, then the higher score, then the earlier."""
  # Any score that an iterate can have beats the -inf of having none.
  lowest = jnp.finfo(best.score.dtype).min
  score = jax.lax.stop_gradient(score).astype(best.score.dtype)
  score = jnp.where(score > lowest, score, lowest)  # NaN as well
  wins = (fooled & ~best.fooled) | (
    (fooled == best.fooled) & (score > best.score)
  )
  return _Best(
    [
      jnp.where(expand(wins, new), new, old)
      for new, old in zip(images, best.images, strict=True)
    ],
    jnp.where(wins, score, best.score),
    jnp.where(wins, fooled, best.fooled),
  )


def _counter(length: int) -> Array:
  return jnp.arange(length, dtype=jnp.uint32)


def _zero(
  evaluate: Evaluate, inputs: Inputs, space: Space, keys: Array | None
) -> Array:
  """Zeros [B] that a loop can start from.

  Under shard_map the type of a loop's state says over which mesh axes it
  varies, which may come from any argument or from the parameters inside the
  model; and the gradient at images that vary less than the loss would be summed
  over the mesh. Zeros shaped after the scores vary as they do. Only the type of
  the scores is used, so that nothing is computed for it.
  """
  zero = jnp.zeros(space.batch, inputs_lib.compute_dtype(inputs.images))
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return zero
  _, (score, _) = evaluate(space.originals, keys, 0)
  arrays = [score, *jax.tree.leaves(inputs._replace(key=None))]
  if keys is not None:
    arrays.append(jax.random.key_data(keys))
  for x in arrays:
    zero = zero + jnp.sum(jnp.zeros_like(x)).astype(zero.dtype)
  return zero


def _make_evaluate(
  logits_fn: LogitsFn,
  loss_fn: LossFn,
  inputs: Inputs,
  space: Space,
  eot_samples: int | None,
) -> Evaluate:
  targeted = inputs.targets is not None
  wanted = inputs.targets if targeted else inputs.labels
  return scores.make_evaluate(
    logits_fn,
    lambda logits: scores.ascended(
      loss_fn, logits, wanted, targeted, space.batch
    ),
    lambda logits, score: scores.fooled(logits, wanted, targeted, score),
    inputs.images,
    eot_samples,
  )
