"""The files of one checkpoint: state, record, and the digests of both."""

import hashlib
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.files import write_json
from advjax.training.state import TrainState

_DIGESTS = 'digests.json'
_STATE = 'state'
_RECORD = pathlib.Path('record', 'metadata')


class Checkpoint(NamedTuple):
  """A state with the record saved beside it."""

  state: Any
  record: dict[str, Any]


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file below a folder, but for the list of them itself."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path != folder / _DIGESTS
  }


def check_files(folder: pathlib.Path) -> None:
  """Raises an error if a file is missing or not as it was written.

  Before Orbax sees it: what it reads in the background goes on failing there,
  with tracebacks on stderr that no one can catch.

  Args:
    folder: The checkpoint's folder.

  Raises:
    ValueError: naming the file.
  """
  try:
    expected = json.loads((folder / _DIGESTS).read_text())
  except (OSError, ValueError):
    raise ValueError(f'{_DIGESTS} is missing or cut short') from None
  found = _file_digests(folder)
  for name in sorted({*expected, *found}):
    if name not in found:
      raise ValueError(f'{name} is missing')
    if found[name] != expected.get(name):
      raise ValueError(f'{name} has changed since it was written')


def _handler() -> Any:
  """Reads and writes a state without waiting for any other process."""
  # Slow to import: not at the top. Training starts without it.
  import orbax.checkpoint as ocp

  index = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}
  )
  return ocp.StandardCheckpointHandler(multiprocessing_options=alone)


def write_files(
  folder: pathlib.Path, state: TrainState, record: dict[str, Any]
) -> None:
  """Writes a checkpoint's files; the digests of all the others come last.

  Args:
    folder: An empty folder, as an absolute path.
    state: The state, of NumPy arrays.
    record: JSON that goes beside it.

  Raises:
    OSError: if they cannot be written, the disk being full, say.
  """
  import orbax.checkpoint as ocp

  leaves = jax.tree.leaves(state)
  text = json.dumps(record)
  size = sum(leaf.nbytes for leaf in leaves) + len(text)
  _check_space(folder, size + 1024 * len(leaves) + 2**17)
  (folder / _RECORD).parent.mkdir()
  (folder / _RECORD).write_text(text)
  handler = _handler()
  try:
    handler.save(folder / _STATE, args=ocp.args.StandardSave(state))
    handler.finalize(folder / _STATE)
  except ValueError as error:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if not code:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
  finally:
    handler.close()
  digests = _file_digests(folder)
  for path in (*folder.rglob('*'), folder):
    sync(path)
  write_json(folder / _DIGESTS, digests)
  sync(folder / _DIGESTS)
  sync(folder)


def _check_space(folder: pathlib.Path, num_bytes: int) -> None:
  """Raises an OSError if so many bytes do not fit on the disk or a quota.

  Before Orbax meets it: its threads print tracebacks that no one can catch.
  """
  if hasattr(os, 'posix_fallocate'):
    path = folder / 'space'
    with path.open('wb') as file:
      os.posix_fallocate(file.fileno(), 0, num_bytes)
    path.unlink()


def sync(path: pathlib.Path) -> None:
  """Waits until a file, or a folder's list of files, is on the disk.

  Args:
    path: The file or folder.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def read_files(folder: pathlib.Path, target: TrainState | None) -> Checkpoint:
  """Reads a checkpoint that `check_files` found whole.

  Args:
    folder: The checkpoint's folder.
    target: A state of the structure wanted; None gives dictionaries.

  Returns:
    The checkpoint, with NumPy arrays.
  """
  import orbax.checkpoint as ocp

  wanted = None if target is None else jax.tree.map(np.asarray, target)
  handler = _handler()
  try:
    state = handler.restore(
      folder.resolve() / _STATE, args=ocp.args.StandardRestore(wanted)
    )
  finally:
    handler.close()
  record = json.loads((folder / _RECORD).read_text())
  return Checkpoint(jax.tree.map(np.asarray, state), record)
