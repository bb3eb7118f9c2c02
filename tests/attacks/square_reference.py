"""The Square attack in NumPy float64, one image and one query at a time."""

import jax
import numpy as np

from tests import reference


def share(query, num_queries, p_init):
  """The share p of the proposal that follows so many proposals."""
  scaled = int(query / num_queries * 10000)
  shrinks = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
  return p_init / 2 ** sum(scaled > last for last in shrinks)


def hill(height, width, order):
  """Concentric squares, each as high as the square of its radius is small."""
  values = np.zeros((height, width))
  for k in range(max(height // 2, width // 2) + 1):
    for i in range(height):
      for j in range(width):
        if abs(i - height // 2) <= k and abs(j - width // 2) <= k:
          values[i, j] += 1 / (k + 1) ** (4 / order)
  return values / np.linalg.norm(values.ravel(), order)


def bump(size, order):
  values = np.zeros((size, size))
  if size > 1:
    values[: size // 2] = hill(size // 2, size, order)
  values[size // 2 :] = -hill(size - size // 2, size, order)
  return values / np.linalg.norm(values.ravel(), order)


def words(key, t, shape):
  """What the row with this key draws in step t."""
  bits = jax.random.bits(jax.random.fold_in(key, t), shape, np.uint32)
  return np.asarray(bits)


def signs(drawn, channels):
  assert channels <= 32
  return 2.0 * np.array([int(drawn) >> c & 1 for c in range(channels)]) - 1


def start(x, epsilon, norm, key):
  """The first candidate: stripes, or bumps side by side."""
  height, width, channels = x.shape
  if norm == 'linf':
    up = words(key, 0, (1, width, channels)) & 1
    return np.clip(x + epsilon * (2.0 * up - 1), 0, 1)
  order = {'l2': 2, 'l1': 1}[norm]
  side = max(min(height, width) // 5, 1)
  down, right = height // side, width // side
  drawn = words(key, 0, (down, right, 1 + channels)) & 1
  delta = np.zeros_like(x)
  top, left = (height - down * side) // 2, (width - right * side) // 2
  for i in range(down):
    for j in range(right):
      tile = bump(side, order)
      if drawn[i, j, 0]:
        tile = tile.T
      place = np.s_[top + i * side :, left + j * side :]
      delta[place][:side, :side] = tile[..., None] * (2.0 * drawn[i, j, 1:] - 1)
  return inside(x, delta, epsilon, norm)


def inside(x, delta, epsilon, norm):
  if norm == 'l2':
    delta = delta / (np.linalg.norm(delta) + 1e-12) * epsilon
    return np.clip(x + delta, 0, 1)
  box = (delta.ravel(), epsilon, -x.ravel(), 1 - x.ravel())
  return np.clip(x + reference.project_l1(*box).reshape(x.shape), 0, 1)


def propose(x, best, epsilon, norm, key, t, num_queries, p_init):
  """The candidate of step t > 0, and its window."""
  height, width, channels = x.shape
  assert height == width
  p = share(t - 1, num_queries, p_init)
  size = max(round((p * height * width) ** 0.5), 1)
  if norm == 'linf':
    drawn = words(key, t, (3,))
    window = place(drawn[:2], min(size, height), height)
    candidate = best.copy()
    ends = np.clip(x + epsilon * signs(drawn[2], channels), 0, 1)
    candidate[window] = ends[window]
    return candidate, window
  order = {'l2': 2, 'l1': 1}[norm]
  size = max(size, 3)
  size = min(size + (size % 2 == 0), height)
  drawn = words(key, t, (6,))
  window = place(drawn[:2], size, height)
  source = place(drawn[2:4], size, height)
  delta = best - x
  covered = np.zeros((height, width), bool)
  covered[window] = covered[source] = True
  tile = bump(size, order)
  if drawn[4] & 1:
    tile = tile.T
  new = np.zeros((size, size, channels))
  for c, sign in enumerate(signs(drawn[5], channels)):
    left = max(epsilon**order - np.sum(np.abs(delta) ** order), 0)
    held = np.sum(np.abs(delta[covered][:, c]) ** order)
    old = delta[window][..., c]
    new[..., c] = sign * tile + old / (
      1e-12 + np.linalg.norm(old.ravel(), order)
    )
    new[..., c] /= 1e-12 + np.linalg.norm(new[..., c].ravel(), order)
    new[..., c] *= (left / channels + held) ** (1 / order)
  if norm == 'l1':
    new *= channels
  delta[source] = 0
  delta[window] = new
  return inside(x, delta, epsilon, norm), window


def place(drawn, size, length):
  top, left = (int(word) % (length - size + 1) for word in drawn)
  return np.s_[top : top + size, left : left + size]
