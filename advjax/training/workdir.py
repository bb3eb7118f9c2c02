"""The folder that a run writes to."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from advjax.files import write_json


def config_to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns a config as plain JSON values, references resolved.

  Args:
    config: A config.

  Returns:
    Nested dictionaries; tuples become lists.

  Example:
    >>> config_to_json(config_dict.create(epsilons=(0.1, 0.2)))
    {'epsilons': [0.1, 0.2]}
  """
  return json.loads(config.to_json())


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def prepare_workdir(
  workdir: str | pathlib.Path, config: config_dict.ConfigDict
) -> pathlib.Path:
  """Makes a run's folder, or finds in it a run of the same config.

  Args:
    workdir: The folder.
    config: The run's config, written to `config.json` there.

  Returns:
    The folder as a path.

  Raises:
    ValueError: if it is a file, cannot be written to, or holds a run of
      another config; nothing in it is changed then.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   config = config_dict.create(seed=0)
    ...   (prepare_workdir(folder, config) / 'config.json').exists()
    True
  """
  path = pathlib.Path(workdir).expanduser()
  if path.exists() and not path.is_dir():
    raise ValueError(f"workdir = '{path}' is a file; give a folder")
  config_path = path / 'config.json'
  wanted = config_to_json(config)
  try:
    path.mkdir(parents=True, exist_ok=True)
    if config_path.exists():
      _check_same_config(path, json.loads(config_path.read_text()), wanted)
    # Written anew even if it is the same: shows that the folder is writable.
    write_json(config_path, wanted)
  except OSError as error:
    raise ValueError(
      f"workdir = '{path}' cannot be written to: {error.strerror}; give a "
      'folder that can'
    ) from error
  except json.JSONDecodeError as error:
    raise ValueError(
      f"'{config_path}' is not JSON ({error}); give another workdir"
    ) from error
  return path


def _check_same_config(
  path: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
  have, want = _flatten(found), _flatten(wanted)
  differing = sorted(
    field
    for field in {*have, *want}
    if (field in have) != (field in want) or have.get(field) != want.get(field)
  )
  if differing:
    shown = '; '.join(
      f'{field}: {have.get(field, "not set")!r} there, '
      f'{want.get(field, "not set")!r} asked for'
      for field in differing[:5]
    )
    raise ValueError(
      f"workdir = '{path}' holds a run of another config ({shown}); give "
      'another workdir, or remove that run'
    )
