"""Shortest steps onto a hyperplane in NumPy float64, one row at a time.

By other ways than the library's: bisection in linf and l2, a linear program in
l1.
"""

import numpy as np
from scipy import optimize


def within_reach(weights, gap, lower, upper):
  """The gap, or as much of it as the box allows."""
  free = weights != 0  # 0 * inf is not a number.
  ends = weights[free] * lower[free], weights[free] * upper[free]
  return np.clip(gap, np.minimum(*ends).sum(), np.maximum(*ends).sum())


def shortest_step(norm, weights, gap, lower, upper):
  """argmin |d| such that <weights, d> = gap, lower <= d <= upper."""
  if not weights.any():
    return np.zeros_like(weights)
  gap = within_reach(weights, gap, lower, upper)
  if norm == 'l1':
    return _linear_program(weights, gap, lower, upper)
  towards = np.sign(gap) * (weights if norm == 'l2' else np.sign(weights))

  def step(scale):
    return np.clip(scale * towards, lower, upper)

  # <weights, step> grows with scale.
  low, high = 0.0, 1.0
  while abs(weights @ step(high)) < abs(gap) * (1 - 1e-15) and high < 1e30:
    low, high = high, 2 * high
  for _ in range(120):
    middle = (low + high) / 2
    if abs(weights @ step(middle)) < abs(gap):
      low = middle
    else:
      high = middle
  return step(high)


def _linear_program(weights, gap, lower, upper):
  """d = up - down of least sum, both at least 0."""
  result = optimize.linprog(
    np.ones(2 * len(weights)),
    A_eq=np.r_[weights, -weights][None],
    b_eq=[gap],
    bounds=np.c_[np.zeros(2 * len(weights)), np.r_[upper, -lower]],
  )
  assert result.status == 0, result.message
  up, down = np.split(result.x, 2)
  return up - down
