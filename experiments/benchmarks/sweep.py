"""Measure simultaneous against sequential training of the runs of a sweep.

  python -m experiments.benchmarks.sweep --members=1,4,16,64

The network and objective of `configs/digits.py:nsl`, one step size, multiplier
and seed per run; the same number of steps for each method, in seconds including
compilation, and in milliseconds per step of one run without it. The methods:

  in turn      sequential, each run on all devices, one shared program
  map          simultaneous: `lax.map` over the runs in one program, on device
               groups
  vmap         simultaneous: every step vmapped over the runs, on device groups
  ..., one group   the same, but every batch is sharded over all devices
  separate     sequential, each run compiled separately, as by N commands;
               measured up to --separate runs

A sweep uses `map` on CPUs, `vmap` elsewhere. Methods alternate; the table has
medians over rounds.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from advjax import cli, data
from advjax.config import default_config
from advjax.environment import environment
from advjax.training.setup import create_run
from advjax.training.vmapped import choose_groups
from experiments.benchmarks import harness, runs

_GROUPS = ('map', 'vmap')
WAYS = ('in turn', *_GROUPS, 'map, one group', 'vmap, one group', 'separate')


def measure(
  count: int,
  ways: Sequence[str],
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  *,
  steps: int,
  rounds: int,
) -> dict[str, list[tuple[float, float]]]:
  """Returns the rounds of each way to train so many runs."""
  configs = runs.sweep_configs(count)
  groups, _ = choose_groups(count, len(devices), configs[0].batch_size)
  in_groups, whole = (
    [create_run(c, dataset, devices, num_groups=number) for c in configs]
    for number in (groups, 1)
  )
  taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
  for _ in range(rounds):
    for way in ways:
      trainings = in_groups if way in _GROUPS else whole
      taken[way].append(runs.train_way(way, trainings, steps))
  return taken


def ways_of(count: int, num_devices: int, separate: int) -> list[str]:
  """Returns the ways that differ for so many runs and devices."""
  if count == 1:
    return ['in turn']
  ways = [way for way in WAYS if way != 'separate' or count <= separate]
  if num_devices > 1:
    return ways
  return [way for way in ways if 'one group' not in way]


def rows_of(
  count: int, steps: int, taken: dict[str, list[tuple[float, float]]]
) -> list[dict[str, Any]]:
  """Returns medians by way; ratios are to 'in turn'."""
  rows: list[dict[str, Any]] = []
  for way, found in taken.items():
    compiling, stepping = map(statistics.median, zip(*found, strict=True))
    seconds = statistics.median(map(sum, found))
    rows.append(
      {
        'members': count,
        'way': way,
        'seconds': seconds,
        'compile_seconds': compiling,
        'step_milliseconds': 1e3 * stepping / (count * steps),
        'ratio': seconds / (rows[0]['seconds'] if rows else seconds),
      }
    )
  return rows


def main() -> None:
  flag = flags.FLAGS
  harness.check_counts('steps', 'rounds', 'separate')
  counts = harness.integers('members')
  dataset = data.load(default_config().dataset)
  devices = cli.devices_from_flags()
  rows: list[dict[str, Any]] = []
  for count in counts:
    ways = ways_of(count, len(devices), flag.separate)
    taken = measure(
      count, ways, dataset, devices, steps=flag.steps, rounds=flag.rounds
    )
    rows += rows_of(count, flag.steps, taken)
    text = harness.table(
      rows,
      ('runs', 'members', 'd'),
      ('way', 'way', ''),
      ('s', 'seconds', '.2f'),
      ('s to compile', 'compile_seconds', '.2f'),
      ('ms per step', 'step_milliseconds', '.2f'),
      ('to in turn', 'ratio', '.2f'),
    )
    print(f'{text}\n', flush=True)
  print(harness.environment_line(environment(devices)))


if __name__ == '__main__':
  flags.DEFINE_list('members', ['1', '4', '16', '64'], 'How many, each.')
  flags.DEFINE_integer('steps', 45, 'Steps of each run in a round.')
  flags.DEFINE_integer('rounds', 3, 'Rounds of which the median is.')
  flags.DEFINE_integer(
    'separate', 4, 'The most runs that are compiled each for itself.'
  )
  cli.run(main)
