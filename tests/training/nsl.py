"""How Neural Structured Learning perturbs a batch, in NumPy float64."""

import numpy as np


def direction(gradient, norm):
  """Its `maximize_within_unit_norm`; rows are examples."""
  if norm == 'infinity':
    return np.sign(gradient)
  if norm == 'l2':
    squares = (gradient**2).sum(axis=1, keepdims=True)
    return gradient / np.sqrt(np.maximum(squares, 1e-12))
  size = np.abs(gradient)
  largest = (size == size.max(axis=1, keepdims=True)) & (size > 0)
  count = largest.sum(axis=1, keepdims=True)
  return np.sign(gradient) * largest / np.maximum(count, 1e-6)


def project(delta, epsilon, norm):
  """Its projection onto the ball, which it has for two norms."""
  if norm == 'infinity':
    return np.clip(delta, -epsilon, epsilon)
  size = np.sqrt((delta**2).sum(axis=1, keepdims=True))
  return np.where(size > epsilon, delta * epsilon / size, delta)


def perturb(
  gradient_of_mean_loss,
  images,
  *,
  step_size,
  norm,
  num_steps=1,
  epsilon=None,
  mask=1.0,
  bounds=(None, None),
  start=None,
):
  """Returns the images after all steps, projected before they are clipped."""
  moved = images if start is None else start
  for _ in range(num_steps):
    gradient = mask * gradient_of_mean_loss(moved)
    delta = moved - images + step_size * direction(gradient, norm)
    if epsilon is not None:
      delta = project(delta, epsilon, norm)
    moved = images + delta
    for bound, clip in zip(bounds, (np.maximum, np.minimum), strict=True):
      moved = moved if bound is None else clip(moved, bound)
  return moved
