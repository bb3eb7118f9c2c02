"""Decoded images on disk: written once, checked and memory-mapped ever after.

An entry is a folder with `images.npy` (uint8 [N, H, W, C]), `labels.npy` (int32
[N]) and `entry.json`: the class names, the source (whatever says where the
images come from and that they have not changed: paths, sizes, times), size and
CRC-32 of both arrays, and notes of whoever wrote them. Entries of one set stand
side by side:

  ROOT/SET-KEY/.lock           held while one of them is written
  ROOT/SET-KEY/writing-XXXX/   half-made; without a lock, a leftover
  ROOT/SET-KEY/FINGERPRINT/    an entry, never changed again

A source that changes has another fingerprint: its images are written anew, and
the older entry is removed. Every byte of an entry is read and checked each time
that it is opened, small or large, about a second per GB: training reads them
all anyway. A damaged one is an error, not a rebuild: nothing is ever trained on
it, and what a broken disk or another program did is for the user to see.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax.data import array_files
from advjax.files import user_cache_folder

logger = logging.getLogger(__name__)

Source = Mapping[str, Any]
Block = tuple[np.ndarray, np.ndarray]

_DESCRIPTION = 'entry.json'
_DTYPES = {'images': 'uint8', 'labels': 'int32'}
_ENTRY = re.compile(r'[0-9a-f]{32}')
_WRITING = 'writing-'


class Entry(NamedTuple):
  """What an entry holds.

  Attributes:
    images: uint8 [N, H, W, C], memory-mapped, read-only.
    labels: int32 [N], memory-mapped, read-only.
    class_names: One name per class.
    notes: What its writer had to say of it.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  notes: Mapping[str, Any]


def default_root() -> pathlib.Path:
  """Returns where decoded images are kept: in the user's cache folder."""
  return user_cache_folder() / 'datasets'


def read(folder: pathlib.Path, source: Source) -> Entry | None:
  """Opens the entry of a source, after checking every byte of it.

  Args:
    folder: ROOT/SET-KEY.
    source: What the images come from; anything that JSON can hold.

  Returns:
    The entry, or None if there is none for this source.

  Raises:
    ValueError: If it is damaged; the message names the file and the way out.
  """
  path = folder / _fingerprint(source)
  try:
    description = _read_description(path)
  except FileNotFoundError:
    if path.is_dir():
      raise _damaged(path, _DESCRIPTION, 'it is missing') from None
    return None
  arrays = {
    name: _read_array(path, name, description['arrays'][name])
    for name in _DTYPES
  }
  return Entry(
    **arrays,
    class_names=tuple(description['class_names']),
    # Entries of older versions have none.
    notes=description.get('notes', {}),
  )


def write(
  folder: pathlib.Path,
  source: Source,
  blocks: Iterable[Block],
  num_images: int,
  class_names: Sequence[str],
  *,
  fewer: bool = False,
  notes: Mapping[str, Any] | None = None,
) -> Entry:
  """Writes the entry of a source, or waits for the process that does.

  The entry appears as a whole or not at all. Of two processes, the second one
  waits and then reads what the first one wrote.

  Args:
    folder: ROOT/SET-KEY; made if need be.
    source: What the images come from.
    blocks: Pairs of uint8 [B, H, W, C] and integers [B]; drawn from only if
      the entry is not there.
    num_images: Their number, over all blocks.
    class_names: One name per class.
    fewer: Whether fewer images may come than `num_images`.
    notes: Kept with the entry; anything that JSON can hold. Read after the
      last block, so that whoever makes the blocks can fill it.

  Returns:
    The entry, as `read` does.

  Raises:
    ValueError: If it cannot be written, for lack of space or of permission;
      nothing is left behind.

  Example:
    >>> images, labels = np.zeros([4, 8, 8, 1], np.uint8), np.arange(4) % 2
    >>> with tempfile.TemporaryDirectory() as root:
    ...   folder = pathlib.Path(root) / 'noughts'
    ...   blocks = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    ...   entry = write(folder, {'version': 1}, blocks, 4, ('even', 'odd'))
    ...   read(folder, {'version': 2}) is None
    True
    >>> entry.labels
    array([0, 1, 0, 1], dtype=int32)
  """
  # An empty one is kept, not replaced: the blocks may fill it.
  notes = {} if notes is None else notes
  with _explained(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / '.lock') as locked:
      entry = read(folder, source)
      if entry is None:
        if locked:
          _remove(folder, _WRITING)
        description = {'class_names': list(class_names), 'source': source}
        _write(folder, description, _not_ours(blocks), num_images, fewer, notes)
        entry = read(folder, source)
        if locked and entry is not None:
          _remove(folder, '', keep=_fingerprint(source))
  if entry is None:
    raise ValueError(f'{folder}: another program removed what was written')
  return entry


def _fingerprint(source: Source) -> str:
  text = json.dumps(source, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


# ------------------------------------------------------------------ reading


def _read_description(path: pathlib.Path) -> dict[str, Any]:
  """Reads entry.json, which carries the checksum of its own content."""
  text = (path / _DESCRIPTION).read_bytes()
  checksum, _, content = text.partition(b'\n')
  if checksum != b'%08x' % zlib.crc32(content):
    raise _damaged(path, _DESCRIPTION, 'its checksum is wrong')
  return json.loads(content)


def _read_array(
  path: pathlib.Path, name: str, expected: Mapping[str, Any]
) -> np.ndarray:
  """Maps one array into memory once its file is known to be whole."""
  file = path / f'{name}.npy'
  try:
    with open(file, 'rb') as stream:
      size = os.fstat(stream.fileno()).st_size
      if size != expected['bytes']:
        raise _damaged(
          path, file.name, f'it has {size:,} bytes, not {expected["bytes"]:,}'
        )
      checksum = array_files.checksum(stream)
  except FileNotFoundError:
    raise _damaged(path, file.name, 'it is missing') from None
  if checksum != expected['crc32']:
    raise _damaged(path, file.name, 'its checksum is wrong')
  # A plain array over the map: numpy.memmap is a subclass of its own.
  return np.load(file, mmap_mode='r').view(np.ndarray)


def _damaged(path: pathlib.Path, file: str, what: str) -> ValueError:
  return ValueError(
    f'{path / file}: this part of the cache is damaged: {what}. Delete the '
    f"folder '{path}' and run the same command again: it is made anew from "
    'the data set'
  )


# ------------------------------------------------------------------ writing


def _write(
  folder: pathlib.Path,
  description: Mapping[str, Any],
  blocks: Iterable[Block],
  num_images: int,
  fewer: bool,
  notes: Mapping[str, Any],
) -> None:
  """Writes an entry beside its place, then moves it there."""
  writing = pathlib.Path(tempfile.mkdtemp(prefix=_WRITING, dir=folder))
  # As private as the folder around it: a cache may be shared.
  writing.chmod(folder.stat().st_mode)
  try:
    arrays = _write_arrays(writing, blocks, num_images, fewer)
    content = json.dumps(
      {**description, 'arrays': arrays, 'notes': notes}, indent=1
    ).encode()
    with open(writing / _DESCRIPTION, 'wb') as stream:
      stream.write(b'%08x\n' % zlib.crc32(content) + content)
      array_files.flush(stream)
    try:
      os.rename(writing, folder / _fingerprint(description['source']))
    except OSError as error:
      # Where there are no locks, another process may have been quicker.
      if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
        raise
  finally:
    shutil.rmtree(writing, ignore_errors=True)


def _write_arrays(
  writing: pathlib.Path,
  blocks: Iterable[Block],
  num_images: int,
  fewer: bool,
) -> dict[str, Any]:
  """Writes both arrays block by block; returns their sizes and checksums."""
  arrays: dict[str, Any] = {}
  all_labels = []
  # Not through a memory map: a full disk would kill the process then.
  with open(writing / 'images.npy', 'wb') as stream:
    for images, labels in blocks:
      if not arrays:
        shape = (num_images, *images.shape[1:])
        _check_space(writing, num_images * images[0].nbytes)
        arrays['images'] = {'bytes': 0, 'crc32': 0}
        array_files.append(
          stream, array_files.header(_DTYPES['images'], shape), arrays['images']
        )
      array_files.append(
        stream, np.ascontiguousarray(images).data, arrays['images']
      )
      all_labels.append(labels)
    array_files.flush(stream)
  labels = np.concatenate(all_labels).astype(_DTYPES['labels'])
  if len(labels) > num_images or (len(labels) < num_images and not fewer):
    raise ValueError(f'{len(labels)} images came, {num_images} were promised')
  if len(labels) < num_images:
    shape = (len(labels), *shape[1:])
    arrays['images']['crc32'] = array_files.change_length(
      writing / 'images.npy', _DTYPES['images'], shape
    )
  with open(writing / 'labels.npy', 'wb') as stream:
    arrays['labels'] = {'bytes': 0, 'crc32': 0}
    array_files.append(
      stream,
      array_files.header(_DTYPES['labels'], labels.shape),
      arrays['labels'],
    )
    array_files.append(stream, labels.data, arrays['labels'])
    array_files.flush(stream)
  return arrays


def _check_space(folder: pathlib.Path, needed: int) -> None:
  """Raises before a long decoding that could not be kept."""
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(
      errno.ENOSPC, f'{needed:,} bytes are needed, {free:,} are free'
    )


class _SourceError(Exception):
  """Carries an OSError of the source past what speaks of the cache."""


def _not_ours(blocks: Iterable[Block]) -> Iterator[Block]:
  try:
    yield from blocks
  except OSError as error:
    raise _SourceError from error


@contextlib.contextmanager
def _explained(folder: pathlib.Path) -> Iterator[None]:
  """Says of trouble with the cache's own files where they are, and why."""
  try:
    yield
  except _SourceError as error:
    cause = error.__cause__
    raise ValueError(f'the data set cannot be read: {cause}') from cause
  except OSError as error:
    raise ValueError(
      f'{folder}: decoded images cannot be kept there '
      f'({error.strerror or error}); make room, or choose another folder by '
      'config.dataset.cache_dir'
    ) from error


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[bool]:
  """Waits for its turn; yields False where the file system has no locks."""
  with open(path, 'w') as stream:
    locked = True
    try:
      fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logger.info('%s: waiting for another process to decode', path.parent)
      fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        raise
      locked = False
    yield locked


def _remove(folder: pathlib.Path, prefix: str, keep: str = '') -> None:
  """Removes leftovers, or entries other than one; nothing that is not ours."""
  for path in folder.iterdir():
    ours = (
      path.name.startswith(prefix) if prefix else _ENTRY.fullmatch(path.name)
    )
    if ours and path.name != keep and path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
