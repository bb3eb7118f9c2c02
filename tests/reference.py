"""The four attacks again, in NumPy float64 with hand-written gradients."""

from typing import NamedTuple

import numpy as np


class Mlp(NamedTuple):
  """Two dense layers with a ReLU between."""

  w1: np.ndarray
  b1: np.ndarray
  w2: np.ndarray
  b2: np.ndarray

  @classmethod
  def random(cls, seed, num_inputs, num_hidden, num_classes):
    rng = np.random.default_rng(seed)
    return cls(
      rng.normal(size=(num_inputs, num_hidden)) / np.sqrt(num_inputs),
      rng.normal(size=num_hidden) / 10,
      2 * rng.normal(size=(num_hidden, num_classes)) / np.sqrt(num_hidden),
      rng.normal(size=num_classes) / 10,
    )

  def logits(self, x):
    return np.maximum(x @ self.w1 + self.b1, 0) @ self.w2 + self.b2

  def gradient(self, x, logits_gradient):
    active = x @ self.w1 + self.b1 > 0
    return ((logits_gradient @ self.w2.T) * active) @ self.w1.T


def cross_entropy(logits, labels):
  """Returns the loss [B] and its gradient [B, K]."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  total = np.exp(shifted).sum(axis=1)
  rows = np.arange(len(labels))
  gradient = np.exp(shifted) / total[:, None]
  gradient[rows, labels] -= 1
  return np.log(total) - shifted[rows, labels], gradient


def direction(norm, gradient, delta, lower, upper):
  if norm == 'linf':
    return np.sign(gradient)
  if norm == 'l2':
    size = np.sqrt((gradient**2).sum(axis=1, keepdims=True))
    return np.divide(gradient, size, out=0 * gradient, where=size > 0)
  result = np.zeros_like(gradient)
  count = int(np.ceil(gradient.shape[1] / 20))
  for i, g in enumerate(gradient):
    stuck = ((delta[i] >= upper[i]) & (g > 0)) | (
      (delta[i] <= lower[i]) & (g < 0)
    )
    g = np.where(stuck, 0, g)
    top = [j for j in np.argsort(-np.abs(g))[:count] if g[j] != 0]
    if top:
      result[i, top] = np.sign(g[top]) / len(top)
  return result


def project(norm, delta, epsilon, lower, upper):
  if norm == 'linf':
    return np.clip(np.clip(delta, -epsilon, epsilon), lower, upper)
  if norm == 'l2':
    size = np.sqrt((delta**2).sum(axis=1, keepdims=True))
    scale = np.where(size > epsilon, epsilon / np.maximum(size, 1e-300), 1)
    return np.clip(delta * scale, lower, upper)
  rows = zip(delta, lower, upper, strict=True)
  return np.stack([project_l1(d, epsilon, *box) for d, *box in rows])


def project_l1(delta, epsilon, lower, upper):
  """The nearest point of ball and box, by walking over all breakpoints."""
  size = np.abs(delta)
  room = np.where(delta > 0, upper, -lower)

  def shrink(shift):
    return np.minimum(np.maximum(size - shift, 0), room)

  if shrink(0.0).sum() <= epsilon:
    return np.sign(delta) * shrink(0.0)
  breaks = np.unique(np.concatenate([[0.0], size, size - room]))
  breaks = breaks[breaks >= 0]
  totals = np.array([shrink(b).sum() for b in breaks])
  i = int(np.max(np.nonzero(totals > epsilon)))
  slope = (totals[i + 1] - totals[i]) / (breaks[i + 1] - breaks[i])
  return np.sign(delta) * shrink(breaks[i] + (epsilon - totals[i]) / slope)


def ascend(
  model,
  images,
  labels,
  epsilon,
  step_size,
  *,
  num_steps,
  norm='linf',
  start=None,
  targets=None,
  decay=None,
  bounds=(0.0, 1.0),
):
  """Returns the iterates, the start and the last one included."""
  lower, upper = bounds[0] - images, bounds[1] - images
  delta = np.zeros_like(images)
  if start is not None:
    delta = np.clip(start, lower, upper)
  velocity = np.zeros_like(images)
  iterates = [images + delta]
  for _ in range(num_steps):
    x = iterates[-1]
    wanted = labels if targets is None else targets
    _, logits_gradient = cross_entropy(model.logits(x), wanted)
    gradient = model.gradient(x, logits_gradient)
    if targets is not None:
      gradient = -gradient
    if decay is not None:
      size = np.abs(gradient).sum(axis=1, keepdims=True)
      velocity = decay * velocity + gradient / np.where(size > 0, size, 1)
      gradient = velocity
    unit = direction(norm, gradient, delta, lower, upper)
    delta = project(norm, delta + step_size * unit, epsilon, lower, upper)
    iterates.append(images + delta)
  return iterates


def best(model, iterates, labels, targets=None):
  """Per example: misclassified first, then highest loss, then earliest."""
  chosen = iterates[0].copy()
  for i in range(len(labels)):
    record = (False, -np.inf)
    for x in iterates:
      logits = model.logits(x[i : i + 1])
      wanted = (labels if targets is None else targets)[i : i + 1]
      loss = cross_entropy(logits, wanted)[0][0]
      hit = logits[0].argmax() == wanted[0]
      new = (bool(hit), -loss) if targets is not None else (not hit, loss)
      if new > record:
        record, chosen[i] = new, x[i]
  return chosen
