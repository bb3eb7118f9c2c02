"""The folder that a job writes to."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import config_dict

from advjax.config import config_to_json
from advjax.files import expand, lock_folder, read_json, write_json
from advjax.processes.collectives import from_main


@contextlib.contextmanager
def open_workdir(
  workdir: str | pathlib.Path, config: config_dict.ConfigDict
) -> Iterator[pathlib.Path]:
  """Prepares a job's folder, and locks it for as long as the job writes.

  In process 0; all processes get its error.
  """
  with contextlib.ExitStack() as stack:

    def prepare() -> pathlib.Path:
      path = prepare_workdir(workdir, config)
      stack.enter_context(lock_folder(path))
      return path

    yield from_main(prepare)


def prepare_workdir(
  workdir: str | pathlib.Path, config: config_dict.ConfigDict
) -> pathlib.Path:
  """Creates a job's folder with its config.json, or finds the same job there.

  A ValueError if it is a file, cannot be written to, or holds a run of another
  config; nothing in it is changed then.
  """
  path = expand(workdir)
  if path.exists() and not path.is_dir():
    raise ValueError(f"workdir = '{path}' is a file; allowed: a folder")
  config_path = path / 'config.json'
  wanted = config_to_json(config)
  try:
    path.mkdir(parents=True, exist_ok=True)
    if config_path.exists():
      _check_same(path, read_json(config_path), wanted)
    # Also if it is the same: shows that the folder can be written to.
    write_json(config_path, wanted)
  except OSError as error:
    raise ValueError(
      f"workdir = '{path}' cannot be written to: {error.strerror}; give a "
      'folder that can'
    ) from error
  return path


def _check_same(path: pathlib.Path, *configs: Mapping[str, Any]) -> None:
  have, want = (
    flatten_dict(each, keep_empty_nodes=True, sep='.') for each in configs
  )
  differing = sorted(
    field
    for field in {*have, *want}
    if have.get(field, 'not set') != want.get(field, 'not set')
  )
  found, wanted = map(set, configs)
  own = {'methods': 'explain', 'attacks': 'evaluate', 'members': 'compare'}
  was, now = (next((own[f] for f in own if f in c), 'train') for c in configs)
  if found != wanted:
    raise ValueError(
      f"workdir = '{path}' holds the output of another command or version "
      f'({was} there, {now} requested; differing fields: '
      f'{", ".join(sorted(found ^ wanted)[:3])}); give another workdir'
    )
  if differing:
    shown = '; '.join(
      f'{field}: {have.get(field, "not set")!r} there, '
      f'{want.get(field, "not set")!r} requested'
      for field in differing[:5]
    )
    raise ValueError(
      f"workdir = '{path}' holds a run of another config ({shown}); give "
      'another workdir, or remove that run'
    )
