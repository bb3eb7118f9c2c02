"""Means of the metrics of several seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def mean_and_std(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Averages the metrics of several seeds.

  Args:
    runs: The same metrics of each seed; one seed's stay as they are.

  Returns:
    Each number's mean, and beside it the sample standard deviation as
    `..._std`; step and epoch, and what is no number, as in the first.

  Example:
    >>> mean_and_std([{'epoch': 1, 'loss': 1.0}, {'epoch': 1, 'loss': 3.0}])
    {'epoch': 1, 'loss': 2.0, 'loss_std': 1.4142135623730951}
  """
  result = dict(runs[0])
  if len(runs) == 1:
    return result
  for name, value in runs[0].items():
    if isinstance(value, float):
      values = [run[name] for run in runs]
      result[name] = statistics.fmean(values)
      result[f'{name}_std'] = statistics.stdev(values)
  return result
