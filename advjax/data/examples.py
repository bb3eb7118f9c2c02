"""Your own images: arrays, or the items of other libraries, none imported."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from advjax import _arguments as arguments
from advjax.data.dataset import Dataset, Split, check_class_names

# Without names; larger labels are ids, not classes.
_MAX_CLASSES = 1 << 20


def from_examples(
  train: Any,
  test: Any,
  *,
  name: str = 'examples',
  class_names: Sequence[str] | None = None,
) -> Dataset:
  """Makes a data set of arrays, or of sequences of examples.

  A split is a tuple `(images, labels)` of arrays, or has `__len__` and
  `__getitem__` (a `Dataset` of torch or Hugging Face, `tfds.data_source`), and
  items `(image, label)` or mappings with 'image' or 'img', and 'label'. All are
  read at once. Images are uint8, or floating in [0, 1], of one shape.

  Args:
    train: To train on; images `[H, W, C]` or `[H, W]`, torch tensors
      `[C, H, W]`, PIL images; labels are integers from 0.
    test: The same, that only final numbers are computed on.
    name: What the data set is called in reports.
    class_names: One per class; None: numbers up to the largest training label.

  Returns:
    The data set; images are uint8 or float32 `[N, H, W, C]`.

  Raises:
    ValueError: if anything is not as above, with the index of the item.

  Example:
    >>> images = np.zeros((4, 8, 8), np.uint8)
    >>> items = [{'image': images[0], 'label': 1}]
    >>> dataset = from_examples((images, np.array([0, 1, 0, 1])), items)
    >>> dataset.train.images.shape, dataset.test.labels, dataset.class_names
    ((4, 8, 8, 1), array([1], dtype=int32), ('0', '1'))
  """
  train, test = _split('train', train), _split('test', test)
  if train.images.shape[1:] != test.images.shape[1:]:
    raise ValueError(
      f'test_images: shape = {test.images.shape[1:]}; allowed: '
      f'{train.images.shape[1:]}, that of train_images'
    )
  if class_names is None:
    source = f'the largest of train_labels plus one (at most {_MAX_CLASSES})'
    count = min(int(train.labels.max()) + 1, _MAX_CLASSES)
  else:
    source, count = 'the length of class_names', len(class_names)
  for field, (_, labels) in (('train', train), ('test', test)):
    wrong = labels.argmin() if labels.min() < 0 else labels.argmax()
    if not 0 <= labels[wrong] < count:
      raise ValueError(
        f'{field}_labels[{wrong}] = {labels[wrong]}; allowed: [0, {count}), '
        f'where {count} is {source}'
      )
  train, test = (
    split._replace(labels=split.labels.astype(np.int32))
    for split in (train, test)
  )
  names = range(count) if class_names is None else class_names
  class_names = check_class_names([*map(str, names)])
  return Dataset(name, train, test, count, class_names)


def as_dataset(
  given: Any, source: str = 'dataset =', name: str = 'examples'
) -> Dataset:
  """Returns a user's `Dataset`, or pair of splits, checked."""
  if not isinstance(given, Dataset):
    if not isinstance(given, tuple | list) or len(given) != 2:
      raise ValueError(
        f'{source} {type(given).__name__}; allowed: a Dataset, or (train, '
        'test) as from_examples takes them'
      )
    return from_examples(*given, name=name)
  if given.num_classes != len(given.class_names):
    raise ValueError(
      f'num_classes = {given.num_classes}; allowed: the length of class_names, '
      f'{len(given.class_names)}'
    )
  made = from_examples(
    given.train, given.test, name=given.name, class_names=given.class_names
  )
  return made._replace(class_ids=given.class_ids)


def _split(field: str, given: Any) -> Split:
  sized = hasattr(given, '__len__') and hasattr(given, '__getitem__')
  wrong = isinstance(given, tuple) and len(given) != 2
  if not sized or wrong or isinstance(given, Mapping):
    count = f' of {len(given)}' if sized else ''
    raise ValueError(
      f'{field} = {type(given).__name__}{count}; allowed: (images, labels), or '
      'a sequence of examples'
    )
  if not isinstance(given, tuple):
    given = _gather(field, given)
  images, labels = map(_as_array, (f'{field}_images', f'{field}_labels'), given)
  images = _check_images(f'{field}_images', _channels_last(given[0], images, 4))
  arguments.check_labels(f'{field}_labels', labels, len(images))
  return Split(images, labels)


def _gather(field: str, examples: Any) -> tuple[np.ndarray, np.ndarray]:
  """Stacks the images and labels of all examples."""
  images: list[np.ndarray] = []
  labels = []
  for index in range(len(examples)):
    item = examples[index]
    if isinstance(item, Mapping):
      item = [item[key] for key in ('image', 'img', 'label') if key in item]
    if not isinstance(item, tuple | list) or len(item) != 2:
      raise ValueError(
        f'{field}[{index}]: {type(examples[index]).__name__}; allowed: (image, '
        "label), or a mapping with 'image' or 'img', and 'label'"
      )
    if getattr(item[0], 'mode', None) == 'P':  # Of PIL: indices of colours.
      raise ValueError(f"{field}[{index}]: mode = 'P'; allowed: L, RGB")
    image = _as_array(f'{field}[{index}]', item[0])
    image = _channels_last(item[0], image, 3)
    first = images[0] if images else image
    if (image.shape, image.dtype) != (first.shape, first.dtype):
      raise ValueError(
        f'{field}[{index}]: {image.dtype} {image.shape}; allowed: '
        f'{first.dtype} {first.shape}, as in {field}[0]'
      )
    label = np.asarray(item[1])
    if label.shape or label.dtype.kind not in 'iu':
      raise ValueError(
        f'{field}[{index}]: label = {item[1]!r}; allowed: an integer'
      )
    images.append(image)
    labels.append(label)
  return np.array(images), np.array(labels, int)


def _as_array(field: str, given: Any) -> np.ndarray:
  try:
    return np.asarray(given)
  except (ValueError, TypeError) as error:  # Of rows of several lengths.
    raise ValueError(f'{field}: {error}; allowed: an array') from error


def _channels_last(images: Any, array: np.ndarray, ndim: int) -> np.ndarray:
  """Moves the channels of torch's tensors to the end."""
  is_tensor = hasattr(images, 'permute') and array.ndim == ndim
  return np.moveaxis(array, -3, -1) if is_tensor else array


def _check_images(field: str, images: np.ndarray) -> np.ndarray:
  """Returns the images as uint8 or float32 [N, H, W, C]."""
  # Of bfloat16, too.
  floating = jnp.issubdtype(images.dtype, jnp.floating)
  if images.dtype != np.uint8 and not floating:
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
  if images.shape[1] <= 4 < images.shape[3]:
    raise ValueError(
      f'{field}: shape = {images.shape}; allowed: [N, H, W, C], channels last: '
      'images.transpose(0, 2, 3, 1)'
    )
  if images.dtype == np.uint8:
    return images
  # Written so that NaN is refused, too.
  good = ((images >= 0) & (images <= 1)).all(axis=(1, 2, 3))
  if not good.all():
    index = good.argmin()
    lowest, highest = float(images[index].min()), float(images[index].max())
    raise ValueError(
      f'{field}[{index}]: {images.dtype} in [{lowest}, {highest}]; allowed: in '
      '[0, 1] (or uint8 in 0..255)'
    )
  return images.astype(np.float32)
