"""Where TFDS keeps a prepared set: DATA_DIR/NAME[/CONFIG]/VERSION.

Written out here, since importing TFDS takes longer than all else that a second
start does, and because what is wrong with a folder is worth a good message.
"""

import json
import os
import pathlib
import re
from typing import Any, NamedTuple

_NAME = re.compile(
  r'(?P<name>[a-z]\w*)'
  r'(/(?P<config>[\w.-]+))?'
  r'(:(?P<version>(\d+|\*)\.(\d+|\*)\.(\d+|\*)))?'
)
_VERSION = re.compile(r'\d+\.\d+\.\d+')
# What every prepared set has beside its records.
DESCRIPTIONS = ('dataset_info.json', 'features.json')


class SetName(NamedTuple):
  """A set as TFDS writes it: NAME[/CONFIG][:VERSION].

  Attributes:
    name: As in 'mnist'.
    config: One of the set's variants, or None.
    version: As in '3.0.1' or '3.*.*', or None.
  """

  name: str
  config: str | None
  version: str | None

  def __str__(self) -> str:
    text = f'{self.name}/{self.config}' if self.config else self.name
    return f'{text}:{self.version}' if self.version else text


def parse_name(builder: str) -> SetName:
  """Reads the name of a set.

  Args:
    builder: As TFDS writes it.

  Returns:
    Its parts.

  Raises:
    ValueError: If it is no such name.

  Example:
    >>> parse_name('cifar10_corrupted/fog_3:1.0.0')
    SetName(name='cifar10_corrupted', config='fog_3', version='1.0.0')
  """
  found = _NAME.fullmatch(builder)
  if not found:
    raise ValueError(
      f'builder = {builder!r}; allowed: NAME[/CONFIG][:VERSION] as TFDS writes '
      "it, such as 'mnist', 'mnist:3.0.1' or 'cifar10_corrupted/fog_3'"
    )
  return SetName(found['name'], found['config'], found['version'])


def resolve_data_dir(data_dir: str | None) -> pathlib.Path:
  """Returns the folder of all sets; by default TFDS' own.

  Args:
    data_dir: As given; None for $TFDS_DATA_DIR, else ~/tensorflow_datasets.

  Returns:
    An absolute path.

  Raises:
    ValueError: If a folder was given that is not there.
  """
  if data_dir is None:
    default = os.path.join('~', 'tensorflow_datasets')
    chosen = os.environ.get('TFDS_DATA_DIR') or default
    return pathlib.Path(chosen).expanduser().absolute()
  path = pathlib.Path(data_dir).expanduser().absolute()
  if not data_dir or not path.is_dir():
    raise ValueError(
      f'data_dir = {data_dir!r} is no folder; it must be the one that holds '
      'the sets (DATA_DIR/mnist/3.0.1/...); to download a set into a new '
      'folder, make the folder first'
    )
  return path


def find(name: SetName, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Finds the folder of a set's newest version that matches its name.

  Args:
    name: Which set.
    data_dir: The folder of all sets.

  Returns:
    The folder, or None if nothing of this name was prepared there.

  Raises:
    ValueError: If it is there, but not whole or in other versions or configs
      only, or `data_dir` is a folder inside of it.
  """
  root = data_dir / name.name
  config = name.config
  if config is None and not _versions(root):
    config = _default_config(root)
  folders = _versions(root / config if config else root)
  matching = [f for f in folders if _matches(f.name, name.version)]
  if matching:
    return _check_whole(matching[-1])
  if folders:
    raise ValueError(
      f'builder = {str(name)!r}: there is no such version in {data_dir}; there '
      f'are: {", ".join(folder.name for folder in folders)}'
    )
  configs = sorted(path.name for path in _folders(root) if _versions(path))
  if configs:
    raise ValueError(
      f'builder = {str(name)!r}: {data_dir} has this set in other configs; '
      f'there are: {", ".join(f"{name.name}/{config}" for config in configs)}'
    )
  for parent in data_dir.parents[:3]:
    inside = data_dir.is_relative_to(parent / name.name)
    if inside and prepared_sets(parent):
      raise ValueError(
        f'data_dir = {str(data_dir)!r} is inside of the set {name.name!r}; the '
        f'folder that holds the sets is {str(parent)!r}'
      )
  return None


def missing_set(name: SetName, data_dir: pathlib.Path) -> str:
  """Says that a set is not there, and what is.

  Args:
    name: The set.
    data_dir: Where it was looked for.

  Returns:
    A sentence, without a full stop.
  """
  text = f'builder = {str(name)!r}: no such set was prepared in {data_dir}'
  root = data_dir / name.name
  unfinished = [*root.glob('incomplete.*'), *root.glob('*/incomplete.*')]
  if unfinished:
    paths = ', '.join(str(path) for path in sorted(unfinished))
    text += f', only a half-made one, which TFDS began: {paths}'
  there = prepared_sets(data_dir)
  return f'{text}; prepared there: {", ".join(there) or "none"}'


def prepared_sets(data_dir: pathlib.Path) -> list[str]:
  """Returns the names of all sets in a folder, as TFDS writes them."""
  names = []
  for root in _folders(data_dir):
    names += [f'{root.name}:{version.name}' for version in _versions(root)]
    for config in _folders(root):
      names += [
        f'{root.name}/{config.name}:{version.name}'
        for version in _versions(config)
      ]
  return names


def list_files(folder: pathlib.Path) -> list[list[Any]]:
  """Returns [name, size, time of the last change in ns] of every file.

  Args:
    folder: Of one version of a set.

  Returns:
    A list that changes whenever the set does.
  """
  with os.scandir(folder) as entries:
    files = [entry for entry in entries if entry.is_file()]
  return sorted(
    [file.name, file.stat().st_size, file.stat().st_mtime_ns]
    for file in files
    if not file.name.startswith('.')
  )


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders in a folder, none if there is no such folder."""
  if not path.is_dir():
    return []
  return sorted(child for child in path.iterdir() if child.is_dir())


def _versions(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of versions, the newest one last."""
  folders = [f for f in _folders(path) if _VERSION.fullmatch(f.name)]
  return sorted(folders, key=lambda f: [int(n) for n in f.name.split('.')])


def _matches(version: str, wanted: str | None) -> bool:
  pairs = zip(version.split('.'), (wanted or '*.*.*').split('.'), strict=True)
  return all(part in ('*', number) for number, part in pairs)


def _default_config(root: pathlib.Path) -> str | None:
  """Returns the config that TFDS takes where none is named."""
  try:
    text = (root / '.config' / 'metadata.json').read_text()
    return json.loads(text).get('default_config_name')
  except (FileNotFoundError, json.JSONDecodeError):
    return None


def _check_whole(folder: pathlib.Path) -> pathlib.Path:
  lacks = [name for name in DESCRIPTIONS if not (folder / name).is_file()]
  if lacks:
    raise ValueError(
      f'{folder}: this set is incomplete, it lacks {", ".join(lacks)}; copy it '
      'again, or move the folder away and prepare the set anew'
    )
  return folder
