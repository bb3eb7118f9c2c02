"""How far two sets of numbers are apart.

Differences are relative to the largest magnitude of the array.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def difference(ours: Any, theirs: Any) -> float:
  """Returns max |ours - theirs| / max |theirs|.

  Args:
    ours: Numbers.
    theirs: Numbers of the same shape.

  Returns:
    The relative difference; 0 where both are all zero.

  Raises:
    ValueError: if the shapes differ.

  Example:
    >>> difference([1.0, 2.2], [1.0, 2.0])
    0.1
  """
  ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
  if ours.shape != theirs.shape:
    raise ValueError(f'shapes differ: ours {ours.shape}, NSL {theirs.shape}')
  largest = np.abs(theirs).max(initial=0.0)
  distance = np.abs(ours - theirs).max(initial=0.0)
  return float(distance / largest) if largest else float(distance)


def tree_difference(
  ours: Arrays, theirs: Arrays, zero: Sequence[str] = ()
) -> float:
  """Returns the largest difference among arrays of the same names.

  Args:
    ours: Arrays.
    theirs: Arrays.
    zero: Names of arrays that are zero but for rounding: these are measured
      by the largest entry of all arrays.

  Returns:
    The largest of the arrays' relative differences.

  Raises:
    ValueError: if the names or shapes differ.

  Example:
    >>> a = {'kernel': np.array([1.0, 2.0]), 'bias': np.array([1e-9])}
    >>> b = {'kernel': np.array([1.0, 2.2]), 'bias': np.array([-1e-9])}
    >>> round(tree_difference(a, b, zero=['bias']), 3)
    0.091
  """
  if set(ours) != set(theirs):
    raise ValueError(f'names differ: {sorted(set(ours) ^ set(theirs))}')
  largest = max((float(np.abs(x).max()) for x in theirs.values()), default=0.0)
  distances = [difference(ours[k], theirs[k]) for k in ours if k not in zero]
  distances += [
    float(np.abs(ours[k] - theirs[k]).max()) / largest
    for k in zero
    if k in ours and largest
  ]
  return max(distances, default=0.0)


def perturbation_difference(
  ours: np.ndarray, theirs: np.ndarray, step_size: float, norm: str
) -> tuple[float, np.ndarray]:
  """Compares perturbations, flips apart.

  Flips are pixels that are perturbed differently by more than 1e-3 of a step,
  in 'infinity' and 'l1': there the direction jumps where a gradient changes
  its sign or another pixel's becomes the largest, so that rounding decides.

  Args:
    ours: `[B, ...]`, perturbed minus clean.
    theirs: The same of NSL.
    step_size: Of the attack.
    norm: NSL's name; in 'l2' nothing jumps.

  Returns:
    The relative difference outside of the flips, and which pixels flipped.

  Example:
    >>> ours, theirs = np.array([[0.2, 0.2]]), np.array([[0.2, -0.2]])
    >>> perturbation_difference(ours, theirs, 0.2, 'infinity')
    (0.0, array([[False, True]]))
  """
  flipped = np.abs(ours - theirs) > 1e-3 * step_size
  if norm == 'l2':
    flipped = np.zeros_like(flipped)
  return difference(np.where(flipped, theirs, ours), theirs), flipped


def gradient_at(flipped: np.ndarray, gradient: np.ndarray) -> float:
  """Returns the largest gradient at flips, relative to the example's largest.

  Args:
    flipped: bool `[B, ...]`.
    gradient: `[B, ...]`.

  Returns:
    A number in [0, 1].

  Example:
    >>> gradient_at(np.array([[False, True]]), np.array([[0.5, -1e-9]]))
    2e-09
  """
  size = np.abs(gradient)
  largest = size.max(axis=tuple(range(1, size.ndim)), keepdims=True)
  relative = np.divide(
    size, largest, out=np.zeros_like(size), where=largest > 0
  )
  return float(relative[flipped].max(initial=0.0))


def over(row: Mapping[str, Any], tolerance: float) -> list[str]:
  """Returns the quantities of a row that are not within tolerance.

  Args:
    row: Quantity -> relative difference, or None where there is none.
    tolerance: The largest difference allowed.

  Returns:
    Their names; NaN is over any tolerance.

  Example:
    >>> over({'loss': 1e-7, 'gradient': 2e-5, 'statistics': None}, 1e-5)
    ['gradient']
  """
  return [
    name
    for name, value in row.items()
    if value is not None and not value <= tolerance
  ]
