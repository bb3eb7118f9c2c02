"""Measure members trained at once against the same one after the other.

  python experiments/benchmarks/sweep.py --members=1,4,16,64

The network and objective of `configs/digits.py:nsl`, one step size, multiplier
and seed per member; the same number of steps each way, compile time included,
and apart from it the milliseconds per step of one member. The ways:

  in turn      one member after the other, each on all devices, with the
               program that they share
  map          all at once: run after run inside one program, each on a team
               of devices of its own
  vmap         all at once: every step of all runs together, in teams
  ..., one team  likewise, but every batch is cut over all devices
  separate     one member after the other, each compiled for itself, as N
               commands do; measured up to --separate members

What a sweep does: `map` on CPUs, `vmap` elsewhere. Ways take turns, and the
medians over rounds stand in the table.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from advjax import cli, data
from advjax.config import check_range, default_config
from advjax.devices import replicate
from advjax.reporting.report import environment
from advjax.training.setup import Run, create_run, device_inputs
from advjax.training.vmapped import (
  choose_groups,
  many_inputs,
  map_train_many,
  place,
)
from advjax.variants import set_variant

WAYS = ('in turn', 'map', 'vmap', 'map, one team', 'vmap, one team', 'separate')


class Round(NamedTuple):
  """What one round took, in seconds."""

  compiling: float
  stepping: float


def member_configs(count: int) -> list[config_dict.ConfigDict]:
  """Returns configs that differ in traced numbers alone."""
  base = set_variant(default_config(), 'nsl', epsilon=0.1, nsl_step_size=0.2)
  base.report_checkpoint = 'last'
  configs = [copy.deepcopy(base) for _ in range(count)]
  for index, config in enumerate(configs):
    config.seed = index
    config.hparams.step_size = 0.1 + 0.2 * index / count
    config.hparams.multiplier = 0.1 + 0.4 * index / count
  return configs


def _timed(
  program: Callable[..., Any], trainings: Sequence[Run], steps: int
) -> Round:
  """Compiles a program on its first use, and takes the steps."""
  start = time.perf_counter()
  none: Any = np.int32(0)
  counts: Any = np.int32(steps)
  states = [training.init_state() for training in trainings]
  if len(trainings) == 1:
    inputs = device_inputs(trainings[0])
    state = replicate(states[0], trainings[0].devices)
  else:
    inputs, placement = many_inputs(trainings), place(trainings)
    state = placement.put(states)
    none = placement.num_steps(0, ())
    counts = placement.num_steps(steps, range(len(trainings)))
  state, _ = program(state, *inputs, none)
  jax.block_until_ready(state)
  middle = time.perf_counter()
  jax.block_until_ready(program(state, *inputs, counts))
  return Round(middle - start, time.perf_counter() - middle)


def run_way(way: str, trainings: Sequence[Run], steps: int) -> Round:
  """Trains all members in one of the ways, compiling anew."""
  first, rounds = trainings[0], []
  jax.clear_caches()
  if way in ('in turn', 'separate'):
    for training in trainings:
      if way == 'separate':
        jax.clear_caches()
      rounds.append(_timed(training.train_steps, [training], steps))
    return Round(*map(sum, zip(*rounds, strict=True)))
  program = map_train_many(
    first.device_steps, tuple(first.devices), way.startswith('vmap')
  )
  return _timed(program, trainings, steps)


def measure(
  count: int,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  *,
  steps: int,
  rounds: int,
  separate: int,
) -> dict[str, dict[str, float]]:
  """Returns, for each way, medians of seconds and of milliseconds per step."""
  configs = member_configs(count)
  num_teams, _ = choose_groups(count, len(devices), configs[0].batch_size)
  cut, whole = (
    [create_run(c, dataset, devices, num_groups=teams) for c in configs]
    for teams in (num_teams, 1)
  )
  ways = [way for way in WAYS if way != 'separate' or count <= separate]
  if count == 1:
    ways = ['in turn']
  elif len(devices) == 1:  # One team in any case.
    ways = [way for way in ways if 'one team' not in way]
  taken: dict[str, list[Round]] = {way: [] for way in ways}
  for _ in range(rounds):
    for way in ways:
      in_teams = way in ('map', 'vmap')
      taken[way].append(run_way(way, cut if in_teams else whole, steps))
  return {
    way: {
      'seconds': statistics.median(sum(each) for each in found),
      'compile_seconds': statistics.median(each.compiling for each in found),
      'step_milliseconds': statistics.median(
        1000 * each.stepping / (count * steps) for each in found
      ),
    }
    for way, found in taken.items()
  }


def main() -> None:
  flag = flags.FLAGS
  for field in ('steps', 'rounds', 'separate'):
    check_range(field, getattr(flag, field), 1, integer=True)
  counts = []
  for text in flag.members:
    if not text.isdigit() or int(text) < 1:
      raise ValueError(f'members: {text!r}; allowed: integers >= 1')
    counts.append(int(text))
  dataset = data.load(default_config().dataset)
  devices = cli.devices_from_flags()
  print(f'{"members":>7}  {"way":14}  seconds  compiling  ms/step   to in turn')
  for count in counts:
    found = measure(
      count,
      dataset,
      devices,
      steps=flag.steps,
      rounds=flag.rounds,
      separate=flag.separate,
    )
    for way, numbers in found.items():
      ratio = numbers['seconds'] / found['in turn']['seconds']
      print(
        f'{count:7}  {way:14}  {numbers["seconds"]:7.2f}  '
        f'{numbers["compile_seconds"]:9.2f}  '
        f'{numbers["step_milliseconds"]:7.2f}  {ratio:11.2f}',
        flush=True,
      )
  where = environment(devices)
  print(', '.join(f'{name} {value}' for name, value in where.items()))


if __name__ == '__main__':
  flags.DEFINE_list('members', ['1', '4', '16', '64'], 'How many, each.')
  flags.DEFINE_integer('steps', 45, 'Steps of each member in a round.')
  flags.DEFINE_integer('rounds', 3, 'Rounds of which the median is.')
  flags.DEFINE_integer(
    'separate', 4, 'The most members that are compiled each for itself.'
  )
  cli.run(main)
