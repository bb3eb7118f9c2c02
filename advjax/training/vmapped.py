"""Several runs trained at once, in one compiled program.

Runs that differ in traced numbers alone (seed, hparams, initial weights) share
a program: vmapped on accelerators, one after the other on CPUs. The devices are
cut into groups, each for runs of its own.
"""

import contextlib
import functools
import json
import logging
import math
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from advjax.config import config_to_json, default_config
from advjax.data import Dataset
from advjax.devices import free_memory, parallelize, replicate, split
from advjax.fractions import count_of
from advjax.processes.collectives import gather, own_ranks
from advjax.processes.topology import find_place
from advjax.training.loop import (
  Diverged,
  Recorder,
  TrainResult,
  run_steps,
  train,
)
from advjax.training.objectives import Metrics
from advjax.training.setup import Run, create_run
from advjax.training.step import RunInputs
from advjax.types import Array

logger = logging.getLogger(__name__)

# What runs of one program may differ in: traced numbers, and the start.
_OWN_FIELDS = {'seeds', 'seed', 'hparams', 'init_from'}
_COMMON_FIELDS = sorted(set(default_config()) - _OWN_FIELDS)
# Of the free memory, for the states of runs; the rest is for what the steps
# need, which is not known before they are compiled.
_SHARE_FOR_STATES = 0.5
# A state that goes in, one that comes out, its gradients, a copy to save.
_COPIES_OF_STATE = 4


@functools.lru_cache(maxsize=16)
def map_train_many(
  train_steps: Callable, devices: tuple[jax.Device, ...], batched: bool
) -> functools.partial:
  """Maps the loop over several runs, each device's own, over devices.

  `(states, data, inputs, num_steps) -> (states, history)`, with leading axes
  over devices and runs; num_steps is 0 for runs that wait. Batched, it vmaps
  over the runs (for accelerators); else it trains one after the other (for
  CPUs, where batched products are slow; each run then rounds as it does alone).
  """

  def by_map(
    rank: Array, states: Any, data: Any, inputs: Any, num_steps: Array
  ) -> tuple[Any, Metrics]:
    return jax.lax.map(
      lambda run: train_steps(rank, run[0], data, *run[1:]),
      (states, inputs, num_steps),
    )

  def by_vmap(
    rank: Array, states: Any, data: Any, inputs: Any, num_steps: Array
  ) -> tuple[Any, Metrics]:
    # A count per run would select the state in every step; once at the end is
    # enough.
    stepped, history = jax.vmap(train_steps, (None, 0, None, 0, None))(
      rank, states, data, inputs, num_steps.max()
    )

    def choose(new: Array, old: Array) -> Array:
      moves = num_steps.reshape(-1, *[1] * (new.ndim - 1)) > 0
      return jnp.where(moves, new, old)

    return jax.tree.map(choose, stepped, states), history

  many = by_vmap if batched else by_map
  return parallelize(many, devices, num_args=4, split_args=(0, 2, 3))


class Placement(NamedTuple):
  """Several runs on several devices, group after group.

  Each device group has a stack of runs of its own, the same on its devices;
  copies of the first run, which take no steps, fill up the last stack.
  """

  num_runs: int
  num_groups: int
  devices: Sequence[jax.Device]

  @property
  def shape(self) -> tuple[int, int]:
    """Devices of a group, and places for runs in it."""
    group_size = len(self.devices) // self.num_groups
    return group_size, -(-self.num_runs // self.num_groups)

  def put(self, trees: Sequence[Any]) -> Any:
    """Stacks a pytree of each run to leaves `[devices, runs, ...]` there."""
    group_size, per_group = self.shape
    places = self.num_groups * per_group
    filled = [*trees, *[trees[0]] * (places - self.num_runs)]
    by_device = [
      _stack(filled[start : start + per_group])
      for start in range(0, places, per_group)
      for _ in range(group_size)
    ]
    return split(_stack(by_device), self.devices)

  def get(self, tree: Any) -> list[Any]:
    """Undoes `put`: one pytree per run, of NumPy arrays."""
    group_size, _ = self.shape

    def merge(leaf: Any) -> np.ndarray:
      by_group = gather(leaf, self.devices)[::group_size]
      return by_group.reshape(-1, *by_group.shape[2:])

    host = jax.tree.map(merge, tree)
    return [
      jax.tree.map(lambda leaf, i=index: leaf[i], host)
      for index in range(self.num_runs)
    ]

  def num_steps(self, count: int, moving: Collection[int]) -> np.ndarray:
    """The argument num_steps: `count` for some runs, 0 for the others."""
    group_size, per_group = self.shape
    counts = np.zeros(self.num_groups * per_group, np.int32)
    counts[list(moving)] = count
    by_group = counts.reshape(self.num_groups, per_group)
    return np.repeat(by_group, group_size, axis=0)[own_ranks(self.devices)]


def _stack(trees: Sequence[Any]) -> Any:
  def stack(*leaves: Any) -> Any:
    if jax.dtypes.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
      return jnp.stack(leaves)
    return np.stack(leaves)

  return jax.tree.map(stack, *trees)


def place(runs: Sequence[Run]) -> Placement:
  """Returns the placement of runs that share a program."""
  return Placement(len(runs), runs[0].plan.num_groups, runs[0].devices)


def many_inputs(runs: Sequence[Run]) -> tuple[dict[str, Array], RunInputs]:
  """Returns the `(data, inputs)` of runs on the same data, on the devices."""
  train, devices = runs[0].train_split, runs[0].devices
  data = {'image': train.images, 'label': train.labels}
  inputs = place(runs).put([run.inputs for run in runs])
  return replicate(data, devices), inputs


def train_many(
  runs: Sequence[Run],
  workdirs: Sequence[pathlib.Path],
  *,
  names: Sequence[str],
) -> list[TrainResult | Diverged]:
  """Trains runs of one program at once, in folders locked by the caller.

  A run has the randomness that it has alone, on as many devices as a device
  group has: its result is the same, on CPUs bit for bit, on accelerators up to
  float32 rounding. A run that diverges stops by itself, and has its error as
  result. Runs that lag behind, after a kill for example, catch up first.
  """
  if len(runs) == 1:
    try:
      return [train(runs[0], workdirs[0], name=names[0])]
    except Diverged as error:
      return [error]
  recorders = [
    Recorder(run, workdir, name)
    for run, workdir, name in zip(runs, workdirs, names, strict=True)
  ]
  states = [recorder.restore() for recorder in recorders]
  data, inputs = many_inputs(runs)
  placement, devices = place(runs), tuple(runs[0].devices)
  batched = devices[0].platform != 'cpu'
  program = map_train_many(runs[0].device_steps, devices, batched)
  moving: dict[int, Recorder] = {}
  failures: dict[int, Diverged] = {}

  def take_steps(state: Any, count: int) -> tuple[Any, Any]:
    counts = placement.num_steps(count, moving)
    return program(state, data, inputs, counts)

  end = runs[0].num_steps
  while True:
    steps = {
      index: int(state.step)
      for index, state in enumerate(states)
      if index not in failures
    }
    lowest = min(steps.values(), default=end)
    if lowest == end:
      break
    # Those of the lowest step; the others wait.
    moving |= {i: recorders[i] for i, step in steps.items() if step == lowest}
    until = min((s for s in steps.values() if s > lowest), default=end)
    with contextlib.ExitStack() as stack:
      for recorder in moving.values():
        stack.enter_context(recorder.logging(lowest))
      state = run_steps(
        moving,
        lambda: take_steps,
        placement.put(states),
        lowest,
        until,
        placement.get,
        failures,
      )
    states = placement.get(state)
    moving.clear()
  return [
    failures.get(index) or recorder.result(state)
    for index, (recorder, state) in enumerate(
      zip(recorders, states, strict=True)
    )
  ]


def train_seeds(
  runs: Sequence[Run],
  workdirs: Sequence[pathlib.Path],
  *,
  names: Sequence[str],
) -> list[TrainResult]:
  """Trains runs of one program: at once on accelerators, else one by one.

  One by one, too, if stages are unfrozen: each run unfreezes by its own losses.
  """
  staged = runs[0].config.unfreezing.name != 'none'
  if runs[0].devices[0].platform == 'cpu' or staged:
    return [
      train(run, workdir, name=name)
      for run, workdir, name in zip(runs, workdirs, names, strict=True)
    ]
  results = train_many(runs, workdirs, names=names)
  for result in results:
    if isinstance(result, Diverged):
      raise result
  return results  # type: ignore[return-value]


# ------------------------------------------------- many runs, chunk after chunk


class Chunk(NamedTuple):
  """Runs that were trained at once, and how they shared the devices."""

  indices: list[int]
  runs: list[Run]
  results: list[TrainResult | Diverged]
  how: str


def group_by_program(
  configs: Sequence[config_dict.ConfigDict],
) -> list[list[int]]:
  """Returns the indices of runs that differ in traced numbers alone."""
  groups: dict[str, list[int]] = {}
  for index, config in enumerate(configs):
    fields = config_to_json(config)
    key = json.dumps([fields.get(name) for name in _COMMON_FIELDS])
    groups.setdefault(key, []).append(index)
  return list(groups.values())


def choose_groups(
  num_runs: int, num_devices: int, batch_size: int
) -> tuple[int, int]:
  """Returns the number of device groups and their size.

  As many as there are runs for, of equal size: a batch that is not cut needs no
  communication. A group has no more devices than a batch has images.
  """
  divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
  num_groups = max(n for n in divisors if n <= num_runs)
  return num_groups, min(num_devices // num_groups, batch_size)


def runs_that_fit(run: Run, num_devices: int) -> int:
  """Estimates how many runs fit on the devices at once, by their states."""
  state = sum(leaf.nbytes for leaf in jax.tree.leaves(run.init_state()))
  device = run.devices[0]
  # Other processes on this machine may train at the same time.
  free = free_memory(device, num_devices * find_place().num_local)
  if device.platform != 'cpu':
    free -= run.train_split.images.nbytes + run.train_split.labels.nbytes
  per_device = int(_SHARE_FOR_STATES * free) // (_COPIES_OF_STATE * state)
  return max(1, per_device * num_devices)


def train_group(
  configs: Sequence[config_dict.ConfigDict],
  workdirs: Sequence[pathlib.Path],
  names: Sequence[str],
  dataset: Dataset,
  devices: Sequence[jax.Device],
  *,
  num_runs: int,
) -> Iterator[Chunk]:
  """Trains the runs of one group, as many at once as fit in memory.

  Device groups are those for `num_runs` runs, of which these are the ones left.
  If an accelerator still runs out of memory, half as many resume from the last
  checkpoints.
  """
  left = list(range(len(configs)))
  staged = configs[0].unfreezing.name != 'none'
  limit = 1
  if not staged:
    alone = create_run(configs[0], dataset, devices[:1])
    limit = runs_that_fit(alone, len(devices))
  while left:
    # Chunks of equal size, but for the last.
    num_chunks = math.ceil(len(left) / limit)
    indices = left[: math.ceil(len(left) / num_chunks)]
    # An own objective may sum over all devices.
    is_own = ':' in configs[0].objective.name
    num_groups, group_size = choose_groups(
      1 if is_own else min(num_runs, limit),
      len(devices),
      configs[0].batch_size,
    )
    num_groups = min(num_groups, len(indices))
    used = devices[: num_groups * group_size]
    runs = [
      create_run(configs[i], dataset, used, num_groups=num_groups)
      for i in indices
    ]
    how = count_of(len(used) // num_groups, 'device')
    if len(indices) > 1:
      way = 'sequential' if used[0].platform == 'cpu' else 'vmapped'
      groups = f'{num_groups} groups of ' if num_groups > 1 else ''
      how = f'{way} on {groups}{how}, in one program'
    logger.info(
      '%s%s: %s',
      count_of(len(indices), 'run'),
      f' of {len(left)} left (limited memory)' if num_chunks > 1 else '',
      how,
    )
    try:
      results = train_many(
        runs,
        [workdirs[i] for i in indices],
        names=[names[i] for i in indices],
      )
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error) or len(indices) == 1:
        raise
      limit = math.ceil(len(indices) / 2)
      logger.warning(
        'out of memory with %d simultaneous runs: resuming with %d',
        len(indices),
        limit,
      )
      continue
    yield Chunk(indices, runs, results, how)
    left = left[len(indices) :]
