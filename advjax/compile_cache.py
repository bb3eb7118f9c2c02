"""Compiled programs on disk: what one run has compiled, the next one reads.

JAX's own persistent cache does the work, in a folder of the user's cache
folder. XLA compiles for the CPU that it finds and for its number of cores,
which JAX's keys do not tell apart: homes are shared by machines, so each kind
has a folder of its own:

  ROOT/MACHINE/NAME-KEY-cache   a compiled program

JAX neither bounds the folder without another package, nor replaces an entry
that a killed process has left half-written: both is done here.
"""

import contextlib
import hashlib
import logging
import math
import os
import pathlib
import platform
import re
import stat
import tempfile
import warnings
from typing import Any

import jax

from advjax.files import user_cache_folder

logger = logging.getLogger('advjax')

# Some hundred runs of different networks.
MAX_BYTES = 2**30
_SUFFIX = '-cache'
_TROUBLE = re.compile(
  r"Error (reading|writing) persistent compilation cache entry for '(.*?)': "
  r'(.*)',
  re.DOTALL,
)
# What tells CPUs apart.
_X86_FIELDS = ('vendor_id', 'cpu family', 'model', 'model name', 'flags')
_ARM_FIELDS = ('CPU implementer', 'CPU part', 'Features')


def default_folder() -> pathlib.Path:
  """Returns the folder of the programs compiled for machines like this one."""
  cores = os.cpu_count()
  if hasattr(os, 'sched_getaffinity'):  # Linux alone has it.
    cores = len(os.sched_getaffinity(0))
  machine = f'{platform.machine()} {cores} {_cpu()}'
  name = hashlib.sha256(machine.encode()).hexdigest()[:16]
  return user_cache_folder() / 'compiled' / name


def _cpu() -> str:
  """Returns what the first core says of itself."""
  try:
    with open('/proc/cpuinfo') as lines:
      # The cores are apart by empty lines; there may be hundreds of them.
      first = iter(lambda: lines.readline().strip(), '')
      return '\n'.join(
        line
        for line in first
        if line.split(':')[0].strip() in _X86_FIELDS + _ARM_FIELDS
      )
  except OSError:  # Linux alone has it.
    return platform.processor()


def turn_on(*, speaks: bool = True) -> None:
  """Lets JAX keep what it compiles, unless the user has settings of his own.

  These are JAX's: `JAX_COMPILATION_CACHE_DIR` names another folder, or none
  if it is empty; `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
  A folder that cannot be written is a warning, once, and so is a full disk.

  Args:
    speaks: Whether to warn; of several processes one does.
  """
  settings = jax.config.values
  own_folder = settings['jax_compilation_cache_dir'] is not None
  if own_folder or not settings['jax_enable_compilation_cache']:
    return
  folder = default_folder()
  try:
    # Whoever can write there can run code here.
    folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    remove_oldest(folder, MAX_BYTES)
  except OSError as error:
    if speaks:
      _warn(folder, error)
    return
  _heed_trouble(folder, speaks)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # JAX keeps what took a second to compile; a start is many small programs.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def remove_oldest(folder: pathlib.Path, max_bytes: int) -> None:
  """Removes the programs that were not used for longest, until they fit.

  Args:
    folder: Their folder.
    max_bytes: How much may stay.

  Raises:
    OSError: if they cannot be looked at.
  """
  found = []
  for entry in os.scandir(folder):
    if entry.name.endswith(_SUFFIX):
      # Another process may have removed it.
      with contextlib.suppress(FileNotFoundError):
        info = entry.stat()
        # Reading moves atime on most disks, once a day at least.
        used = max(info.st_atime, info.st_mtime)
        found.append((used, info.st_size, entry.path))
  total = sum(size for _, size, _ in found)
  for _, size, path in sorted(found):
    if total <= max_bytes:
      break
    pathlib.Path(path).unlink(missing_ok=True)
    total -= size


def _heed_trouble(folder: pathlib.Path, speaks: bool) -> None:
  """Has JAX's warnings of its cache said once, and their cause removed."""
  show = warnings.showwarning
  said = set()

  def show_or_heed(message: Any, *args: Any, **kwargs: Any) -> None:
    trouble = _TROUBLE.match(str(message))
    if not trouble:
      show(message, *args, **kwargs)
      return
    kind, name, reason = trouble.groups()
    # A part of a file, which JAX would neither read nor replace.
    with contextlib.suppress(OSError):
      for path in folder.iterdir():
        if re.fullmatch(rf'{re.escape(name)}-[0-9a-f]+{_SUFFIX}', path.name):
          path.unlink(missing_ok=True)
    if kind == 'writing':
      # None takes so long: nothing is written any more, but still read.
      jax.config.update('jax_persistent_cache_min_compile_time_secs', math.inf)
    if speaks and kind not in said:
      if kind == 'writing':
        _warn(folder, reason)
      else:
        logger.info(
          '%s: %s is damaged and is compiled anew (%s)', folder, name, reason
        )
    said.add(kind)

  warnings.showwarning = show_or_heed


def _warn(folder: pathlib.Path, reason: object) -> None:
  logger.warning(
    '%s: compiled programs are not kept there, the next start will take as '
    'long (%s)',
    folder,
    reason,
  )
