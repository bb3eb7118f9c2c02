"""Which process of how many this is, as launchers say in the environment."""

import functools
import glob
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Set by --processes=N, or by hand for any other launcher: 'i/n'.
PROCESS = 'ADVJAX_PROCESS'
LOCAL_PROCESS = 'ADVJAX_LOCAL_PROCESS'
# The process id of the launcher, where it is the parent of the others.
LAUNCHER = 'ADVJAX_LAUNCHER'
# JAX's own: HOST:PORT, where process 0 listens.
COORDINATOR = 'JAX_COORDINATOR_ADDRESS'

_METADATA = '/computeMetadata/v1/instance/attributes/'
_METADATA_TRIES = 6
_METADATA_TIMEOUT_SECONDS = 5
_GOOGLE = '0x1ae0'  # As vendor of a PCI device.


class Place(NamedTuple):
  """The rank of a process among those of one run."""

  process_id: int
  num_processes: int
  local_id: int  # among those of its machine
  num_local: int
  launcher: str  # in words
  # What JAX calls this cluster; 'deactivate' for none, None to detect it.
  method: str | None

  @property
  def name(self) -> str:
    """Which process it is, in words."""
    return f'process {self.process_id} of {self.num_processes}'


_ALONE = f'{PROCESS}=0/1 for one process by itself'
_SINGLE = Place(0, 1, 0, 1, 'nothing', 'deactivate')


def find_place(variables: Mapping[str, str] | None = None) -> Place:
  """Finds out by what, and as which of how many, this process was started."""
  found = os.environ if variables is None else variables
  if PROCESS in found:
    # One process per machine, unless told otherwise.
    here = _rank(found, LOCAL_PROCESS) if LOCAL_PROCESS in found else (0, 1)
    return Place(*_rank(found, PROCESS), *here, '--processes', 'deactivate')
  # Before SLURM: mpirun starts its daemons as a step of a SLURM job, and they
  # pass that step's variables on.
  if {'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'} & {*found}:
    size = whole_number(found, 'OMPI_COMM_WORLD_SIZE', 1)
    num_local = whole_number(found, 'OMPI_COMM_WORLD_LOCAL_SIZE', 1, size)
    rank = whole_number(found, 'OMPI_COMM_WORLD_RANK', 0, size - 1)
    local = whole_number(found, 'OMPI_COMM_WORLD_LOCAL_RANK', 0, num_local - 1)
    return Place(rank, size, local, num_local, 'Open MPI', 'ompi')
  # A batch script has SLURM_NTASKS and SLURM_PROCID too, but is no task.
  if 'SLURM_STEP_NUM_TASKS' in found:
    size, num_local = whole_number(found, 'SLURM_STEP_NUM_TASKS', 1), 1
    if size > 1:
      counts = _tasks_per_node(found.get('SLURM_STEP_TASKS_PER_NODE'))
      node = whole_number(found, 'SLURM_NODEID', 0, len(counts) - 1)
      num_local = counts[node]
    rank = whole_number(found, 'SLURM_PROCID', 0, size - 1)
    local = whole_number(found, 'SLURM_LOCALID', 0, num_local - 1)
    return Place(rank, size, local, num_local, 'SLURM', 'slurm')
  if found.get('PMI_SIZE') and whole_number(found, 'PMI_SIZE', 1) > 1:
    raise ValueError(
      f'PMI_SIZE = {found["PMI_SIZE"]}; allowed: {PROCESS}=i/n and '
      f'{COORDINATOR}=HOST:PORT in each of these processes, or {_ALONE}'
    )
  return _tpu_place() if variables is None else _SINGLE


def _rank(variables: Mapping[str, str], name: str) -> tuple[int, int]:
  match = re.fullmatch(r'(\d+)/(\d+)', variables[name])
  if not match or not int(match[1]) < int(match[2]):
    raise ValueError(
      f'{name} = {variables[name]!r}; allowed: i/n with 0 <= i < n'
    )
  return int(match[1]), int(match[2])


def _tasks_per_node(text: str | None) -> list[int]:
  """Reads SLURM's '2(x3),1': two tasks on three nodes each, one on the last."""
  counts: list[int] = []
  for part in (text or '').split(','):
    match = re.fullmatch(r'([1-9]\d*)(?:\(x([1-9]\d{0,5})\))?', part)
    if not match:
      raise ValueError(
        f'SLURM_STEP_TASKS_PER_NODE = {text!r}; allowed: counts such as '
        "'2(x3),1'"
      )
    counts += [int(match[1])] * int(match[2] or 1)
  return counts


def gpus_of(
  place: Place, variables: Mapping[str, str] | None = None
) -> list[int] | None:
  """Returns the visible NVIDIA GPUs that a process takes; None without any.

  The processes of a machine share its GPUs evenly. Where the launcher has bound
  each to its own, there are fewer of them than processes, or the number of GPUs
  per task is known: then each takes all that it sees.
  """
  found = os.environ if variables is None else variables
  if found.get('JAX_PLATFORMS', '').startswith(('cpu', 'tpu')):
    return None
  count = _num_gpus(found.get('CUDA_VISIBLE_DEVICES'))
  if not count:
    return None
  bound = 'SLURM_GPUS_PER_TASK' in found
  if bound or (count < place.num_local and place.launcher != '--processes'):
    return list(range(count))
  if count % place.num_local:
    raise ValueError(
      f'number of processes = {place.num_local} on this machine; allowed: as '
      f'many as divide its {count} GPUs (hide some by CUDA_VISIBLE_DEVICES, or '
      'train on the CPU by --platform=cpu)'
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


@functools.cache
def _tpu_place() -> Place:
  """The hosts of a TPU pod, each with one process for all of its chips."""
  worker = _tpu_worker(os.environ, _fetch_metadata) if _has_tpu() else None
  return Place(*worker, 0, 1, 'a TPU pod', None) if worker else _SINGLE


def _has_tpu() -> bool:
  """Whether this machine has TPU chips, and JAX its library for them."""
  if not (
    importlib.util.find_spec('libtpu') or 'TPU_LIBRARY_PATH' in os.environ
  ):
    return False
  if glob.glob('/dev/accel[0-9]*'):
    return True
  return bool(glob.glob('/dev/vfio/[0-9]*')) and any(
    pathlib.Path(path).read_text().strip() == _GOOGLE
    for path in glob.glob('/sys/bus/pci/devices/*/vendor')
  )


def _tpu_worker(
  variables: Mapping[str, str], fetch: Callable[[str], str | None]
) -> tuple[int, int] | None:
  """Which of how many hosts of a pod, by GKE's variables or by `fetch`."""

  def attribute(name: str) -> str | None:
    return None if 'TPU_SKIP_MDS_QUERY' in variables else fetch(name)

  source = 'TPU_WORKER_ID'
  worker = variables.get(source)
  hosts = variables.get('TPU_PROCESS_ADDRESSES')
  if path := variables.get('TPU_PROCESS_ADDRESSES_PATH'):
    hosts = pathlib.Path(path).read_text('utf-8').strip()
  if hosts is None:
    hosts = variables.get('TPU_WORKER_HOSTNAMES')
  if hosts is None:
    source = 'agent-worker-number'
    worker = attribute(source)
    hosts = attribute('worker-network-endpoints') if worker else None
  if hosts is None:
    return None
  num_hosts = len(hosts.split(','))
  slices = {'MEGASCALE_SLICE_ID': '0', 'MEGASCALE_NUM_SLICES': '1'}
  if not slices.keys() <= variables.keys():
    # Lines like MEGASCALE_NUM_SLICES: '2'.
    pattern = r"^\s*(MEGASCALE_\w+)\s*:\s*'?(\w+)'?\s*$"
    slices |= dict(re.findall(pattern, attribute('tpu-env') or '', re.M))
  slice_id, num_slices = (
    whole_number({name: variables.get(name) or slices[name]}, name)
    for name in ('MEGASCALE_SLICE_ID', 'MEGASCALE_NUM_SLICES')
  )
  process_id = whole_number({source: worker}, source) + slice_id * num_hosts
  num_processes = num_hosts * num_slices
  if process_id >= num_processes:
    raise ValueError(
      f'{source} = {worker!r}, MEGASCALE_SLICE_ID = {slice_id}; allowed: less '
      f'than the {num_hosts} hosts of a slice, and than the {num_slices} slices'
    )
  return process_id, num_processes


def whole_number(
  found: Mapping[str, Any], name: str, low: int = 0, high: int | None = None
) -> int:
  """Reads an integer; where only one is possible, it need not be set."""
  text = found.get(name)
  if text is None and low == high:
    return low
  value = int(text) if text and re.fullmatch('[0-9]{1,18}', text) else -1
  if value < low or (high is not None and value > high):
    span = f'>= {low}' if high is None else f'from {low} to {high}'
    alone = f', or {_ALONE}' if re.match('SLURM|OMPI|PMI', name) else ''
    raise ValueError(f'{name} = {text!r}; allowed: an integer {span}{alone}')
  return value


def _fetch_metadata(name: str) -> str | None:
  """Asks Google's metadata server for an attribute of this machine."""
  host = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
  request = urllib.request.Request(
    f'http://{host}{_METADATA}{name}', headers={'Metadata-Flavor': 'Google'}
  )
  # It is on the machine's own network.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for pause in [0.5] * (_METADATA_TRIES - 1) + [0]:
    try:
      with opener.open(request, timeout=_METADATA_TIMEOUT_SECONDS) as answer:
        return answer.read().decode()
    except OSError as error:
      reason = str(error)
      if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code == 404:
          return None
    time.sleep(pause)
  raise ValueError(
    f'this machine has TPUs, but {host} does not say of which pod ({reason}); '
    'set TPU_SKIP_MDS_QUERY=1 for a single machine, or ADVJAX_PROCESS=i/n and '
    'JAX_COORDINATOR_ADDRESS=HOST:PORT on each'
  )
