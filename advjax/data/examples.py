"""Data sets from arrays, or from items of another library, none imported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advjax.data.dataset import Dataset, Split, to_float

# Names of the image in an item that is a mapping; the label's is 'label'.
_IMAGES = ('image', 'img')


def from_examples(
  train: Any,
  test: Any,
  *,
  name: str = 'examples',
  class_names: Sequence[str] | None = None,
) -> Dataset:
  """Makes a data set of arrays, or of sequences of examples.

  A split is a tuple `(images, labels)` of arrays, or anything with `__len__`
  and `__getitem__` (torch's `Dataset`, one of Hugging Face,
  `tfds.data_source`) whose items are `(image, label)` or mappings with 'image'
  or 'img', and 'label'. An image is an array `[H, W]` or `[H, W, C]`, a PIL
  image or a torch tensor `[H, W]` or `[C, H, W]`: uint8, or floating in [0, 1].
  All are read at once, and have one shape.

  Args:
    train: The split to train on.
    test: The split that only final numbers are computed on.
    name: What the data set is called in reports.
    class_names: One per class; None: the numbers up to the largest training
      label.

  Returns:
    The data set; images are uint8 or float32 `[N, H, W, C]`.

  Raises:
    ValueError: if an image or a label is not as above, naming its index.

  Example:
    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> items = [{'image': images[0], 'label': 1}]
    >>> dataset = from_examples((images, np.array([0, 1, 0, 1])), items)
    >>> dataset.train.images.shape, dataset.test.labels, dataset.class_names
    ((4, 8, 8, 1), array([1], dtype=int32), ('0', '1'))
  """
  shape = None
  splits = []
  for field, given in (('train', train), ('test', test)):
    images, labels = [], []
    for where, image, label in _items(field, given):
      images.append(_image(where, image))
      shape = shape or (images[-1].shape, images[-1].dtype)
      if (images[-1].shape, images[-1].dtype) != shape:
        raise ValueError(
          f'{where}: shape = {images[-1].shape}, dtype = {images[-1].dtype}; '
          f'allowed: {shape[0]} and {shape[1]}, as train[0] has'
        )
      labels.append(_label(where, label))
    if not images:
      raise ValueError(f'{field}: 0 examples; allowed: one or more')
    splits.append(Split(np.stack(images), np.array(labels, np.int32)))
  names = class_names or map(str, range(splits[0].labels.max() + 1))
  dataset = Dataset(name, *splits, len(names := tuple(names)), names)
  for field, split in zip(('train', 'test'), splits, strict=True):
    for index in np.flatnonzero(split.labels >= dataset.num_classes)[:1]:
      raise ValueError(
        f'{field}[{index}]: label = {split.labels[index]}; allowed: from 0 to '
        f'{dataset.num_classes - 1}, the number of '
        f'{"class_names" if class_names else "training labels"} less one'
      )
  return dataset


def _items(field: str, given: Any) -> Iterator[tuple[str, Any, Any]]:
  """Yields where an example is, its image and its label."""
  if isinstance(given, tuple) and len(given) == 2:
    images, labels = given
    if not hasattr(images, 'permute'):  # Items of a JAX array are slow to take.
      images = np.asarray(images)
    if len(images) != len(labels):
      raise ValueError(
        f'{field}: {len(labels)} labels; allowed: as many as images, '
        f'{len(images)}'
      )
    for index in range(len(images)):
      yield f'{field}[{index}]', images[index], labels[index]
    return
  for index in range(len(given)):
    item, where = given[index], f'{field}[{index}]'
    if isinstance(item, Mapping):
      key = next((key for key in _IMAGES if key in item), None)
      if key is None or 'label' not in item:
        raise ValueError(
          f"{where}: keys = {sorted(item)}; allowed: 'image' or 'img', and "
          "'label'"
        )
      yield where, item[key], item['label']
    elif isinstance(item, tuple | list) and len(item) == 2:
      yield where, *item
    else:
      raise ValueError(
        f'{where}: {type(item).__name__}; allowed: (image, label), or a '
        "mapping with 'image' and 'label'"
      )


def _image(where: str, image: Any) -> np.ndarray:
  """Returns an image as uint8 or float32 `[H, W, C]`."""
  mode = getattr(image, 'mode', None)  # Of a PIL image.
  is_tensor = hasattr(image, 'permute')  # Of torch, with the channels first.
  array = np.asarray(image)
  if array.ndim == 2:
    array = array[..., np.newaxis]
  elif array.ndim == 3 and is_tensor:
    array = np.moveaxis(array, 0, -1)
  if array.ndim != 3 or not array.size or mode == 'P':
    raise ValueError(
      f'{where}: image of shape {array.shape}{f", mode {mode}" if mode else ""}'
      '; allowed: [H, W] and [H, W, C], of torch tensors [C, H, W], of PIL '
      'images L and RGB'
    )
  if array.dtype == np.uint8:
    return array
  try:
    array = to_float(array)
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
  lowest, highest = float(array.min()), float(array.max())
  if not (lowest >= 0 and highest <= 1):  # NaN is refused, too.
    raise ValueError(
      f'{where}: image in [{lowest}, {highest}]; allowed: in [0, 1], or uint8'
    )
  return array


def _label(where: str, label: Any) -> int:
  array = np.asarray(label)
  if array.ndim or array.dtype.kind not in 'iu' or not 0 <= array < 2**31:
    raise ValueError(
      f'{where}: label = {label!r}; allowed: an integer from 0 to the number '
      'of classes less one'
    )
  return int(array)
