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

import numpy as np

from advjax.data.dataset import Dataset
from advjax.data.examples import from_examples
from advjax.files import expand, read_npz

_REQUIRED = ('train_images', 'train_labels', 'test_images', 'test_labels')


def load(path: str) -> Dataset:
  """Loads images as they are or as float32, and labels as int32.

  Without `class_names` there are as many classes as the largest training label
  says, named by their numbers.
  """
  path = str(expand(path))
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{path}: there is no such file; write one with numpy.savez (fields '
      f"{', '.join(_REQUIRED)}), or use the embedded data with name='digits'"
    )
  arrays = read_npz(path, (*_REQUIRED, 'class_names'))
  try:
    if lacking := [field for field in _REQUIRED if field not in arrays]:
      with zipfile.ZipFile(path) as archive:
        there = sorted(n.removesuffix('.npy') for n in archive.namelist())
      raise ValueError(
        f'lacks {", ".join(lacking)}; it holds {", ".join(there) or "nothing"}'
      )
    return from_examples(
      (arrays['train_images'], arrays['train_labels']),
      (arrays['test_images'], arrays['test_labels']),
      name='npz',
      class_names=_names(arrays.get('class_names')),
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _names(names: np.ndarray | None) -> list[str] | None:
  if names is None:
    return None
  if names.dtype.kind != 'U' or names.ndim != 1 or names.size == 0:
    raise ValueError(
      f'class_names: dtype = {names.dtype}, shape = {names.shape}; allowed: a '
      'list of strings, one per class'
    )
  return names.tolist()
