"""Many runs, as few programs: groups, chunks that fit, teams of devices."""

import json
import logging
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from ml_collections import config_dict

from advjax.data import Dataset
from advjax.memory import free_memory
from advjax.processes.topology import find_place
from advjax.training.loop import train_at_once
from advjax.training.program import common_fields
from advjax.training.run import Diverged, TrainResult
from advjax.training.setup import Training, create_training

logger = logging.getLogger(__name__)

# Of the memory that is free, for the states of runs; the rest is for what the
# steps need, of which nobody knows before they are compiled.
_SHARE_FOR_STATES = 0.5
# A state that goes in, one that comes out, its gradients, a copy to save.
_COPIES_OF_STATE = 4


class Chunk(NamedTuple):
  """Runs that were trained at once.

  Attributes:
    indices: Which of the runs.
    trainings: The runs.
    results: For each its result, or why there is none.
    how: How they shared the devices, in words.
  """

  indices: list[int]
  trainings: list[Training]
  results: list[TrainResult | Diverged]
  how: str


def group_by_program(
  configs: Sequence[config_dict.ConfigDict],
) -> list[list[int]]:
  """Groups runs that can be trained at once: by all but their traced numbers.

  Args:
    configs: Training configs.

  Returns:
    The indices of each group, groups in the order of their first run.

  Example:
    >>> from advjax.config import default_config
    >>> configs = [default_config() for _ in range(3)]
    >>> configs[1].batch_size = 64
    >>> configs[2].seed = 1
    >>> group_by_program(configs)
    [[0, 2], [1]]
  """
  groups: dict[str, list[int]] = {}
  for index, config in enumerate(configs):
    key = json.dumps(common_fields(config))
    groups.setdefault(key, []).append(index)
  return list(groups.values())


def choose_teams(
  num_runs: int, num_devices: int, batch_size: int
) -> tuple[int, int]:
  """Returns how many teams the devices make, and of how many devices.

  As many as there are runs for, of equal size: a batch that is not cut needs
  no communication. A team has no more devices than a batch has images.

  Args:
    num_runs: Runs to train at once.
    num_devices: Devices; where batches are small, not all are of use.
    batch_size: Images per step.

  Returns:
    `(num_teams, team_size)`, the first at most num_runs.

  Example:
    >>> choose_teams(18, 8, 32), choose_teams(3, 8, 32), choose_teams(1, 8, 4)
    ((8, 1), (2, 4), (1, 4))
  """
  divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
  num_teams = max(n for n in divisors if n <= num_runs)
  return num_teams, min(num_devices // num_teams, batch_size)


def cut(num_runs: int, limit: int) -> list[int]:
  """Returns the sizes of the chunks that runs are cut into, none above a limit.

  Args:
    num_runs: Runs.
    limit: The most that fit.

  Returns:
    Equal sizes, but for the last.

  Example:
    >>> cut(18, 7)
    [6, 6, 6]
    >>> cut(19, 7)
    [7, 7, 5]
  """
  size = math.ceil(num_runs / math.ceil(num_runs / limit))
  return [min(size, num_runs - start) for start in range(0, num_runs, size)]


def runs_that_fit(training: Training, num_devices: int) -> int:
  """Estimates how many runs fit on the devices at once.

  From the size of a run's state and the memory that is free; what the steps
  need comes on top, so that fewer may fit.

  Args:
    training: One of the runs, on any of the devices.
    num_devices: How many devices there are.

  Returns:
    The number, at least 1.
  """
  state = sum(leaf.nbytes for leaf in jax.tree.leaves(training.init_state()))
  device = training.devices[0]
  # Other processes on this machine may be at the same.
  free = free_memory(device, num_devices * find_place().num_local)
  if device.platform != 'cpu':
    split = training.train_split
    free -= split.images.nbytes + split.labels.nbytes
  per_device = int(_SHARE_FOR_STATES * free) // (_COPIES_OF_STATE * state)
  return max(1, per_device * num_devices)


def train_group(
  configs: Sequence[config_dict.ConfigDict],
  workdirs: Sequence[pathlib.Path],
  names: Sequence[str],
  dataset: Dataset,
  devices: Sequence[jax.Device],
) -> Iterator[Chunk]:
  """Trains the runs of a group, at once as far as they fit in memory.

  Where the estimate of what fits was too high, and an accelerator runs out of
  memory, half as many go on at once from what was saved.

  Args:
    configs: Training configs of one group (`group_by_program`).
    workdirs: A prepared folder for each.
    names: What the log calls each.
    dataset: The data.
    devices: The devices.

  Yields:
    The chunks, as soon as each is done.

  Raises:
    ValueError: for a config that is wrong; and as `train_at_once`.
    Interrupted: as `train_at_once`.
  """
  left = list(range(len(configs)))
  alone = create_training(configs[0], dataset, devices[:1])
  staged = configs[0].unfreezing.name != 'none'
  limit = 1 if staged else runs_that_fit(alone, len(devices))
  while left:
    sizes = cut(len(left), limit)
    indices = left[: sizes[0]]
    num_teams, team_size = choose_teams(
      len(indices), len(devices), configs[0].batch_size
    )
    used = devices[: num_teams * team_size]
    trainings = [
      create_training(configs[i], dataset, used, num_teams=num_teams)
      for i in indices
    ]
    how = _describe(len(indices), num_teams, used)
    logger.info(
      '%s%s: %s',
      count_of(len(indices), 'run'),
      f' of {len(left)} left, for want of memory' if len(sizes) > 1 else '',
      how,
    )
    try:
      results = train_at_once(
        trainings,
        [workdirs[i] for i in indices],
        names=[names[i] for i in indices],
      )
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error) or len(indices) == 1:
        raise
      limit = math.ceil(len(indices) / 2)
      logger.warning(
        'out of memory with %d runs at once: going on with %d',
        len(indices),
        limit,
      )
      continue
    yield Chunk(indices, trainings, results, how)
    left = left[len(indices) :]


def count_of(number: int, what: str) -> str:
  """Returns a number with its noun.

  Example:
    >>> count_of(1, 'run'), count_of(3, 'run')
    ('1 run', '3 runs')
  """
  return f'{number} {what}{"" if number == 1 else "s"}'


def _describe(
  num_runs: int, num_teams: int, devices: Sequence[jax.Device]
) -> str:
  """How runs share the devices, in words."""
  each = count_of(len(devices) // num_teams, 'device')
  if num_runs == 1:
    return each
  way = 'one after the other' if devices[0].platform == 'cpu' else 'vmapped'
  if num_teams == 1:
    return f'{way} on {each}, in one program'
  return f'{way} in {num_teams} teams of {each}, in one program'
