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


# ------------------------------------------------- virtual adversarial examples


def softmax(logits):
  shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return shifted / shifted.sum(axis=-1, keepdims=True)


def _kl(p, q):
  return (p * np.log(p + 1e-7) - p * np.log(q + 1e-7)).sum(axis=-1)


def _cosine(a, b):
  sizes = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return 1 - (a * b).sum(axis=-1) / sizes


def distance(name, a, b):
  """Its pairwise distances of logits, one per example."""
  if name == 'l2':
    return ((a - b) ** 2).mean(axis=-1)
  if name == 'l1':
    return np.abs(a - b).mean(axis=-1)
  if name == 'cosine':
    return _cosine(a, b)
  p, q = softmax(a), softmax(b)
  if name == 'kl':
    return _kl(p, q)
  return (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2


def unit(direction, norm):
  """Its `normalize`; rows are examples."""
  size = {
    'infinity': lambda x: np.abs(x).max(axis=1),
    'l2': lambda x: np.sqrt((x**2).sum(axis=1)),
    'l1': lambda x: np.abs(x).sum(axis=1),
  }[norm](direction)
  return direction / np.maximum(size, 1e-6)[:, None]


def virtual_perturb(
  mlp,
  images,
  draw,
  *,
  step_size,
  norm,
  distance_name,
  num_steps=1,
  approx_difference=1e-6,
  mask=1.0,
):
  """Returns the images after power iteration from a normal draw."""
  clean = mlp.logits(images)
  direction = unit(mask * draw, norm)
  for _ in range(num_steps):
    moved = images + approx_difference * direction
    logits = mlp.logits(moved)
    by_logits = np.zeros_like(logits)
    for k in range(logits.shape[1]):
      step = 1e-6 * (np.arange(logits.shape[1]) == k)[None]
      by_logits[:, k] = (
        distance(distance_name, clean, logits + step)
        - distance(distance_name, clean, logits - step)
      ) / 2e-6
    gradient = mlp.gradient(moved, by_logits / len(images))
    direction = unit(mask * gradient, norm)
  return images + step_size * direction
