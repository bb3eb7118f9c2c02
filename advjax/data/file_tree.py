"""The files of a folder, or of a zip of one, by their relative names.

A zip is read in place: nothing is ever extracted. Its names are checked all the
same, since a zip with absolute names, '..' or links is broken or hostile.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# No image file is so large; a few kilobytes of a zip may become any size.
_MAX_BYTES = 1 << 28
# Left behind by file managers and archivers; never part of a data set.
_JUNK = frozenset({'__MACOSX', 'Thumbs.db', 'desktop.ini'})


class FileTree(NamedTuple):
  """Files with a name each, 'train/cat/1.png', and how to read them.

  Attributes:
    files: The names of all files, sorted.
    folders: The names of all folders, sorted; those of a zip are the ones that
      have files or that it names.
    fingerprint: Changes whenever a file changes its name, size or time.
    read: Returns the content of a file, or raises a ValueError. Threads may
      call it at once.
  """

  files: tuple[str, ...]
  folders: tuple[str, ...]
  fingerprint: str
  read: Callable[[str], bytes]


@contextlib.contextmanager
def open_tree(path: pathlib.Path) -> Iterator[FileTree]:
  """Lists the files of a folder or a zip.

  Hidden files and what file managers leave behind are left out. Links in a
  folder are followed.

  Args:
    path: A folder, or a file that ends in .zip.

  Yields:
    The tree; its files can be read until the context ends.

  Raises:
    FileNotFoundError: If nothing is there.
    ValueError: If it is neither, or a zip that is damaged, encrypted, or has a
      name that leads out of it.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...   folder = pathlib.Path(root)
    ...   (folder / 'cats').mkdir()
    ...   _ = (folder / 'cats' / '1.png').write_bytes(b'purr')
    ...   with open_tree(folder) as tree:
    ...     tree.folders, tree.files, tree.read('cats/1.png')
    (('cats',), ('cats/1.png',), b'purr')
  """
  if path.is_dir():
    try:
      tree = _list_folder(path)
    except OSError as error:
      raise ValueError(f'{path} cannot be read: {error}') from error
    yield tree
    return
  if not path.exists():
    raise FileNotFoundError(f'path = {str(path)!r}: there is no such folder')
  if path.suffix.lower() != '.zip':
    raise ValueError(
      f'path = {str(path)!r}; allowed: a folder of images, or a .zip of one'
    )
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError) as error:
    raise _damaged(path, error) from error
  with archive:
    yield _list_zip(path, archive)


def inside(tree: FileTree, folder: str) -> FileTree:
  """Returns the tree below one folder, with names relative to it.

  Args:
    tree: Any tree.
    folder: One of its folders.

  Returns:
    A tree with the same fingerprint.
  """
  prefix = f'{folder}/'
  files, folders = (
    tuple(n.removeprefix(prefix) for n in names if n.startswith(prefix))
    for names in (tree.files, tree.folders)
  )
  return tree._replace(
    files=files, folders=folders, read=lambda name: tree.read(prefix + name)
  )


def _fingerprint(listing: list[list[Any]]) -> str:
  """Returns a digest: the list itself is long, and would be kept."""
  return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _is_junk(name: str) -> bool:
  return name.startswith('.') or name in _JUNK


# ------------------------------------------------------------------ folders


def _list_folder(root: pathlib.Path) -> FileTree:
  listing: list[list[Any]] = []
  folders: list[str] = []

  def scan(folder: str, above: frozenset[tuple[int, int]]) -> None:
    with os.scandir(root / folder) as entries:
      found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
      if _is_junk(entry.name):
        continue
      name = f'{folder}/{entry.name}' if folder else entry.name
      try:
        status = entry.stat()
      except FileNotFoundError as error:
        raise ValueError(f'{root / name}: a link that leads nowhere') from error
      if stat.S_ISREG(status.st_mode):
        listing.append([name, status.st_size, status.st_mtime_ns])
      elif stat.S_ISDIR(status.st_mode):
        identity = (status.st_dev, status.st_ino)
        if identity in above:
          raise ValueError(f'{root / name}: a link to a folder that it is in')
        folders.append(name)
        scan(name, above | {identity})

  def read(name: str) -> bytes:
    try:
      return (root / name).read_bytes()
    except OSError as error:
      raise ValueError(f'{root / name} cannot be read: {error}') from error

  status = root.stat()
  scan('', frozenset({(status.st_dev, status.st_ino)}))
  return FileTree(
    files=tuple(sorted(name for name, _, _ in listing)),
    folders=tuple(sorted(folders)),
    fingerprint=_fingerprint(listing),
    read=read,
  )


# --------------------------------------------------------------------- zips


def _list_zip(path: pathlib.Path, archive: zipfile.ZipFile) -> FileTree:
  status = path.stat()
  listing: list[list[Any]] = [[status.st_size, status.st_mtime_ns]]
  members: dict[str, zipfile.ZipInfo] = {}
  folders: set[str] = set()
  for info in archive.infolist():
    # Old archivers of Windows write its separator.
    name = info.filename.replace('\\', '/')
    _check_member(path, info, name)
    parts = [part for part in name.split('/') if part not in ('', '.')]
    is_folder = name.endswith('/')
    if not parts or any(_is_junk(part) for part in parts):
      continue
    name = '/'.join(parts)
    if not is_folder and name in members:
      raise ValueError(f'{path}: it has the file {name!r} twice; make it anew')
    above = parts if is_folder else parts[:-1]
    folders.update('/'.join(above[: i + 1]) for i in range(len(above)))
    if not is_folder:
      members[name] = info
      listing.append([name, info.file_size, info.CRC])

  def read(name: str) -> bytes:
    size = members[name].file_size
    if size > _MAX_BYTES:
      raise ValueError(
        f'{path}: {name} would take {size:,} bytes of memory; allowed: '
        f'{_MAX_BYTES:,} for one file of a zip'
      )
    try:
      # Reads no more than that size, whatever the compressed bytes hold.
      return archive.read(members[name])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
      raise _damaged(path, error) from error
    except NotImplementedError as error:
      raise ValueError(f'{path}: {name} cannot be read ({error})') from error

  return FileTree(
    files=tuple(sorted(members)),
    folders=tuple(sorted(folders)),
    fingerprint=_fingerprint(listing),
    read=read,
  )


def _check_member(path: pathlib.Path, info: zipfile.ZipInfo, name: str) -> None:
  """Raises a ValueError for a member that a zip of images has no use for."""
  if name.startswith('/') or re.match('[A-Za-z]:', name):
    problem = 'which is an absolute path'
  elif '..' in name.split('/'):
    problem = "which leads out of it by '..'"
  elif stat.S_ISLNK(info.external_attr >> 16):
    problem = 'which is a symbolic link'
  elif info.flag_bits & 1:
    problem = 'which is encrypted'
  else:
    return
  raise ValueError(
    f'{path}: this zip has the member {info.filename!r}, {problem}; make it '
    'anew from plain files'
  )


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(
    f'{path}: this zip is damaged or not whole ({error}); copy or make it again'
  )
