"""Checkpoints of a run, by Orbax, with a digest of what they hold.

A run keeps `checkpoints/last`, the newest two, and `checkpoints/best`, the one
of highest monitored robust accuracy. Orbax writes a checkpoint under a
temporary name and renames it, so that a run killed at any moment leaves whole
checkpoints. It restores bytes that have changed on disk silently: the digest
finds them, and the checkpoint before is used.
"""

import hashlib
import json
import logging
import os
import pathlib
import tempfile
import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.training.step import TrainState

logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
  """A state with the record saved beside it."""

  state: Any
  record: dict[str, Any]


def _manager(directory: pathlib.Path, keep: int | None = None) -> Any:
  """Orbax's manager of a folder, to read it or to save and keep so many."""
  # Slow to import: not at the top. Training starts without it.
  import orbax.checkpoint as ocp

  policies = ocp.checkpoint_managers
  process = jax.process_index()
  return ocp.CheckpointManager(
    directory.resolve(),
    options=ocp.CheckpointManagerOptions(
      preservation_policy=policies.LatestN(keep),
      cleanup_tmp_directories=keep is not None,
      create=False,
      enable_async_checkpointing=False,
      # The state is the same in all processes: the one that saves or reads
      # waits for no other.
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}
      ),
    ),
  )


def _leaves_by_path(tree: Any) -> dict[str, Any]:
  """Leaves by path, the same for a named tuple and for the dict read back."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _digest(state: Any, record: dict[str, Any]) -> str:
  """SHA-256 of the record and of every array's name, type, shape and bytes."""
  digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
  for path, leaf in sorted(_leaves_by_path(state).items()):
    digest.update(f'{path} {leaf.dtype} {leaf.shape}'.encode())
    digest.update(np.ascontiguousarray(leaf).data)
  return digest.hexdigest()


def saved_steps(directory: pathlib.Path) -> list[int]:
  """Returns the steps of a folder's checkpoints, the newest first."""
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir()]
  return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def save_checkpoint(
  directory: pathlib.Path, state: TrainState, record: dict[str, Any], keep: int
) -> None:
  """Saves a checkpoint under its step, atomically, and keeps so many.

  Later steps are removed too: they could not be read when the run resumed from
  one before them. After an OSError older checkpoints stay.
  """
  import orbax.checkpoint as ocp

  # NumPy arrays: in one of several processes, a state that comes out of pmap is
  # local to its host, which Orbax refuses.
  state = jax.tree.map(np.asarray, state)
  step = int(state.step)
  content = {'record': record, 'digest': _digest(state, record)}
  try:
    directory.mkdir(parents=True, exist_ok=True)
    _reserve_space(directory, state, json.dumps(content))
    with _manager(directory, keep) as manager:
      for existing in manager.all_steps():
        if existing >= step:
          manager.delete(existing)
      manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(content)
        ),
        force=True,
      )
  except OSError as error:
    raise OSError(error.errno, error.strerror, str(directory)) from error


def _reserve_space(directory: pathlib.Path, state: Any, text: str) -> None:
  """Raises an OSError if a checkpoint does not fit on the disk or a quota.

  Before Orbax meets it, whose threads print tracebacks that no one can catch.
  """
  leaves = jax.tree.leaves(state)
  size = sum(leaf.nbytes + 1024 for leaf in leaves) + len(text) + 2**17
  if hasattr(os, 'posix_fallocate'):
    with tempfile.TemporaryFile(dir=directory) as file:
      os.posix_fallocate(file.fileno(), 0, size)


def restore_checkpoint(
  directory: pathlib.Path, target: TrainState | None = None
) -> Checkpoint | None:
  """Reads the newest checkpoint whose digest is right; None if there is none.

  NumPy arrays of the target's structure, or nested dictionaries without one; a
  ValueError if there are checkpoints but none can be read.
  """
  reasons = []
  for step in saved_steps(directory):
    try:
      return _read(directory, step, target)
    except Exception as error:  # Orbax raises many kinds for a bad file.
      reason = str(error).strip() or repr(error)
      reasons.append(f'step {step}: {textwrap.shorten(reason, 300)}')
      logger.warning(
        'The checkpoint of step %d in %s cannot be read, trying the previous '
        'one: %s',
        step,
        directory,
        reasons[-1],
      )
  if reasons:
    raise ValueError(
      f'no checkpoint in {directory} can be read ({"; ".join(reasons)}); '
      'remove the folder to start again'
    )
  return None


def _read(
  directory: pathlib.Path, step: int, target: TrainState | None
) -> Checkpoint:
  import orbax.checkpoint as ocp

  wanted = None if target is None else jax.tree.map(np.asarray, target)
  with _manager(directory) as manager:
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(wanted), record=ocp.args.JsonRestore()
      ),
    )
  state = jax.tree.map(np.asarray, found.state)
  record = found.record['record']
  if _digest(state, record) != found.record['digest']:
    raise ValueError(
      'its checksum differs: it has changed since it was written'
    )
  return Checkpoint(state, record)


def checkpoint_directory(path: str | pathlib.Path) -> pathlib.Path:
  """Finds the folder of numbered checkpoints that a user means.

  `path` is a run's workdir (its last checkpoint), or `checkpoints`,
  `checkpoints/last` or `checkpoints/best` in it; else a ValueError.
  """
  path = pathlib.Path(path)
  for candidate in (path / 'checkpoints' / 'last', path / 'last', path):
    if saved_steps(candidate):
      return candidate
  raise ValueError(
    f"no checkpoint found in '{path}': give a run's workdir, or its "
    "folder 'checkpoints/last' or 'checkpoints/best'"
  )


def load_params(path: str | pathlib.Path, like: TrainState) -> TrainState:
  """Returns `like` with the parameters and statistics of a checkpoint.

  `path` as for `checkpoint_directory`; the moving average where the run kept
  one. `like` has arrays or shapes; a ValueError if its network is another one.
  """
  directory = checkpoint_directory(path)
  found = restore_checkpoint(directory)
  if found is None:
    raise ValueError(f"no checkpoint can be read in '{directory}'")
  saved = found.state
  params = saved.get('ema_params')
  if params is None:
    params = saved['params']

  def fit(name: str, have: Any, want: Any) -> Any:
    # By path: a named tuple is read back as a dict, sorted by name.
    leaves, wanted = _leaves_by_path(have), _leaves_by_path(want)
    shapes = [
      {(path, leaf.shape) for path, leaf in each.items()}
      for each in (leaves, wanted)
    ]
    if shapes[0] != shapes[1]:
      raise ValueError(
        f"the checkpoint in '{directory}' holds another network: {name} "
        f'differ at {sorted(shapes[0] ^ shapes[1])[:4]}'
      )
    ordered = [leaves[path] for path in wanted]
    return jax.tree.unflatten(jax.tree.structure(want), ordered)

  params = fit('params', params, like.params)
  return like._replace(
    params=params,
    model_state=fit(
      'model_state', saved.get('model_state') or {}, like.model_state
    ),
    ema_params=None if like.ema_params is None else params,
  )
