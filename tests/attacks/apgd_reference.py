"""APGD again, row by row in NumPy float64, as in its papers."""

from typing import NamedTuple

import numpy as np

from tests import reference


class Walk(NamedTuple):
  """What one row did, and the best that it met."""

  deltas: np.ndarray  # [num_steps + 1, D]
  step_sizes: np.ndarray  # of the move after each; NaN where there is none
  losses: np.ndarray
  found: np.ndarray
  fooled: bool
  score: float


def checkpoints(num_steps):
  """p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), in whole steps."""
  result, window = [0], max(int(0.22 * num_steps), 1)
  while result[-1] + window <= num_steps:
    result.append(result[-1] + window)
    window -= max(int(0.03 * num_steps), 1)
    window = max(window, int(0.06 * num_steps), 1)
  return result


def walk(norm, network, start, epsilon, lower, upper, num_steps):
  """Follows one row; network(delta) gives its loss, gradient and success."""
  seen = []

  def look(delta):
    loss, gradient, fooled = network(delta)
    seen.append([delta, np.nan, fooled, loss])
    return loss, gradient

  def project(delta, radius):
    box = lower[None], upper[None]
    return reference.project(norm, delta[None], radius, *box)[0]

  if norm == 'l1':
    first = _l1(look, project, start, epsilon, num_steps, seen)
  else:
    first = 0
    _halving(norm, look, project, start, epsilon, num_steps, seen)
  # The earliest of the best; no point of a larger ball counts.
  best = max(seen[first:], key=lambda point: (point[2], point[3]))
  deltas, step_sizes, losses = (
    np.array([point[i] for point in seen]) for i in (0, 1, 3)
  )
  return Walk(deltas, step_sizes, losses, best[0], bool(best[2]), best[3])


def _halving(norm, look, project, start, epsilon, num_steps, seen):
  """Algorithm 1 of Croce and Hein 2020."""
  marks = checkpoints(num_steps)
  step, halvings = 2 * epsilon, []
  x = previous = start
  loss, gradient = look(x)
  best, best_loss, best_gradient = x, loss, gradient
  trace, best_at = [loss], {0: loss}
  for k in range(num_steps):
    seen[-1][1] = step
    size = np.sqrt((gradient**2).sum())
    unit = np.sign(gradient) if norm == 'linf' else gradient / size
    z = project(x + step * unit, epsilon)
    alpha = 1 if k == 0 else 0.75
    new = project(x + alpha * (z - x) + (1 - alpha) * (x - previous), epsilon)
    previous, x = x, new
    loss, gradient = look(x)
    trace.append(loss)
    if loss > best_loss:
      best, best_loss, best_gradient = x, loss, gradient
    if k + 1 not in marks:
      continue
    last = marks[marks.index(k + 1) - 1]
    rises = sum(trace[i + 1] > trace[i] for i in range(last, k + 1))
    best_at[k + 1] = best_loss
    stuck = last > 0 and last not in halvings and best_loss == best_at[last]
    if rises < 0.75 * (k + 1 - last) or stuck:
      halvings.append(k + 1)
      step /= 2
      x, gradient = best, best_gradient
  seen[-1][1] = step


def _l1(look, project, start, epsilon, num_steps, seen):
  """Algorithm 1 of Croce and Hein 2021; returns where the last ball begins."""
  early = int(0.3 * num_steps)
  best = start
  for factor, moves in ((3, early), (2, early), (1, num_steps - 2 * early)):
    first = len(seen)
    if not moves:
      continue
    radius = factor * epsilon
    x = best if factor == 3 else project(best, radius)
    loss, gradient = look(x)
    best, best_loss, best_gradient = x, loss, gradient
    nonzero, step = _count(x), radius
    every = max(int(0.04 * moves), 1)
    # The look at the beginning of an early ball counts as one of its steps.
    for i in range(moves - (factor > 1)):
      seen[-1][1] = step
      count = len(x)
      place = int(np.clip(count - np.ceil(nonzero / 1.5), 0, count - 1))
      largest = np.abs(gradient) >= np.sort(np.abs(gradient))[place]
      signs = np.sign(gradient) * largest
      x = project(x + step * signs / np.abs(signs).sum(), radius)
      loss, gradient = look(x)
      if loss > best_loss:
        best, best_loss, best_gradient = x, loss, gradient
      if (i + 1) % every == 0:
        before, nonzero = nonzero, _count(best)
        if nonzero / before < 0.95:
          step, x, gradient = radius, best, best_gradient
        else:
          step = max(step / 1.5, radius / 10)
  return first


def _count(delta):
  return np.sum(np.abs(delta) > 1e-12)
