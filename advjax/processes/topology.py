"""Which process this is, by what the launcher left in the environment.

Nothing here joins the processes or touches a device.
"""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from advjax.processes.tpu import find_worker, has_tpu

# Set by launch.sh --processes=N, or by hand for any other launcher: 'i/n'.
PROCESS = 'ADVJAX_PROCESS'
LOCAL_PROCESS = 'ADVJAX_LOCAL_PROCESS'
# The process id of the launcher, where it is the parent of the others.
LAUNCHER = 'ADVJAX_LAUNCHER'
# The file by which processes tell the launcher that they have joined.
JOINED = 'ADVJAX_JOINED'
# JAX's own: HOST:PORT, where process 0 listens.
COORDINATOR = 'JAX_COORDINATOR_ADDRESS'

# The exit code of a process that has lost others of its run: not an error of
# the run's own, the same command resumes.
EXIT_LOST = 75


class Place(NamedTuple):
  """Where a process stands among those of one run.

  Attributes:
    process_id: Its number, from 0.
    num_processes: How many there are.
    local_id: Its number among those of its machine.
    num_local: How many its machine has.
    launcher: What started them, in words.
    method: What JAX calls this kind of cluster; 'deactivate' for none, None for
      it to find out.
  """

  process_id: int
  num_processes: int
  local_id: int
  num_local: int
  launcher: str
  method: str | None

  @property
  def name(self) -> str:
    """Which process it is, in words."""
    return f'process {self.process_id} of {self.num_processes}'


_ALONE = Place(0, 1, 0, 1, 'nothing', 'deactivate')


def which_process() -> tuple[int, int]:
  """Returns the number of this process and how many there are.

  Returns:
    `(process_id, num_processes)`; (0, 1) for a process on its own.

  Raises:
    ValueError: if the environment variables make no sense.

  Example:
    >>> which_process()
    (0, 1)
  """
  place = find_place()
  return place.process_id, place.num_processes


def find_place(variables: Mapping[str, str] | None = None) -> Place:
  """Finds out by what, and as which of how many, this process was started.

  Args:
    variables: The environment; default: that of this process.

  Returns:
    The place.

  Raises:
    ValueError: if the environment variables make no sense.

  Example:
    >>> find_place({'ADVJAX_PROCESS': '1/2'}).num_processes
    2
  """
  found = os.environ if variables is None else variables
  if PROCESS in found:
    # One process per machine, unless it is said.
    local = _of(found, LOCAL_PROCESS) if LOCAL_PROCESS in found else (0, 1)
    return Place(*_of(found, PROCESS), *local, 'launch.sh', 'deactivate')
  # Before SLURM: mpirun starts its daemons as a step of a SLURM job, and they
  # hand that step's variables on.
  if 'OMPI_COMM_WORLD_SIZE' in found:
    rank, size, local_rank, local_size = (
      int(found[f'OMPI_COMM_WORLD_{name}'])
      for name in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')
    )
    return Place(rank, size, local_rank, local_size, 'Open MPI', 'ompi')
  # A batch script has SLURM_NTASKS and SLURM_PROCID too, but is no task.
  if 'SLURM_STEP_NUM_TASKS' in found:
    return Place(
      int(found['SLURM_PROCID']),
      int(found['SLURM_STEP_NUM_TASKS']),
      int(found['SLURM_LOCALID']),
      _tasks_of_node(
        found['SLURM_STEP_TASKS_PER_NODE'], int(found['SLURM_NODEID'])
      ),
      'SLURM',
      'slurm',
    )
  return _tpu_place() if variables is None else _ALONE


def _of(variables: Mapping[str, str], name: str) -> tuple[int, int]:
  match = re.fullmatch(r'(\d+)/(\d+)', variables[name])
  if not match or not int(match[1]) < int(match[2]):
    raise ValueError(
      f'{name} = {variables[name]!r}; allowed: i/n with 0 <= i < n'
    )
  return int(match[1]), int(match[2])


def _tasks_of_node(text: str, node: int) -> int:
  """Reads SLURM's '2(x3),1': two tasks on three nodes each, one on the last."""
  counts: list[int] = []
  for part in text.split(','):
    match = re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', part)
    if not match:
      raise ValueError(
        f'SLURM_STEP_TASKS_PER_NODE = {text!r} is not understood'
      )
    counts += [int(match[1])] * int(match[2] or 1)
  return counts[node]


@functools.cache
def _tpu_place() -> Place:
  """The hosts of a TPU pod, each with one process for all of its chips."""
  found = find_worker(os.environ) if has_tpu() else None
  return Place(*found, 0, 1, 'a TPU pod', None) if found else _ALONE


def gpus_of(
  place: Place, variables: Mapping[str, str] | None = None
) -> list[int] | None:
  """Returns the NVIDIA GPUs that a process takes among those that it sees.

  The processes of a machine share its GPUs evenly. Where the launcher has
  given each its own, there are fewer of them than processes, or the number of
  GPUs per task is known: then each takes all that it sees.

  Args:
    place: Of the process.
    variables: The environment; default: that of this process.

  Returns:
    Indices among the visible GPUs, or None where there are none.

  Raises:
    ValueError: if they cannot be shared evenly.

  Example:
    >>> gpus_of(Place(1, 2, 1, 2, '', ''), {'CUDA_VISIBLE_DEVICES': '0,1,2,3'})
    [2, 3]
  """
  found = os.environ if variables is None else variables
  if found.get('JAX_PLATFORMS', '').startswith(('cpu', 'tpu')):
    return None
  count = _num_gpus(found.get('CUDA_VISIBLE_DEVICES'))
  if not count:
    return None
  own = 'SLURM_GPUS_PER_TASK' in found
  if own or (count < place.num_local and place.launcher != 'launch.sh'):
    return list(range(count))
  if count % place.num_local:
    raise ValueError(
      f'{place.num_local} processes of this machine cannot share its {count} '
      'GPUs evenly; start as many as divide them, hide some by '
      'CUDA_VISIBLE_DEVICES, or train on the CPU by --platform=cpu'
    )
  share = count // place.num_local
  return list(range(place.local_id * share, (place.local_id + 1) * share))


def _num_gpus(visible: str | None) -> int:
  if visible is not None:
    return len([name for name in visible.split(',') if name.strip()])
  if not shutil.which('nvidia-smi'):
    return 0
  listed = subprocess.run(
    ['nvidia-smi', '-L'], capture_output=True, text=True, check=False
  )
  return len(re.findall(r'^GPU \d', listed.stdout, re.M))
