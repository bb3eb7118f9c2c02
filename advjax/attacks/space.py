"""Perturbations around the originals: where an attack moves, within what."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import norms
from advjax.attacks import inputs as inputs_lib
from advjax.attacks.inputs import Inputs
from advjax.norms import Norm, expand
from advjax.types import Array

# The floating leaves of the images, or what has their shapes.
Leaves = list[Array]


class Space(NamedTuple):
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
    origins = [x.astype(_wide(x)) for x in self.originals]
    lower = [low - x for low, x in zip(self.lower, origins, strict=True)]
    upper = [high - x for high, x in zip(self.upper, origins, strict=True)]
    if delta is None:
      return lower, upper
    # Exactly 0 for what was clipped to the box.
    return (
      [low - d for low, d in zip(lower, delta, strict=True)],
      [high - d for high, d in zip(upper, delta, strict=True)],
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
    if velocity is not None and self.decay is not None:
      # One norm over all leaves.
      velocity = gradient = [
        self.decay.astype(v.dtype) * v + g
        for v, g in zip(velocity, norms.unit_l1(gradient), strict=True)
      ]
    direction = self.norm.direction(gradient, *self.room(delta))
    delta = [
      d + expand(self.step_size, d).astype(d.dtype) * u
      for d, u in zip(delta, direction, strict=True)
    ]
    lower, upper = self.room()
    if self.epsilon is None:
      return _clip(delta, lower, upper), velocity
    return self.norm.project(delta, self.epsilon, lower, upper), velocity

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


def make_space(inputs: Inputs, norm: Norm) -> Space:
  """Returns the space that checked inputs ask for, a radius per example."""
  originals = [jnp.asarray(x) for x in inputs_lib.floating(inputs.images)]
  dtype = inputs_lib.compute_dtype(inputs.images)
  batch = originals[0].shape[0]

  def per_example(value: Any) -> Array:
    return jnp.broadcast_to(jnp.asarray(value, dtype), (batch,))

  def as_leaves(values: list[Any]) -> Leaves:
    return [
      jnp.asarray(v, _wide(x)) for v, x in zip(values, originals, strict=True)
    ]

  return Space(
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
