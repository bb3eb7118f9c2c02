"""Decoded images on disk: written once, then memory-mapped.

  ROOT/NAME-KEY/.lock            held while an entry is written
  ROOT/NAME-KEY/writing-*/       an unfinished entry
  ROOT/NAME-KEY/FINGERPRINT/     images.bin, uint8 [N, H, W, C]; labels.npz

KEY is a digest of the source of the images, FINGERPRINT of its state too: sizes
and times of its files. An entry replaces those of other states.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import filelock
import numpy as np
import tqdm

from advjax.files import expand, read_npz, user_cache_folder

logger = logging.getLogger(__name__)

# Part of every fingerprint: other decoding or other files make other entries.
_VERSION = 3
# The only folders that are ever removed.
_OURS = re.compile(r'[0-9a-f]{32}|writing-.*')


class Entry(NamedTuple):
  """Read-only arrays, and what was written with them."""

  images: np.ndarray
  labels: np.ndarray
  info: Mapping[str, Any]


def entry_path(
  cache_dir: str | None, name: str, source: str, state: Any
) -> pathlib.Path:
  """Returns ROOT/NAME-KEY/FINGERPRINT; `state` is anything JSON can hold."""
  root = user_cache_folder() / 'datasets'
  if cache_dir:
    root = expand(cache_dir).absolute()
  readable = re.sub(r'[^\w.-]+', '_', name)[:60]
  key, fingerprint = (
    hashlib.sha256(json.dumps(part).encode()).hexdigest()
    for part in (source, [_VERSION, source, state])
  )
  return root / f'{readable}-{key[:16]}' / fingerprint[:32]


def read(path: pathlib.Path) -> Entry | None:
  """Maps an entry into memory; None if there is none, or it is damaged."""
  if not path.exists():
    return None
  try:
    arrays = read_npz(path / 'labels.npz')
    labels, shape = arrays['labels'], tuple(arrays['shape'].tolist())
    size = (path / 'images.bin').stat().st_size
    right = labels.dtype == np.int32 and labels.shape == shape[:1]
    if not right or len(shape) != 4 or math.prod(shape) != size or not size:
      raise ValueError(f'{labels.dtype} {labels.shape} for {shape}, {size} B')
    info = json.loads(str(arrays['info']))
    images = np.memmap(path / 'images.bin', np.uint8, 'r', shape=shape)
  except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
    logger.warning('%s is damaged (%s): decoding again', path, error)
    shutil.rmtree(path, ignore_errors=True)
    return None
  labels.flags.writeable = False
  # A plain array over the same memory: numpy.memmap is a subclass of its own.
  return Entry(images.view(np.ndarray), labels, info)


def write(
  path: pathlib.Path,
  samples: Iterable[tuple[np.ndarray, int]],
  num_samples: int,
  info: Mapping[str, Any],
  name: str,
) -> Entry:
  """Writes an entry atomically, or waits for the process that writes it.

  Draws from `samples` (uint8 [H, W, C] and labels, `num_samples` at most) only
  if the entry is not there. `info` is kept as JSON, as it is after the last of
  them; `name` is for the log and progress bar.
  """
  folder = path.parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as locked:
      entry = read(path)
      if entry is not None:
        return entry
      for other in folder.iterdir():
        if locked and _OURS.fullmatch(other.name):
          shutil.rmtree(other, ignore_errors=True)
      logger.info('decoding %s once: %s images', name, f'{num_samples:,}')
      # A bar on a terminal, else none.
      bar = tqdm.tqdm(
        samples, f'decoding {name}', num_samples, unit=' images', disable=None
      )
      writing = folder / f'writing-{uuid.uuid4().hex}'
      writing.mkdir()
      try:
        _write_files(writing, bar, num_samples, info)
        # Without locks, another process may have been quicker.
        if locked or not path.exists():
          writing.rename(path)
      finally:
        shutil.rmtree(writing, ignore_errors=True)
      entry = read(path)
  except OSError as error:
    raise ValueError(
      f'{folder}: decoded images cannot be written '
      f'({error.strerror or error}); free some space, or choose another folder '
      'by config.dataset.cache_dir'
    ) from error
  if entry is None:
    raise ValueError(f'{path}: another program changed what was written')
  return entry


def _write_files(
  folder: pathlib.Path,
  samples: Iterable[tuple[np.ndarray, int]],
  num_samples: int,
  info: Mapping[str, Any],
) -> None:
  labels: list[int] = []
  # Not through a memory map: a full disk would kill the process.
  with open(folder / 'images.bin', 'wb') as stream:
    for image, label in samples:
      if not labels:
        needed = num_samples * image.nbytes
        free = shutil.disk_usage(folder).free
        if free < needed:
          raise OSError(
            errno.ENOSPC, f'{needed:,} bytes are needed, {free:,} are free'
          )
      stream.write(image.tobytes())
      labels.append(label)
    stream.flush()
    os.fsync(stream.fileno())
  np.savez(
    folder / 'labels.npz',
    labels=np.array(labels, np.int32),
    shape=[len(labels), *image.shape],
    info=json.dumps(info),
  )


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[bool]:
  """Waits for the lock; yields False where the file system has no locks."""
  lock = filelock.FileLock(folder / '.lock')
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    logger.info('%s: waiting for another process to decode', folder)
    lock.acquire()
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
      raise
  try:
    yield lock.is_locked
  finally:
    lock.release()
