"""Checkpoints of a run, by Orbax, with a digest of their files.

A run keeps `checkpoints/last`, the newest two, and `checkpoints/best`, the one
of highest monitored robust accuracy. Orbax writes a checkpoint under a
temporary name and renames it, and then its digest is written, so that a run
killed at any moment leaves complete checkpoints. Orbax restores bytes that have
changed on disk silently: with a wrong digest, or none, the checkpoint before is
used.
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

from advjax.config import choose
from advjax.files import expand, read_json, replacing
from advjax.training.step import TrainState

logger = logging.getLogger(__name__)

# Those that a run keeps.
NAMES = ('last', 'best')


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


def _digest(folder: pathlib.Path) -> str:
  """SHA-256 of the names and the bytes of all files in a folder."""
  digest = hashlib.sha256()
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      digest.update(f'{path.relative_to(folder).as_posix()}\0'.encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()


def _digest_file(directory: pathlib.Path, step: int) -> pathlib.Path:
  return directory / f'{step}.sha256'


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
  try:
    directory.mkdir(parents=True, exist_ok=True)
    _reserve_space(directory, state, json.dumps(record))
    with _manager(directory, keep) as manager:
      for existing in manager.all_steps():
        if existing >= step:
          manager.delete(existing)
          _digest_file(directory, existing).unlink(missing_ok=True)
      manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        ),
        force=True,
      )
    with replacing(_digest_file(directory, step)) as file:
      file.write(_digest(directory / str(step)).encode())
    steps = set(saved_steps(directory))
    for path in directory.glob('*.sha256'):
      if int(path.stem) not in steps:
        path.unlink()
  except OSError as error:
    raise OSError(error.errno, error.strerror, str(directory)) from error


def _reserve_space(directory: pathlib.Path, state: Any, text: str) -> None:
  """Raises an OSError if a checkpoint does not fit on the disk or a quota.

  Before Orbax writes, whose threads print tracebacks that cannot be caught.
  """
  leaves = jax.tree.leaves(state)
  size = sum(leaf.nbytes + 1024 for leaf in leaves) + len(text) + 2**17
  if hasattr(os, 'posix_fallocate'):
    with tempfile.TemporaryFile(dir=directory) as file:
      os.posix_fallocate(file.fileno(), 0, size)


def restore_checkpoint(
  directory: pathlib.Path, target: TrainState | None = None
) -> Checkpoint | None:
  """Reads the newest checkpoint whose digest is correct; None without one.

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
        'The checkpoint in %s cannot be read (%s); the previous one is used',
        directory,
        reasons[-1],
      )
  if reasons:
    raise ValueError(
      f'no checkpoint in {directory} can be read ({"; ".join(reasons)}); '
      'restore its files from a copy, or train into another folder'
    )
  return None


def _read(
  directory: pathlib.Path, step: int, target: TrainState | None
) -> Checkpoint:
  import orbax.checkpoint as ocp

  # Before Orbax sees it, whose threads print tracebacks of files they cannot
  # read.
  digest_file = _digest_file(directory, step)
  if not digest_file.is_file():
    raise ValueError(
      f'{digest_file.name} is absent: it was not saved completely, or by '
      'another version of advjax'
    )
  if digest_file.read_text() != _digest(directory / str(step)):
    raise ValueError('its checksum differs: it changed after it was written')
  wanted = None if target is None else jax.tree.map(np.asarray, target)
  with _manager(directory) as manager:
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(wanted), record=ocp.args.JsonRestore()
      ),
    )
  return Checkpoint(jax.tree.map(np.asarray, found.state), found.record)


def checkpoint_directory(
  path: str | pathlib.Path, report_checkpoint: str | None = None
) -> pathlib.Path:
  """Finds the folder of numbered checkpoints that a user means.

  `path` is a run's workdir, or `checkpoints` in it, where `report_checkpoint`
  chooses 'last' or 'best', by default as the run's config does; or one of these
  two folders itself. A ValueError where there is no checkpoint.
  """
  if report_checkpoint is not None:
    choose('report_checkpoint', report_checkpoint, NAMES)
  path = expand(path)
  for folder in (path / 'checkpoints', path):
    there = [name for name in NAMES if saved_steps(folder / name)]
    if there:
      name = report_checkpoint or _reported(folder.parent)
      return folder / choose(f"report_checkpoint of '{path}'", name, there)
  if saved_steps(path):
    if report_checkpoint not in (None, path.name):
      raise ValueError(
        f"report_checkpoint = {report_checkpoint!r} of '{path}'; allowed: "
        f"{path.name!r}, or a run's workdir"
      )
    return path
  below = sorted(
    str(found.parent.relative_to(path))
    for found in (*path.glob('*/checkpoints'), *path.glob('*/*/checkpoints'))
  )
  raise ValueError(
    f"no checkpoint found in '{path}'; allowed: the workdir of one run, or its "
    "folder 'checkpoints/last' or 'checkpoints/best'"
    + (f'; it holds the runs {", ".join(below)}' if below else '')
  )


def _reported(workdir: pathlib.Path) -> str:
  """The checkpoint that a run's config reports; 'last' of one without it."""
  path = workdir / 'config.json'
  config = read_json(path) if path.is_file() else {}
  name: str = config.get('report_checkpoint', 'last')
  return name


def load_params(
  path: str | pathlib.Path, params: Any, model_state: Any
) -> tuple[Any, Any]:
  """Reads those of a checkpoint; as `checkpoint_directory`, `fit_params`."""
  directory = checkpoint_directory(path)
  found = restore_checkpoint(directory)
  assert found is not None  # It has been seen there.
  return fit_params(directory, found, params, model_state)


def fit_params(
  directory: pathlib.Path, found: Checkpoint, params: Any, model_state: Any
) -> tuple[Any, Any]:
  """Returns the parameters and statistics that were restored, like the given.

  The moving average where the run kept one. Given are arrays or shapes; a
  ValueError if their network is another one.
  """
  saved = found.state
  ema = saved.get('ema_params')
  have = _by_path(
    {
      'params': saved['params'] if ema is None else ema,
      'model_state': saved.get('model_state') or {},
    }
  )
  want = {'params': params, 'model_state': model_state}
  needed = _by_path(want)
  # Not the keys of a network that draws: others may start where these are.
  differing = {
    (path, x.shape) for path, x in have.items() if x.dtype != np.uint32
  } ^ {(path, x.shape) for path, x in needed.items() if x.dtype != np.uint32}
  if differing:
    raise ValueError(
      f"the checkpoint in '{directory}' holds another network: arrays differ "
      f'at {sorted(differing)[:4]}'
    )
  leaves = [have.get(path, needed[path]) for path in needed]
  fitted = jax.tree.unflatten(jax.tree.structure(want), leaves)
  return fitted['params'], fitted['model_state']


def _by_path(tree: Any) -> dict[str, Any]:
  """The leaves by path: named tuples are read back as dicts, sorted."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
