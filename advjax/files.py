"""Atomic writes, locks of folders, and the user's cache folder."""

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import socket
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from typing import IO, Any

import numpy as np

logger = logging.getLogger(__name__)


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path with the home folder in place of `~` or `~user`."""
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError:
    raise ValueError(
      f'{os.fspath(path)}: there is no such home folder; allowed: a path '
      'without ~, or $HOME set ($XDG_CACHE_HOME for caches)'
    ) from None


def user_cache_folder() -> pathlib.Path:
  """Returns our part of the user's cache: $XDG_CACHE_HOME, else ~/.cache."""
  base = expand(os.environ.get('XDG_CACHE_HOME', ''))
  # The standard has relative ones ignored.
  return (base if base.is_absolute() else expand('~/.cache')) / 'advjax'


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Yields a file to write bytes to, which is written atomically."""
  try:
    descriptor, name = tempfile.mkstemp(
      dir=path.parent, prefix=f'.{path.name}.'
    )
    try:
      with os.fdopen(descriptor, 'wb') as file:
        yield file
      os.chmod(name, 0o644)
      os.replace(name, path)
    except BaseException:
      pathlib.Path(name).unlink(missing_ok=True)
      raise
  except OSError as error:
    # The name it has is that of the temporary file, or it has none.
    raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the JSON object in a file, or raises a ValueError that names it."""
  try:
    found = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise ValueError(
      f"'{path}' is not JSON ({error}); restore it from a copy, or give "
      'another folder'
    ) from error
  if not isinstance(found, dict):
    raise ValueError(
      f"'{path}' holds a {type(found).__name__}; allowed: a JSON object"
    )
  return found


def read_npz(
  path: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
  """Returns arrays of an .npz, those there are of `names` or all.

  Nothing is unpickled; a ValueError says what cannot be read.
  """
  reading, found = 'the file', dict[str, np.ndarray]()
  try:
    with zipfile.ZipFile(path) as archive:
      members = {n.removesuffix('.npy'): n for n in archive.namelist()}
      for reading in members if names is None else names:
        if reading in members:
          found[reading] = _read_array(archive, members[reading])
  except Exception as error:  # NumPy and zipfile raise many kinds.
    # Of files that may be sound; damage has OSErrors of the two kinds alone.
    code = getattr(error, 'errno', None)
    if isinstance(error, MemoryError) or code not in (None, errno.EINVAL):
      raise
    raise ValueError(
      f'{path}: {reading} cannot be read ({error or type(error).__name__}); '
      'allowed: an .npz file of numpy.savez, not pickled and not truncated'
    ) from error
  return found


def _read_array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
  """Reads an array, unless its header declares more than there is."""
  npy, there = np.lib.format, archive.getinfo(member).file_size
  with archive.open(member) as stream:
    version = min(npy.read_magic(stream)[0], 2)
    read_header = getattr(npy, f'read_array_header_{version}_0')
    # Longer ones may take Python's parser out of its memory.
    shape, _, dtype = read_header(stream, max_header_size=1000)
  if (declared := math.prod(shape) * dtype.itemsize) > there:
    raise ValueError(f'{declared:,} bytes declared, {there:,} there')
  with archive.open(member) as stream:
    array: np.ndarray = npy.read_array(stream)
  if array.dtype.kind == 'U':
    array.tolist()  # For its error, where a character is none.
  return array


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically: a reader sees the old file or the new one."""
  text = json.dumps(value, indent=1) + '\n'
  with replacing(path) as file:
    file.write(text.encode())


@contextlib.contextmanager
def lock_folder(folder: pathlib.Path) -> Iterator[None]:
  """Keeps other programs from writing to a folder, or raises a ValueError.

  The kernel releases the lock however the process ends; the file `.lock` stays.
  On a file system without locks there is only a warning.
  """
  from advjax._extras import filelock

  path = folder / '.lock'
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(filelock.FileLock(path, timeout=0))
    except filelock.Timeout:
      raise ValueError(
        f"another program writes to '{folder}' ({path.read_text()}): wait for "
        'it, stop it, or give another workdir'
      ) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
        raise
      logger.warning(
        "'%s' cannot be locked (%s): do not start another program there",
        folder,
        error.strerror,
      )
    with contextlib.suppress(OSError):  # It serves the message alone.
      path.write_text(f'process {os.getpid()} on {socket.gethostname()}')
    yield
