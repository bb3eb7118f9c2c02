"""Your own arrays: one .npz file that holds both splits.

  np.savez_compressed(
    'mine.npz',
    train_images=...,  # uint8 or floating in [0, 1]; [N, H, W] or [N, H, W, C]
    train_labels=...,  # integers [N] in [0, number of classes)
    test_images=...,
    test_labels=...,
    class_names=...,  # strings, optional
  )

Everything is checked before anything is trained on it, and nothing in the file
is ever unpickled.
"""

import os
import zipfile
import zlib
from typing import BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile

from advjax.data.dataset import Dataset, Split

_REQUIRED = ('train_images', 'train_labels', 'test_images', 'test_labels')


def load(path: str) -> Dataset:
  """Loads images as they are or as float32, and labels as int32.

  Without `class_names` there are as many classes as the largest training label
  says, named by their numbers.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{path}: there is no such file; write one with numpy.savez (fields '
      f"{', '.join(_REQUIRED)}), or use the embedded data with name='digits'"
    )
  # Opened here: numpy leaves a file open that it can make nothing of.
  with open(path, 'rb') as stream:
    try:
      return _check(_read(stream))
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error


def _read(stream: BinaryIO) -> dict[str, np.ndarray]:
  """Reads the arrays of the file, without unpickling anything."""
  unreadable = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
  try:
    archive = np.load(stream, allow_pickle=False)
  except unreadable as error:
    raise ValueError(
      f'invalid or truncated .npz file ({error}); write it with numpy.savez'
    ) from error
  if not isinstance(archive, NpzFile):
    raise ValueError('a single array; allowed: an .npz file')
  lacking = [field for field in _REQUIRED if field not in archive.files]
  if lacking:
    raise ValueError(
      f'lacks {", ".join(lacking)}; it holds '
      f'{", ".join(sorted(archive.files)) or "nothing"}'
    )
  arrays = {}
  for field in sorted({*archive.files} & {*_REQUIRED, 'class_names'}):
    try:
      arrays[field] = archive[field]
    except unreadable as error:
      raise ValueError(
        f'{field} cannot be read ({error}); allowed: a plain array, not '
        'pickled and not truncated'
      ) from error
  return arrays


def _check(arrays: dict[str, np.ndarray]) -> Dataset:
  train, test = (
    Split(
      _check_images(f'{name}_images', arrays[f'{name}_images']),
      _check_labels(f'{name}_labels', arrays[f'{name}_labels']),
    )
    for name in ('train', 'test')
  )
  if train.images.shape[1:] != test.images.shape[1:]:
    raise ValueError(
      f'test_images: shape = {test.images.shape[1:]}; allowed: '
      f'{train.images.shape[1:]}, that of train_images'
    )
  num_classes = int(train.labels.max()) + 1
  class_names = tuple(str(number) for number in range(num_classes))
  source = 'the largest of train_labels plus one'
  if 'class_names' in arrays:
    names = arrays['class_names']
    if names.dtype.kind != 'U' or names.ndim != 1 or names.size == 0:
      raise ValueError(
        f'class_names: dtype = {names.dtype}, shape = {names.shape}; allowed: '
        'a list of strings, one per class'
      )
    class_names = tuple(str(name) for name in names)
    source = 'the length of class_names'
  for name, split in (('train', train), ('test', test)):
    if len(split.images) != len(split.labels):
      raise ValueError(
        f'{name}_images: {len(split.images)} images; allowed: as many as '
        f'{name}_labels has, {len(split.labels)}'
      )
    if split.labels.max() >= len(class_names):
      raise ValueError(
        f'{name}_labels: largest = {split.labels.max()}; allowed: '
        f'[0, {len(class_names)}), where {len(class_names)} is {source}'
      )
  return Dataset('npz', train, test, len(class_names), class_names)


def _check_images(field: str, images: np.ndarray) -> np.ndarray:
  """Returns the images as uint8 or float32 [N, H, W, C]."""
  if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
    raise ValueError(
      f'{field}: dtype = {images.dtype}; allowed: uint8 (0..255) and floating '
      '([0, 1])'
    )
  if images.ndim not in (3, 4) or images.size == 0:
    raise ValueError(
      f'{field}: shape = {images.shape}; allowed: [N, H, W] and [N, H, W, C], '
      'not empty'
    )
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if images.dtype == np.uint8:
    return images
  lowest, highest = float(images.min()), float(images.max())
  # Written so that NaN is refused, too.
  if not (lowest >= 0 and highest <= 1):
    raise ValueError(
      f'{field}: {images.dtype} in [{lowest}, {highest}]; allowed: in [0, 1] '
      '(or uint8 in 0..255)'
    )
  return images.astype(np.float32)


def _check_labels(field: str, labels: np.ndarray) -> np.ndarray:
  """Returns the labels as int32 [N]."""
  integer = np.issubdtype(labels.dtype, np.integer)
  if not integer or labels.ndim != 1 or labels.size == 0:
    raise ValueError(
      f'{field}: dtype = {labels.dtype}, shape = {labels.shape}; allowed: '
      'integers of shape [N], not empty'
    )
  lowest, highest = labels.min(), labels.max()
  if lowest < 0 or highest > np.iinfo(np.int32).max:
    raise ValueError(
      f'{field}: in [{lowest}, {highest}]; allowed: from 0 to the number of '
      'classes less one'
    )
  return labels.astype(np.int32)
