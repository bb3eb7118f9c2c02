"""Times of what takes turns, so that a noisy machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax


class Spread(NamedTuple):
  """Seconds of several rounds.

  Attributes:
    median: Half of the rounds took less.
    low: A quarter of them took less.
    high: A quarter took more.
  """

  median: float
  low: float
  high: float


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
  """Calls a function and waits for its result.

  Args:
    function: Takes nothing.

  Returns:
    What it returns, and the seconds until that was there.

  Example:
    >>> timed(lambda: 1 + 1)[0]
    2
  """
  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return result, time.perf_counter() - start


def in_turns(
  variants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
  """Takes the time of variants in turns, after a first round for nothing.

  Args:
    variants: Each runs once and returns its seconds.
    rounds: How often.

  Returns:
    The seconds of every round by variant.

  Example:
    >>> in_turns({'a': lambda: 1.0, 'b': lambda: 2.0}, 2)
    {'a': [1.0, 1.0], 'b': [2.0, 2.0]}
  """
  for run in variants.values():
    run()
  seconds: dict[str, list[float]] = {name: [] for name in variants}
  for _ in range(rounds):
    for name, run in variants.items():
      seconds[name].append(run())
  return seconds


def spread(seconds: Sequence[float]) -> Spread:
  """Returns the median and the quartiles of some rounds.

  Args:
    seconds: Of each round.

  Returns:
    The three.

  Example:
    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    Spread(median=3.0, low=2.0, high=4.0)
  """
  if len(seconds) == 1:
    return Spread(seconds[0], seconds[0], seconds[0])
  low, median, high = statistics.quantiles(seconds, n=4, method='inclusive')
  return Spread(median, low, high)


def compared(
  seconds: Sequence[float], ours: Sequence[float], num_images: int
) -> dict[str, Any]:
  """Returns what tables say of a variant beside ours.

  Args:
    seconds: Of each round of the variant.
    ours: Of ours in the same rounds.
    num_images: That it handles in that time.

  Returns:
    JSON. `times_as_fast` is how often ours goes into it: the median over
    rounds of the ratio within a round.

  Example:
    >>> compared([4.0, 8.0], [1.0, 2.0], 3)['times_as_fast']
    4.0
  """
  median, low, high = spread(seconds)
  ratios = [their / own for their, own in zip(seconds, ours, strict=True)]
  return {
    'milliseconds': 1e3 * median,
    'quartiles': [1e3 * low, 1e3 * high],
    'images_per_second': num_images / median,
    'times_as_fast': spread(ratios).median,
    'rounds': list(seconds),
  }
