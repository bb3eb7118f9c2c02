"""Orbax checkpoints that appear whole, and are checked when they are read.

A run keeps `checkpoints/last` (the newest two) and `checkpoints/best` (one).
Each is a folder named after its step, with the training state, a record of
the run's progress, and the digests of all its files. It is written in
`.saving` beside the others and then renamed, so that a run killed at any
moment leaves the old checkpoints and perhaps the new one, never half of it. A
file that was changed on disk later is noticed, said, and the checkpoint
before it is used.
"""

import logging
import os
import pathlib
import shutil
import textwrap
from typing import Any

import jax
import numpy as np

from advjax.training.checkpoint_files import (
  Checkpoint,
  check_files,
  read_files,
  sync,
  write_files,
)
from advjax.training.state import TrainState

logger = logging.getLogger(__name__)

_SAVING = '.saving'


def _leaves_by_path(tree: Any) -> dict[str, Any]:
  """Leaves by path, the same for a named tuple and for the dict read back."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
  """The folders named after a step, the newest first."""
  if not folder.is_dir():
    return []
  found = [path for path in folder.iterdir() if path.name.isdigit()]
  return sorted(found, key=lambda path: int(path.name), reverse=True)


def _saved_but_hidden(directory: pathlib.Path) -> list[pathlib.Path]:
  """What a killed run had written in full and had yet to move to its place."""
  return [path for path in _steps(directory / _SAVING) if _is_whole(path)]


def _is_whole(folder: pathlib.Path) -> bool:
  try:
    check_files(folder)
  except ValueError:
    return False
  return True


def _candidates(directory: pathlib.Path) -> list[pathlib.Path]:
  """All checkpoints, the newest first."""
  # A hidden one comes first: it was to replace the other of the same step.
  found = [*_saved_but_hidden(directory), *_steps(directory)]
  return sorted(found, key=lambda path: int(path.name), reverse=True)


def save_checkpoint(
  directory: pathlib.Path, state: TrainState, record: dict[str, Any], keep: int
) -> None:
  """Saves a checkpoint under its step, atomically, and drops old ones.

  Other processes of the same job need not call it, nor wait for it.

  Args:
    directory: Of this kind of checkpoint, e.g. `WORKDIR/checkpoints/last`.
    state: The training state.
    record: Numbers, strings and lists that go beside it as JSON.
    keep: How many to keep: this one and those before it.

  Raises:
    OSError: if it cannot be written; what was there stays.

  Example:
    >>> import tempfile
    >>> state = TrainState(np.int32(3), {'w': np.ones(2)}, {}, (), None)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder)
    ...   save_checkpoint(path, state, {'loss': 0.5}, keep=2)
    ...   restore_checkpoint(path, state).record['loss']
    0.5
  """
  # NumPy arrays: a state that comes out of pmap in one of several processes
  # is local to its host, which Orbax refuses to save as it is.
  state = jax.tree.map(np.asarray, state)
  for hidden in _saved_but_hidden(directory):
    _publish(directory, hidden)
  saving = directory.resolve() / _SAVING
  folder = saving / str(int(state.step))
  try:
    if saving.exists():
      shutil.rmtree(saving)
    folder.mkdir(parents=True)
    write_files(folder, state, record)
  except OSError as error:
    # Gives the space back; what was saved before is elsewhere.
    shutil.rmtree(saving, ignore_errors=True)
    raise OSError(error.errno, error.strerror, str(directory)) from error
  _publish(directory, folder)
  _drop_others(directory, int(state.step), keep)
  shutil.rmtree(saving)


def _publish(directory: pathlib.Path, folder: pathlib.Path) -> None:
  """Moves a whole checkpoint from `.saving` to its place."""
  place = directory / folder.name
  if place.exists():
    # No folder replaces one that has files. Between these two lines the new
    # one is found where it is.
    _hide(place)
  os.replace(folder, place)
  sync(directory)


def _hide(folder: pathlib.Path) -> None:
  """Moves a checkpoint to where it goes unseen until it is removed."""
  hidden = folder.parent / _SAVING / f'old-{folder.name}'
  if hidden.exists():
    shutil.rmtree(hidden)
  os.replace(folder, hidden)


def _drop_others(directory: pathlib.Path, step: int, keep: int) -> None:
  """Drops all but a checkpoint and the newest before it.

  Later ones are those that could not be read, when the run went on from one
  before them.
  """
  steps = _steps(directory)
  kept = [path for path in steps if int(path.name) <= step][:keep]
  for path in steps:
    if path not in kept:
      _hide(path)


def restore_checkpoint(
  directory: pathlib.Path, target: TrainState | None = None
) -> Checkpoint | None:
  """Reads the newest whole checkpoint.

  Args:
    directory: Of this kind of checkpoint.
    target: A state of the structure that is wanted; None returns the saved
      one as nested dictionaries.

  Returns:
    The checkpoint with NumPy arrays, or None where there is none at all.

  Raises:
    ValueError: if there are checkpoints but none of them is whole, or they
      hold another structure than the target's.

  Example:
    >>> restore_checkpoint(pathlib.Path('no-such-folder')) is None
    True
  """
  reasons = []
  for folder in _candidates(directory):
    try:
      check_files(folder)
      return read_files(folder, target)
    except Exception as error:  # Orbax raises many kinds for a bad file.
      reason = str(error).strip() or repr(error)
      reasons.append(f'step {folder.name}: {textwrap.shorten(reason, 300)}')
      logger.warning(
        'The checkpoint of step %s in %s cannot be read, the one before it '
        'is tried: %s',
        folder.name,
        directory,
        reasons[-1],
      )
  if reasons:
    raise ValueError(
      f'no checkpoint in {directory} can be read ({"; ".join(reasons)}); '
      'remove the folder to start anew'
    )
  return None


def has_checkpoint(directory: pathlib.Path) -> bool:
  """Returns whether a folder holds a checkpoint, whole or not.

  Args:
    directory: Of one kind of checkpoint.

  Returns:
    Whether there is one.

  Example:
    >>> has_checkpoint(pathlib.Path('no-such-folder'))
    False
  """
  return bool(_candidates(directory))


def checkpoint_directory(path: str | pathlib.Path) -> pathlib.Path:
  """Finds the folder of checkpoints that a user means.

  Args:
    path: A run's workdir, or its `checkpoints`, `checkpoints/last` or
      `checkpoints/best`. A workdir means its last checkpoint.

  Returns:
    The folder that holds numbered checkpoints.

  Raises:
    ValueError: if there are none.

  Example:
    >>> checkpoint_directory('no-such-run')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: no checkpoint found in 'no-such-run': give a run's workdir, ...
  """
  path = pathlib.Path(path)
  for candidate in (path / 'checkpoints' / 'last', path / 'last', path):
    if has_checkpoint(candidate):
      return candidate
  raise ValueError(
    f"no checkpoint found in '{path}': give a run's workdir, or its "
    "folder 'checkpoints/last' or 'checkpoints/best'"
  )


def load_params(path: str | pathlib.Path, like: TrainState) -> TrainState:
  """Loads params and BatchNorm statistics saved under any objective.

  Args:
    path: As for `checkpoint_directory`.
    like: A state whose network must fit; its step, optimizer and moving
      average are kept or made anew.

  Returns:
    `like` with the params (the moving average where the run kept one) and
    statistics of the checkpoint.

  Raises:
    ValueError: if there is no checkpoint, or its network is another one.

  Example:
    >>> import tempfile
    >>> state = TrainState(np.int32(3), {'w': np.ones(2)}, {}, (), None)
    >>> like = state._replace(params={'w': np.zeros(2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save_checkpoint(pathlib.Path(folder), state, {}, keep=1)
    ...   load_params(folder, like).params['w'].tolist()
    [1.0, 1.0]
  """
  directory = checkpoint_directory(path)
  found = restore_checkpoint(directory)
  if found is None:
    raise ValueError(f"no whole checkpoint in '{directory}'")
  saved = found.state
  params = saved.get('ema_params')
  if params is None:
    params = saved['params']
  model_state = saved.get('model_state') or {}
  for name, have, want in (
    ('params', params, like.params),
    ('model_state', model_state, like.model_state),
  ):
    shapes = [
      {path: leaf.shape for path, leaf in _leaves_by_path(tree).items()}
      for tree in (have, want)
    ]
    if shapes[0] != shapes[1]:
      difference = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
      raise ValueError(
        f"the checkpoint in '{directory}' holds another network: {name} "
        f'differ at {difference[:4]}'
      )

  def fit(tree: Any, want: Any) -> Any:
    # By path: what was a named tuple comes back as a dictionary, in the order
    # of its names.
    leaves = _leaves_by_path(tree)
    ordered = [leaves[path] for path in _leaves_by_path(want)]
    return jax.tree.unflatten(jax.tree.structure(want), ordered)

  params = fit(params, like.params)
  return like._replace(
    params=params,
    model_state=fit(model_state, like.model_state),
    ema_params=None if like.ema_params is None else params,
  )
