"""Bring your own arrays: one .npz file that holds both splits.

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
_OPTIONAL = ('class_names',)


def load(path: str) -> Dataset:
  """Loads and checks the arrays of a .npz file.

  Args:
    path: The file. Its fields are in this module's docstring.

  Returns:
    The data set; floating images as float32. Without `class_names` there are
    as many classes as the largest training label says, named by their numbers.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If anything in it is not as it should be; the message names the
      file, the field, the value and what is allowed.
  """
  arrays = _read(path)
  splits = {
    name: Split(
      _check_images(path, f'{name}_images', arrays[f'{name}_images']),
      _check_labels(path, f'{name}_labels', arrays[f'{name}_labels']),
    )
    for name in ('train', 'test')
  }
  for name, split in splits.items():
    if len(split.images) != len(split.labels):
      raise ValueError(
        f'{path}: {name}_images holds {len(split.images)} images, but '
        f'{name}_labels {len(split.labels)} labels; they must be as many'
      )
  train, test = splits['train'], splits['test']
  if train.images.shape[1:] != test.images.shape[1:]:
    raise ValueError(
      f'{path}: test_images are of shape {list(test.images.shape[1:])}, but '
      f'train_images of {list(train.images.shape[1:])}; they must be the same'
    )
  if 'class_names' in arrays:
    class_names = _check_class_names(path, arrays['class_names'])
    source = 'the length of class_names'
  else:
    num_classes = int(train.labels.max()) + 1
    class_names = tuple(str(number) for number in range(num_classes))
    source = 'the largest of train_labels plus one'
  for name, split in splits.items():
    if split.labels.max() >= len(class_names):
      raise ValueError(
        f'{path}: {name}_labels holds {split.labels.max()}, outside '
        f'[0, {len(class_names)}), where {len(class_names)} is {source}'
      )
  return Dataset('npz', train, test, len(class_names), class_names)


def _read(path: str) -> dict[str, np.ndarray]:
  """Reads the arrays of the file, without unpickling anything."""
  if not path:
    raise ValueError(
      f'path: {path!r} names no file; the npz data set needs a .npz file with '
      f'the fields {", ".join(_REQUIRED)}'
    )
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{path}: there is no such file; write one with numpy.savez (fields '
      f"{', '.join(_REQUIRED)}), or use the embedded data with name='digits'"
    )
  # Opened here: numpy leaves a file open that it can make nothing of.
  with open(path, 'rb') as stream:
    archive = _open(path, stream)
    missing = [field for field in _REQUIRED if field not in archive.files]
    if missing:
      raise ValueError(
        f'{path}: lacks {", ".join(missing)}; it holds '
        f'{", ".join(sorted(archive.files)) or "nothing"}'
      )
    fields = [f for f in (*_REQUIRED, *_OPTIONAL) if f in archive.files]
    return {field: _read_field(path, archive, field) for field in fields}


def _open(path: str, stream: BinaryIO) -> NpzFile:
  """Opens the archive without reading its arrays."""
  try:
    archive = np.load(stream, allow_pickle=False)
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(
      f'{path}: this is no whole .npz file as numpy.savez writes it ({error})'
    ) from error
  if not isinstance(archive, NpzFile):
    raise ValueError(
      f'{path}: this is a single array, not a .npz file of numpy.savez'
    )
  return archive


def _read_field(path: str, archive: NpzFile, field: str) -> np.ndarray:
  """Reads one array of the archive."""
  try:
    return archive[field]
  except ValueError as error:
    # What numpy says when pickles are not allowed, and of broken headers.
    raise ValueError(
      f'{path}: {field} cannot be read without unpickling Python objects, '
      f'which is refused; save plain arrays ({error})'
    ) from error
  except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
      f'{path}: {field} is damaged or cut off ({error})'
    ) from error


def _check_images(path: str, field: str, images: np.ndarray) -> np.ndarray:
  """Returns the images as uint8 or float32 [N, H, W, C], or raises."""
  if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
    raise ValueError(
      f'{path}: {field} is {images.dtype}; allowed are uint8 (0..255) and '
      'floating ([0, 1])'
    )
  if images.ndim not in (3, 4):
    raise ValueError(
      f'{path}: {field} has shape {list(images.shape)}; allowed are '
      '[N, H, W] and [N, H, W, C]'
    )
  if images.size == 0:
    raise ValueError(
      f'{path}: {field} has shape {list(images.shape)}, so it is empty; at '
      'least one image is needed'
    )
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if images.dtype == np.uint8:
    return images
  if not np.isfinite(images).all():
    raise ValueError(
      f'{path}: {field} holds NaN or infinite values; allowed is [0, 1]'
    )
  if images.min() < 0 or images.max() > 1:
    raise ValueError(
      f'{path}: {field} is {images.dtype} in [{images.min()}, '
      f'{images.max()}]; allowed is [0, 1] (or uint8 in 0..255)'
    )
  return images.astype(np.float32)


def _check_labels(path: str, field: str, labels: np.ndarray) -> np.ndarray:
  """Returns the labels as int32 [N], none negative, or raises."""
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'{path}: {field} is {labels.dtype}; allowed are integers')
  if labels.ndim != 1:
    raise ValueError(
      f'{path}: {field} has shape {list(labels.shape)}; allowed is [N]'
    )
  if labels.size == 0:
    raise ValueError(f'{path}: {field} is empty; at least one is needed')
  if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
    wrong = labels.min() if labels.min() < 0 else labels.max()
    raise ValueError(
      f'{path}: {field} holds {wrong}; allowed is 0 to the number of classes '
      'less one'
    )
  return labels.astype(np.int32)


def _check_class_names(path: str, names: np.ndarray) -> tuple[str, ...]:
  """Returns the names of the classes, or raises."""
  if names.dtype.kind != 'U' or names.ndim != 1 or names.size == 0:
    raise ValueError(
      f'{path}: class_names is {names.dtype} of shape {list(names.shape)}; '
      'allowed is a list of strings, one per class'
    )
  return tuple(str(name) for name in names)
