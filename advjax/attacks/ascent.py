"""The one loop behind all gradient attacks: step, project, clip, repeat."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.attacks import inputs as inputs_lib
from advjax.attacks.callables import compile_per_callable
from advjax.attacks.inputs import Inputs
from advjax.norms import Norm, expand
from advjax.types import Array, LogitsFn, LossFn

# The floating leaves of the images, or what has their shapes.
Leaves = list[Array]

# (images, keys) -> (sum of the scores, (scores [B], fooled [B]))
Evaluate = Callable[[Leaves, Array | None], tuple[Array, tuple[Array, Array]]]


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
  space = _make_space(inputs, norm)
  evaluate = _make_evaluate(logits_fn, loss_fn, inputs, eot_samples)
  keys = None
  if inputs.key is not None:
    keys = inputs_lib.example_keys(inputs.key, space.batch)
  zero = _zero(evaluate, inputs, space, keys)

  def attempt(best: _Best | None, r: Any) -> Any:
    return _attempt(space, evaluate, _fold(keys, r), zero, best, num_steps)

  if not keep_best:
    return jax.lax.stop_gradient(attempt(None, 0))
  best = _Best(space.images(space.still(zero)), zero - jnp.inf, zero > 0)
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
  space: '_Space',
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
    (_, seen), gradient = gradient_fn(images, _fold(keys, t + 1))
    if best is not None:
      best = _better(best, images, *seen)
    delta, velocity = space.move(delta, velocity, gradient)
    return (delta, velocity, best), None

  still = space.still(zero)
  delta = still if keys is None else space.start(_fold(keys, 0))
  carry = (delta, None if space.decay is None else still, best)
  if num_steps == 1:
    carry, _ = step(carry, 0)
  else:
    carry, _ = jax.lax.scan(step, carry, _counter(num_steps))
  delta, _, best = carry
  images = space.images(delta)
  if best is None:
    return images
  _, seen = evaluate(images, _fold(keys, num_steps + 1))
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


def _fold(keys: Array | None, data: Any) -> Array | None:
  if keys is None:
    return None
  return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def _zero(
  evaluate: Evaluate, inputs: Inputs, space: '_Space', keys: Array | None
) -> Array:
  """Zeros [B] that a loop can start from.

  Under shard_map the type of a loop's state says over which mesh axes it varies,
  which may come from any argument or from the parameters inside the model: zeros
  shaped after the scores vary as they do. Only the type of the scores is used,
  so that nothing is computed for it.
  """
  zero = jnp.zeros(space.batch, inputs_lib.compute_dtype(inputs.images))
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return zero
  _, (score, _) = evaluate(space.originals, _fold(keys, 0))
  arrays = [score, *jax.tree.leaves(inputs._replace(key=None))]
  if keys is not None:
    arrays.append(jax.random.key_data(keys))
  for x in arrays:
    zero = zero + jnp.sum(jnp.zeros_like(x)).astype(zero.dtype)
  return zero


# --------------------------------------------------------------- what it climbs


def _make_evaluate(
  logits_fn: LogitsFn,
  loss_fn: LossFn,
  inputs: Inputs,
  eot_samples: int | None,
) -> Evaluate:
  targeted = inputs.targets is not None
  wanted = inputs.targets if targeted else inputs.labels

  def once(images: Leaves, keys: Array | None) -> tuple[Array, Any]:
    logits = _call(
      logits_fn, inputs_lib.replace_floating(inputs.images, images), keys
    )
    loss = jnp.asarray(loss_fn(logits, wanted))
    if loss.shape != images[0].shape[:1]:
      raise ValueError(
        f'loss_fn must return one loss per example, {images[0].shape[:1]}; '
        f'got shape {loss.shape}'
      )
    loss = loss.astype(jnp.promote_types(loss.dtype, jnp.float32))
    return (-loss if targeted else loss), logits

  def evaluate(images: Leaves, keys: Array | None) -> Any:
    if eot_samples is None:
      score, logits = once(images, None)
    else:
      # One after the other and recomputed for the gradient: the memory of one
      # sample, whatever their number.
      sample = jax.checkpoint(lambda s: once(images, _fold(keys, s)))
      score, logits = jax.tree.map(
        lambda x: jnp.mean(x, axis=0),
        jax.lax.map(sample, _counter(eot_samples)),
      )
    return jnp.sum(score), (score, _fooled(logits, wanted, targeted, score))

  return evaluate


def _call(logits_fn: LogitsFn, images: Any, keys: Array | None) -> Any:
  if keys is None:
    return logits_fn(images)

  # Example by example: what a random model draws cannot depend on the batch.
  def one(image: Any, key: Array) -> Any:
    logits = logits_fn(jax.tree.map(lambda x: x[None], image), key)
    return jax.tree.map(lambda x: x[0], logits)

  return jax.vmap(one)(images, keys)


def _fooled(logits: Any, wanted: Any, targeted: bool, score: Array) -> Array:
  """Whether the prediction is what the attack wants; False if unknown. [B]"""
  logits = logits if isinstance(logits, jax.Array) else score
  if logits.ndim == 2 and isinstance(wanted, jax.Array):
    prediction = jnp.argmax(logits, axis=-1)
    if wanted.ndim == 1 and jnp.issubdtype(wanted.dtype, jnp.integer):
      return (prediction == wanted) == targeted
    if wanted.shape == logits.shape:
      return (prediction == jnp.argmax(wanted, axis=-1)) == targeted
  return jnp.zeros_like(score, dtype=bool)


# --------------------------------------------------------------- where it moves


class _Space(NamedTuple):
  """The perturbations around the originals, in float32 or better."""

  originals: Leaves
  norm: Norm
  epsilon: Array | None  # [B]
  step_size: Array  # [B]
  decay: Array | None
  lower: Leaves  # the box as seen by the images
  upper: Leaves
  mask: Leaves | None

  @property
  def batch(self) -> int:
    return self.originals[0].shape[0]

  def still(self, zero: Array) -> Leaves:
    """The perturbation that is none."""
    return [
      jnp.zeros_like(x, dtype=_wide(x)) + expand(zero, x).astype(_wide(x))
      for x in self.originals
    ]

  def room(self, delta: Leaves | None = None) -> tuple[Leaves, Leaves]:
    """How far each coordinate can move down and up within the box."""
    at = [x.astype(_wide(x)) for x in self.originals]
    if delta is not None:
      at = [x + d for x, d in zip(at, delta, strict=True)]
    return (
      [low - x for low, x in zip(self.lower, at, strict=True)],
      [high - x for high, x in zip(self.upper, at, strict=True)],
    )

  def start(self, keys: Array) -> Leaves:
    """A uniform draw from the ball, clipped to the box."""
    radius = self.step_size if self.epsilon is None else self.epsilon
    like = [jnp.zeros_like(x, dtype=_wide(x)) for x in self.originals]
    draws = self.norm.sample(keys, like)
    delta = [d * expand(radius, d).astype(d.dtype) for d in draws]
    if self.mask is not None:  # What is masked out does not move at all.
      delta = [
        jnp.where(m > 0, d, 0) for m, d in zip(self.mask, delta, strict=True)
      ]
    return _clip(delta, *self.room())

  def move(
    self, delta: Leaves, velocity: Leaves | None, gradient: Leaves
  ) -> tuple[Leaves, Leaves | None]:
    """One step, then the projection, then the clip."""
    gradient = [
      jnp.where(jnp.isfinite(g), g, 0).astype(_wide(g))
      for g in jax.lax.stop_gradient(gradient)
    ]
    if self.mask is not None:
      gradient = [g * m for g, m in zip(gradient, self.mask, strict=True)]
    if velocity is not None:
      velocity = gradient = self._accumulate(velocity, gradient)
    direction = self.norm.direction(gradient, *self.room(delta))
    delta = [
      d + expand(self.step_size, d).astype(d.dtype) * u
      for d, u in zip(delta, direction, strict=True)
    ]
    lower, upper = self.room()
    if self.epsilon is None:
      return _clip(delta, lower, upper), velocity
    return self.norm.project(delta, self.epsilon, lower, upper), velocity

  def _accumulate(self, velocity: Leaves, gradient: Leaves) -> Leaves:
    """decay * velocity + gradient / |gradient|_1, one norm over all leaves."""
    unit = norms.unit_l1(gradient)
    return [
      self.decay.astype(v.dtype) * v + g
      for v, g in zip(velocity, unit, strict=True)
    ]

  def images(self, delta: Leaves) -> Leaves:
    """originals + delta in the originals' dtype, still in the box and ball."""
    images = []
    for x, d, low, high in zip(
      self.originals, delta, self.lower, self.upper, strict=True
    ):
      y = jnp.clip(x.astype(d.dtype) + d, low, high).astype(x.dtype)
      wide = y.astype(d.dtype)
      y = jnp.where((wide < low) | (wide > high), jnp.nextafter(y, x), y)
      images.append(jnp.where(d == 0, x, y))
    if self.epsilon is None:
      return images
    moved = [
      y.astype(_wide(y)) - x.astype(_wide(x))
      for y, x in zip(images, self.originals, strict=True)
    ]
    outside = self.norm.size(moved) > self.epsilon
    return [
      jnp.where(
        expand(outside, y) & (jnp.abs(m) > jnp.abs(d)), jnp.nextafter(y, x), y
      )
      for x, y, m, d in zip(self.originals, images, moved, delta, strict=True)
    ]


def _make_space(inputs: Inputs, norm: Norm) -> _Space:
  originals = [jnp.asarray(x) for x in inputs_lib.floating(inputs.images)]
  dtype = inputs_lib.compute_dtype(inputs.images)
  batch = originals[0].shape[0]

  def per_example(value: Any) -> Array:
    return jnp.broadcast_to(jnp.asarray(value, dtype), (batch,))

  def as_leaves(values: list[Any]) -> Leaves:
    return [
      jnp.asarray(v, _wide(x)) for v, x in zip(values, originals, strict=True)
    ]

  return _Space(
    originals=originals,
    norm=norm,
    epsilon=None if inputs.epsilon is None else per_example(inputs.epsilon),
    step_size=per_example(inputs.step_size),
    decay=None if inputs.decay is None else jnp.asarray(inputs.decay, dtype),
    lower=as_leaves(inputs.lower),
    upper=as_leaves(inputs.upper),
    mask=None if inputs.mask is None else as_leaves(inputs.mask),
  )


def _wide(x: Array) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)


def _clip(delta: Leaves, lower: Leaves, upper: Leaves) -> Leaves:
  return [
    jnp.clip(d, low, high)
    for d, low, high in zip(delta, lower, upper, strict=True)
  ]
