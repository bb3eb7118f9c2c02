"""What a data set is: two splits of NumPy arrays and the names of the classes.

Images stay as they are stored (uint8 takes a quarter of float32's memory, on
the host and on the device) and become float32 in [0, 1] where they are used.
"""

import numbers
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Characters that no font, no terminal and no UTF-8 file has.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')


class Split(NamedTuple):
  """Images and their labels, in a fixed order.

  Attributes:
    images: uint8 [N, H, W, C], or float32 [N, H, W, C] in [0, 1].
    labels: int32 [N].
  """

  images: np.ndarray
  labels: np.ndarray


class Dataset(NamedTuple):
  """A training and a test split of the same classes.

  Attributes:
    name: What it is called, in messages and reports.
    train: The split to train on.
    test: The split that only final numbers are computed on.
    num_classes: Labels are in [0, num_classes).
    class_names: One name per class, for people.
    class_ids: One id per class where classes have ids beside their names, such
      as WordNet's 'n02233338'; else empty.
  """

  name: str
  train: Split
  test: Split
  num_classes: int
  class_names: tuple[str, ...]
  class_ids: tuple[str, ...] = ()

  @property
  def warnings(self) -> list[str]:
    """Says which classes have no image; labels may count from 1."""
    found = []
    for split in ('train', 'test'):
      counts = np.bincount(getattr(self, split).labels)
      lacking = sorted({*range(self.num_classes)} - {*np.flatnonzero(counts)})
      if lacking:
        listed = ', '.join(repr(self.class_names[i]) for i in lacking[:5])
        more = f' and {len(lacking) - 5} more' if lacking[5:] else ''
        found.append(
          f'no {split} image of {len(lacking)} of {self.num_classes} classes: '
          f'{listed}{more} (labels count from 0)'
        )
    return found


def printable(name: str) -> str:
  """Returns a name that can be drawn and written, with escapes if need be."""
  return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], name)


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
  """Returns them `printable`; a ValueError for two that only look the same."""
  seen: dict[str, str] = {}
  for name in names:
    other = seen.setdefault(unicodedata.normalize('NFC', name), name)
    if other != name:
      raise ValueError(
        f'classes = {other!a}, {name!a}; allowed: names that differ in more '
        'than Unicode normalization'
      )
  return tuple(map(printable, names))


def to_float(images: Any) -> Any:
  """Returns images as float32 in [0, 1]: uint8 is scaled by 1 / 255.

  Args:
    images: A NumPy or JAX array, traced or not; uint8 in 0..255, or floating
      in [0, 1].

  Returns:
    The same kind of array, float32, of the same shape.

  Raises:
    ValueError: If the dtype is neither uint8 nor floating.

  Example:
    >>> import numpy as np
    >>> to_float(np.array([0, 255], np.uint8))
    array([0., 1.], dtype=float32)
  """
  if images.dtype == np.uint8:
    # XLA turns a division by 255 into this product, NumPy does not: written
    # out, both give the same bits.
    return images.astype(np.float32) * np.float32(1 / 255)
  # bfloat16 is no subtype of np.floating: it can only be told by its name.
  if np.issubdtype(images.dtype, np.floating) or images.dtype == 'bfloat16':
    return images.astype(np.float32)
  raise ValueError(
    f'images: dtype = {images.dtype}; allowed: uint8 (0..255) and floating '
    '([0, 1])'
  )


def holdout(
  num_images: int, num_validation: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses validation images: (rows to train on, rows held out), ascending.

  The choice is a function of the arguments alone.
  """
  if not 0 <= num_validation < num_images:
    raise ValueError(
      f'num_validation = {num_validation!r}; allowed: [0, {num_images}), where '
      f'{num_images} is the number of training images'
    )
  # RandomState's streams are frozen; those of default_rng may change.
  order = np.random.RandomState(seed).permutation(num_images).astype(np.int32)
  return np.sort(order[num_validation:]), np.sort(order[:num_validation])


def keep_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
  """Returns the images of some classes, in both splits and in their order.

  Label `classes[i]` becomes `i`, and keeps its name and its id.

  Args:
    dataset: Any data set.
    classes: Labels in [0, dataset.num_classes), two or more, each once.

  Returns:
    A data set of `len(classes)` classes; the arrays are copies.

  Raises:
    ValueError: If `classes` is not as above, or a split has none of them.

  Example:
    >>> import numpy as np
    >>> split = Split(np.zeros([4, 8, 8, 1], np.uint8), np.array([0, 1, 2, 2]))
    >>> dataset = Dataset('birds', split, split, 3, ('auk', 'jay', 'owl'))
    >>> kept = keep_classes(dataset, (2, 0))
    >>> kept.train.labels
    array([1, 0, 0], dtype=int32)
    >>> kept.class_names
    ('owl', 'auk')
  """
  valid = isinstance(classes, Sequence) and all(
    isinstance(label, numbers.Integral)
    and not isinstance(label, bool)
    and 0 <= label < dataset.num_classes
    for label in classes
  )
  if not valid or len(classes) < 2 or len(set(classes)) < len(classes):
    raise ValueError(
      f'classes = {classes!r}; allowed: two or more different labels of '
      f'{dataset.name!r}, from 0 to {dataset.num_classes - 1}'
    )
  new_labels = np.full(dataset.num_classes, -1, np.int32)
  new_labels[list(classes)] = np.arange(len(classes))

  def keep(split: Split, name: str) -> Split:
    labels = new_labels[split.labels]
    rows = np.flatnonzero(labels >= 0)
    if not rows.size:
      raise ValueError(
        f'classes = {classes!r}; allowed: classes of which the {name} split of '
        f'{dataset.name!r} has an image'
      )
    return Split(split.images[rows], labels[rows])

  return dataset._replace(
    train=keep(dataset.train, 'train'),
    test=keep(dataset.test, 'test'),
    num_classes=len(classes),
    class_names=tuple(dataset.class_names[label] for label in classes),
    class_ids=tuple(
      dataset.class_ids[label] for label in classes if dataset.class_ids
    ),
  )
