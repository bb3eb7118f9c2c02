"""Which host of a TPU pod this is, as `jax.distributed` counts them."""

import glob
import importlib.util
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

_METADATA = '/computeMetadata/v1/instance/attributes/'
_TRIES = 6
_TIMEOUT_SECONDS = 5
_GOOGLE = '0x1ae0'  # As vendor of a PCI device.


def has_tpu() -> bool:
  """Whether this machine has TPU chips, and JAX its library for them.

  Returns:
    True on a Cloud TPU VM, and in GKE on a node with TPUs.

  Example:
    >>> isinstance(has_tpu(), bool)
    True
  """
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


def find_worker(
  variables: Mapping[str, str],
  fetch: Callable[[str], str | None] | None = None,
) -> tuple[int, int] | None:
  """Finds out which of how many hosts of a TPU pod this one is.

  GKE says it by environment variables, the metadata server of Google's cloud
  by attributes of a machine. Each of several slices has as many hosts.

  Args:
    variables: The environment.
    fetch: Returns an attribute by name, None where there is none; default: asks
      the metadata server.

  Returns:
    `(process_id, num_processes)`; None where nothing says it.

  Raises:
    ValueError: if what they say makes no sense, or the server says nothing.

  Example:
    >>> gke = {'TPU_WORKER_ID': '1', 'TPU_WORKER_HOSTNAMES': 'a,b'}
    >>> find_worker(gke, lambda name: None)
    (1, 2)
  """

  def attribute(name: str) -> str | None:
    if 'TPU_SKIP_MDS_QUERY' in variables:
      return None
    return (fetch or _fetch_metadata)(name)

  hosts = _gke_hosts(variables)
  if hosts is not None:
    source = 'TPU_WORKER_ID'
    worker = variables.get(source)
  else:
    source = 'agent-worker-number'
    worker = attribute(source)
    hosts = attribute('worker-network-endpoints') if worker else None
    if hosts is None:
      return None
  num_hosts = len(hosts.split(','))
  slices = _slices(variables, attribute)
  slice_id, num_slices = (
    _count(name, slices.get(name) or default)
    for name, default in (
      ('MEGASCALE_SLICE_ID', '0'),
      ('MEGASCALE_NUM_SLICES', '1'),
    )
  )
  process_id = _count(source, worker) + slice_id * num_hosts
  num_processes = num_hosts * num_slices
  if process_id >= num_processes:
    raise ValueError(
      f'{source} = {worker!r}, MEGASCALE_SLICE_ID = {slice_id}; allowed: less '
      f'than the {num_hosts} hosts of a slice, and than the {num_slices} slices'
    )
  return process_id, num_processes


def _gke_hosts(variables: Mapping[str, str]) -> str | None:
  path = variables.get('TPU_PROCESS_ADDRESSES_PATH')
  if path:
    return pathlib.Path(path).read_text('utf-8').strip()
  hosts = variables.get('TPU_PROCESS_ADDRESSES')
  return hosts if hosts is not None else variables.get('TPU_WORKER_HOSTNAMES')


def _slices(
  variables: Mapping[str, str], attribute: Callable[[str], str | None]
) -> dict[str, str]:
  """Returns MEGASCALE_*, from the environment or else the metadata."""
  names = 'MEGASCALE_SLICE_ID', 'MEGASCALE_NUM_SLICES'
  known = {name: variables[name] for name in names if name in variables}
  if len(known) < len(names):
    # Lines like MEGASCALE_NUM_SLICES: '2'.
    pattern = r"^\s*(MEGASCALE_\w+)\s*:\s*'?(\w*)'?\s*$"
    found = re.findall(pattern, attribute('tpu-env') or '', re.M)
    known = dict(found) | known
  return known


def _count(name: str, text: str | None) -> int:
  if not re.fullmatch(r'\d+', text or ''):
    raise ValueError(f'{name} = {text!r}; allowed: an integer >= 0')
  return int(text or '')


def _fetch_metadata(name: str) -> str | None:
  """Asks Google's metadata server for an attribute of this machine."""
  host = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
  request = urllib.request.Request(
    f'http://{host}{_METADATA}{name}', headers={'Metadata-Flavor': 'Google'}
  )
  # It is on the machine's own network.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for pause in [0.5] * (_TRIES - 1) + [0]:
    try:
      with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
        return answer.read().decode()
    except urllib.error.HTTPError as error:
      error.close()
      if error.code == 404:
        return None
      said = str(error)
    except OSError as error:
      said = str(error)
    time.sleep(pause)
  raise ValueError(
    f'this machine has TPUs, but {host} does not say of which pod ({said}); '
    'set TPU_SKIP_MDS_QUERY=1 for a machine on its own, or ADVJAX_PROCESS=i/n '
    'and JAX_COORDINATOR_ADDRESS=HOST:PORT on each'
  )
