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

import numpy as np
from numpy.lib.npyio import NpzFile

from advjax.data.dataset import Dataset, Split

_REQUIRED = ('train_images', 'train_labels', 'test_images', 'test_labels')


def load(path: str) -> Dataset:
  """Loads and checks the arrays of a .npz file, of the fields above.

  Returns:
    The data set; floating images as float32, labels as int32. Without
    `class_names` there are as many classes as the largest training label says,
    named by their numbers.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If anything in it is not as it should be; the message names the
      file, the field, the value and what is allowed.
  """
  arrays = _read(path)
  try:
    return _check(arrays)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _read(path: str) -> dict[str, np.ndarray]:
  """Reads the arrays of the file, without unpickling anything."""
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{path}: there is no such file; write one with numpy.savez (fields '
      f"{', '.join(_REQUIRED)}), or use the embedded data with name='digits'"
    )
  unreadable = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
  # Opened here: numpy leaves a file open that it can make nothing of.
  with open(path, 'rb') as stream:
    try:
      archive = np.load(stream, allow_pickle=False)
    except unreadable as error:
      raise ValueError(
        f'{path}: invalid or truncated .npz file ({error}); write it with '
        'numpy.savez'
      ) from error
    if not isinstance(archive, NpzFile):
      raise ValueError(f'{path}: a single array; allowed: an .npz file')
    fields = set(archive.files)
    if not fields.issuperset(_REQUIRED):
      raise ValueError(
        f'{path}: lacks {", ".join(f for f in _REQUIRED if f not in fields)}; '
        f'it holds {", ".join(sorted(fields)) or "nothing"}'
      )
    arrays = {}
    for field in sorted(fields.intersection([*_REQUIRED, 'class_names'])):
      try:
        arrays[field] = archive[field]
      except unreadable as error:
        raise ValueError(
          f'{path}: {field} cannot be read ({error}); allowed: a plain array, '
          'not pickled and not truncated'
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
      f'test_images have shape {list(test.images.shape[1:])}; allowed: that of '
      f'train_images, {list(train.images.shape[1:])}'
    )
  if 'class_names' in arrays:
    names = arrays['class_names']
    if names.dtype.kind != 'U' or names.ndim != 1 or names.size == 0:
      raise ValueError(
        f'class_names is {names.dtype} of shape {list(names.shape)}; allowed: '
        'a list of strings, one per class'
      )
    class_names = tuple(str(name) for name in names)
    source = 'the length of class_names'
  else:
    num_classes = int(train.labels.max()) + 1
    class_names = tuple(str(number) for number in range(num_classes))
    source = 'the largest of train_labels plus one'
  for name, split in (('train', train), ('test', test)):
    if len(split.images) != len(split.labels):
      raise ValueError(
        f'{name}_images holds {len(split.images)} images, but {name}_labels '
        f'{len(split.labels)} labels; allowed: as many'
      )
    if split.labels.max() >= len(class_names):
      raise ValueError(
        f'{name}_labels holds {split.labels.max()}; allowed: '
        f'[0, {len(class_names)}), where {len(class_names)} is {source}'
      )
  return Dataset('npz', train, test, len(class_names), class_names)


def _check_images(field: str, images: np.ndarray) -> np.ndarray:
  """Returns the images as uint8 or float32 [N, H, W, C]."""
  if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
    raise ValueError(
      f'{field} is {images.dtype}; allowed: uint8 (0..255) and floating '
      '([0, 1])'
    )
  if images.ndim not in (3, 4) or images.size == 0:
    raise ValueError(
      f'{field} has shape {list(images.shape)}; allowed: [N, H, W] and '
      '[N, H, W, C], not empty'
    )
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if images.dtype == np.uint8:
    return images
  lowest, highest = images.min(), images.max()
  # Written so that NaN is refused, too.
  if not (lowest >= 0 and highest <= 1):
    raise ValueError(
      f'{field} is {images.dtype} in [{lowest}, {highest}]; allowed: [0, 1] '
      '(or uint8 in 0..255)'
    )
  return images.astype(np.float32)


def _check_labels(field: str, labels: np.ndarray) -> np.ndarray:
  """Returns the labels as int32 [N]."""
  integer = np.issubdtype(labels.dtype, np.integer)
  if not integer or labels.ndim != 1 or labels.size == 0:
    raise ValueError(
      f'{field} is {labels.dtype} of shape {list(labels.shape)}; allowed: '
      'integers of shape [N], not empty'
    )
  lowest, highest = labels.min(), labels.max()
  if lowest < 0 or highest > np.iinfo(np.int32).max:
    raise ValueError(
      f'{field} is in [{lowest}, {highest}]; allowed: 0 to the number of '
      'classes less one'
    )
  return labels.astype(np.int32)
