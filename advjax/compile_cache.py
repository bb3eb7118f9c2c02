"""A persistent cache of compiled programs, which later runs reuse.

JAX's own cache, in one folder per kind of machine, since XLA compiles for the
CPU and its cores, which JAX's keys do not distinguish. Added here: the least
recently used entries are removed at the start (JAX's own limit reads the whole
folder at every write), and so are entries that a killed process left
half-written, which JAX never replaces.
"""

import contextlib
import glob
import hashlib
import logging
import math
import os
import pathlib
import platform
import re
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from advjax.files import user_cache_folder

logger = logging.getLogger('advjax')

# Some hundred runs of different networks.
MAX_BYTES = 2**30
# The lines of /proc/cpuinfo that tell CPUs apart, x86 and ARM.
_CPU = re.compile(
  r'^(vendor_id|cpu family|model|model name|flags|CPU implementer|CPU part'
  r'|Features)\s*:.*$',
  re.M,
)
_TROUBLE = re.compile(
  r"Error (\w+) persistent compilation cache entry for '([^']*)': "
)


def default_folder() -> pathlib.Path:
  """Returns the folder of the programs compiled for machines like this one."""
  cores, cpu = os.cpu_count(), platform.processor()
  with contextlib.suppress(AttributeError, OSError):  # Linux alone has these.
    cores = len(os.sched_getaffinity(0))
    first_core = pathlib.Path('/proc/cpuinfo').read_text().partition('\n\n')[0]
    cpu = '\n'.join(match[0] for match in _CPU.finditer(first_core))
  machine = f'{platform.machine()} {cores} {cpu}'
  name = hashlib.sha256(machine.encode()).hexdigest()[:16]
  return user_cache_folder() / 'compiled' / name


def turn_on(*, warn: bool = True) -> None:
  """Turns JAX's persistent compilation cache on, unless the user configured it.

  With `warn`, a folder that cannot be written is a warning, as is a full disk.
  """
  settings = jax.config.values
  if (
    settings['jax_compilation_cache_dir'] is not None
    or not settings['jax_enable_compilation_cache']
  ):
    return
  try:
    folder = default_folder()
    # Whoever can write there can run code here.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    remove_oldest(folder, MAX_BYTES)
  except (OSError, ValueError) as error:  # ValueError: there is no home.
    if warn:
      logger.warning('compiled programs are not cached: %s', error)
    return
  _handle_errors(folder, warn)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # JAX keeps what takes a second to compile; a start is many small programs.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def remove_oldest(folder: pathlib.Path, max_bytes: int) -> None:
  """Removes the least recently used programs until the others fit."""
  total, found = 0, []
  for path in folder.glob('*-cache'):
    with contextlib.suppress(FileNotFoundError):  # Removed by another process.
      info = path.stat()
      # Most disks update atime at a read once a day at least.
      found.append((max(info.st_atime, info.st_mtime), info.st_size, path))
      total += info.st_size
  for _, size, path in sorted(found):
    if total <= max_bytes:
      break
    path.unlink(missing_ok=True)
    total -= size


def _handle_errors(folder: pathlib.Path, warn: bool) -> None:
  """Logs JAX's warnings of its cache once, and removes what causes them."""
  show = warnings.showwarning
  logged = set()

  def handle(message: Any, *args: Any, **kwargs: Any) -> None:
    trouble = _TROUBLE.match(str(message))
    if not trouble:
      show(message, *args, **kwargs)
      return
    kind, name = trouble.groups()
    with contextlib.suppress(OSError):
      for path in folder.glob(f'{glob.escape(name)}-*-cache'):
        path.unlink(missing_ok=True)
    if kind == 'writing':
      # Nothing takes so long: nothing more is written, but still read.
      jax.config.update('jax_persistent_cache_min_compile_time_secs', math.inf)
    if warn and kind not in logged:
      logger.warning('%s (compiled programs in %s)', message, folder)
    logged.add(kind)

  warnings.showwarning = handle


class Compilations:
  """How many programs the backend has compiled, not read from a cache."""

  count: int = 0


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
  """Counts the programs that the backend compiles within the block."""
  found = Compilations()

  # What JAX finds in its persistent cache counts as both.
  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    found.count += event == '/jax/core/compile/backend_compile_duration'

  def listen_for_found(event: str, **kwargs: str | int) -> None:
    del kwargs
    found.count -= event == '/jax/compilation_cache/cache_hits'

  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.monitoring.register_event_listener(listen_for_found)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
    jax.monitoring.unregister_event_listener(listen_for_found)
