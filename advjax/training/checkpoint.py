"""Orbax checkpoints that are checked when they are read.

A run keeps `checkpoints/last` (the newest two) and `checkpoints/best` (one).
Each holds the training state, a record with the progress of the run, and last
the digests of all its files: a file cut short or changed on disk is noticed,
said, and the checkpoint before it is used.
"""

import hashlib
import json
import logging
import pathlib
import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from advjax.training.state import TrainState
from advjax.training.workdir import write_json

logger = logging.getLogger(__name__)

_DIGESTS = 'digests.json'


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


def _check_files(folder: pathlib.Path) -> None:
  """Raises a ValueError if a file is missing or not as it was written.

  Before Orbax sees it: what it reads in the background goes on failing there,
  with tracebacks on stderr that no one can catch.
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


def _leaves_by_path(tree: Any) -> dict[str, Any]:
  """Leaves by path, the same for a named tuple and for the dict read back."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _manager(directory: pathlib.Path, keep: int) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep, enable_async_checkpointing=False
  )
  return ocp.CheckpointManager(directory.resolve(), options=options)


def save_checkpoint(
  directory: pathlib.Path, state: TrainState, record: dict[str, Any], keep: int
) -> None:
  """Saves a checkpoint under its step, atomically, and drops old ones.

  Args:
    directory: Of this kind of checkpoint, e.g. `WORKDIR/checkpoints/last`.
    state: The training state.
    record: Numbers, strings and lists that go beside it as JSON.
    keep: How many to keep.

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
  arguments = ocp.args.Composite(
    state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
  )
  with _manager(directory, keep) as manager:
    step = int(state.step)
    if step in manager.all_steps():
      manager.delete(step)
    manager.save(step, args=arguments, force=True)
  folder = directory / str(step)
  write_json(folder / _DIGESTS, _file_digests(folder))


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
  if not directory.is_dir():
    return None
  reasons = []
  with _manager(directory, keep=1000) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
      try:
        _check_files(directory / str(step))
        return _restore_step(manager, step, target)
      except Exception as error:  # Orbax raises many kinds for a bad file.
        reason = str(error).strip() or repr(error)
        reasons.append(f'step {step}: {textwrap.shorten(reason, 300)}')
        logger.warning(
          'The checkpoint of step %d in %s cannot be read, the one before it '
          'is tried: %s',
          step,
          directory,
          reasons[-1],
        )
  if reasons:
    raise ValueError(
      f'no checkpoint in {directory} can be read ({"; ".join(reasons)}); '
      'remove the folder to start anew'
    )
  return None


def _restore_step(
  manager: ocp.CheckpointManager, step: int, target: TrainState | None
) -> Checkpoint:
  wanted = None if target is None else jax.tree.map(np.asarray, target)
  restored = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(wanted), record=ocp.args.JsonRestore()
    ),
  )
  state = jax.tree.map(np.asarray, restored.state)
  return Checkpoint(state, dict(restored.record))


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
    if candidate.is_dir() and any(
      entry.name.isdigit() for entry in candidate.iterdir()
    ):
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
