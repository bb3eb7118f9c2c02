"""A prepared set of TensorFlow Datasets: opened, checked, read, decoded.

TFDS finds the records and takes them apart; the images are decoded here.
"""

import importlib.util
import itertools
import json
import logging
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tqdm

from advjax.data import prepared
from advjax.data.decode import decode_blocks

logger = logging.getLogger(__name__)

ARRAY_RECORD = 'array_record'
# One by one, reading takes ten times as long.
_BLOCK = 1000


class Features(NamedTuple):
  """Which features of a set are used, and how.

  Attributes:
    image: The name of the image.
    label: The name of its label.
    channels: Of the images.
    class_names: One name per class.
    undecoded: The names of all images, which TFDS is not to decode.
  """

  image: str
  label: str
  channels: int
  class_names: tuple[str, ...]
  undecoded: tuple[str, ...]


def has_tensorflow() -> bool:
  """Returns whether TensorFlow is installed; imports nothing."""
  return importlib.util.find_spec('tensorflow') is not None


def install_command() -> str:
  """Returns the command that installs what preparing a set takes."""
  return f'{sys.executable} -m pip install tensorflow-cpu importlib_resources'


def open_set(folder: pathlib.Path) -> Any:
  """Opens a prepared set.

  Args:
    folder: Of one version.

  Returns:
    Its `tfds.core.DatasetBuilder`, in array_record if it comes in that.

  Raises:
    ValueError: If its description is damaged, or it takes TensorFlow to read
      and there is none.
  """
  import tensorflow_datasets as tfds

  try:
    # What TFDS raises for broken JSON is an exception of another package.
    for name in prepared.DESCRIPTIONS:
      json.loads((folder / name).read_text())
    builder = tfds.builder_from_directory(folder)
    formats = {item.value for item in builder.info.available_file_formats()}
    if ARRAY_RECORD in formats:
      builder = tfds.builder_from_directory(folder, file_format=ARRAY_RECORD)
  except (ValueError, KeyError) as error:
    raise ValueError(
      f'{folder}: dataset_info.json or features.json is damaged or of an '
      f'unknown kind ({error}); copy the set again'
    ) from error
  except ImportError as error:
    raise ValueError(
      f'{folder}: this set has features that TFDS cannot read without another '
      f'package ({error}); is it an image-classification set?'
    ) from error
  if ARRAY_RECORD not in formats and not has_tensorflow():
    raise ValueError(
      f'{folder}: this set was prepared as {" and ".join(sorted(formats))}, '
      'which takes TensorFlow to read. Two ways out: install it '
      f'({install_command()}); or prepare the set anew, in another data_dir, '
      "by download_and_prepare(file_format='array_record')"
    )
  return builder


# ------------------------------------------------------------------ checking


def find_features(builder: Any, folder: pathlib.Path) -> Features:
  """Finds the image and the label: the set's own choice, or the only ones.

  Args:
    builder: From `open_set`.
    folder: Where it is, for messages.

  Returns:
    What to read.

  Raises:
    ValueError: If there are none or several, or the images are not uint8
      [H, W, C].
  """
  import tensorflow_datasets as tfds

  features = builder.info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    raise ValueError(f'{folder}: a set with named features is needed')
  by_kind = {
    kind: [name for name, feature in features.items() if type(feature) is kind]
    for kind in (tfds.features.Image, tfds.features.ClassLabel)
  }
  chosen = []
  supervised = builder.info.supervised_keys or (None, None)
  for (kind, names), preferred in zip(
    by_kind.items(), supervised[:2], strict=True
  ):
    if len(names) != 1 and preferred not in names:
      listed = ', '.join(
        f'{name} ({type(feature).__name__})'
        for name, feature in features.items()
      )
      raise ValueError(
        f'{folder}: an image-classification set is needed, with one '
        f'{kind.__name__} feature; this one has {len(names) or "none"}: '
        f'{listed}'
      )
    chosen.append(preferred if preferred in names else names[0])
  image, label = features[chosen[0]], features[chosen[1]]
  if np.dtype(image.np_dtype) != np.uint8:
    raise ValueError(
      f'{folder}: {chosen[0]} is {np.dtype(image.np_dtype)}; allowed are '
      'images of 8 bits, uint8'
    )
  if len(image.shape) != 3 or image.shape[-1] not in (1, 2, 3, 4):
    raise ValueError(
      f'{folder}: {chosen[0]} is of shape {image.shape}; allowed is (height, '
      'width, channels) with 1 to 4 channels'
    )
  if not label.num_classes:
    raise ValueError(f'{folder}: {chosen[1]} does not say how many classes')
  return Features(
    image=chosen[0],
    label=chosen[1],
    channels=image.shape[-1],
    class_names=tuple(label.names),
    undecoded=tuple(by_kind[tfds.features.Image]),
  )


def check_split(builder: Any, field: str, split: str) -> int:
  """Checks a split before it is read.

  Args:
    builder: From `open_set`.
    field: The config field that names the split, for messages.
    split: A split, slice or sum of them, as TFDS writes it.

  Returns:
    The number of its images.

  Raises:
    ValueError: If it is unknown or empty, or some of its files are missing.
  """
  splits = builder.info.splits
  try:
    chosen = splits[split]
    instructions = list(chosen.file_instructions)
  except (ValueError, KeyError) as error:
    listed = [f'{name} ({splits[name].num_examples:,})' for name in splits]
    reason = str(error).strip().split('\n')[-1].strip('"')
    raise ValueError(
      f'{field} = {split!r}: {reason} {builder.info.full_name} has the splits '
      f'{", ".join(listed) or "none"}; slices and sums are written like '
      "'train[:90%]' and 'train+test[:100]'"
    ) from error
  if not instructions or any(part.take < 1 for part in instructions):
    raise ValueError(f'{field} = {split!r} selects no image')
  files = [pathlib.Path(part.filename) for part in instructions]
  absent = sorted({file.name for file in files if not file.is_file()})
  if absent:
    shown = ', '.join(absent[:3]) + (', ...' if len(absent) > 3 else '')
    raise ValueError(
      f'{builder.data_dir}: this set is incomplete, {len(absent)} of the files '
      f'of {field} = {split!r} are missing ({shown}); copy or prepare it again'
    )
  return chosen.num_examples


# ------------------------------------------------------------------- reading


def decode(
  builder: Any, features: Features, split: str, num_images: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Reads and decodes a split in its order, under a progress bar.

  Args:
    builder: From `open_set`.
    features: From `find_features`.
    split: A split that `check_split` has passed.
    num_images: What it returned.

  Yields:
    Pairs of uint8 [B, H, W, C] and int32 [B].

  Raises:
    ValueError: If a file or an image cannot be read, images have several
      sizes, or there are not as many as promised.
  """
  name = f'{builder.info.full_name} {split}'
  logger.info('decoding %s once: %s images', name, f'{num_images:,}')
  blocks = decode_blocks(
    _read(builder, features, split),
    features.channels,
    len(features.class_names),
    name,
  )
  with tqdm.tqdm(
    total=num_images,
    desc=f'decoding {name}',
    unit=' images',
    disable=not sys.stderr.isatty(),
    dynamic_ncols=True,
  ) as bar:
    count = 0
    for images, labels in blocks:
      yield images, labels
      count += len(labels)
      bar.update(len(labels))
  if count != num_images:
    raise ValueError(
      f'{builder.data_dir}: split {split!r} holds {count:,} images, not '
      f'{num_images:,}, as dataset_info.json says; copy or prepare it again'
    )


def _read(
  builder: Any, features: Features, split: str
) -> Iterator[tuple[list[bytes], list[int]]]:
  """Yields a split's image files and labels in blocks."""
  is_array_record = builder.info.file_format.value == ARRAY_RECORD
  read = _read_array_record if is_array_record else _read_by_tensorflow
  for records in read(builder, features, split):
    yield (
      [record[features.image] for record in records],
      [int(record[features.label]) for record in records],
    )


def _read_array_record(
  builder: Any, features: Features, split: str
) -> Iterator[list[Any]]:
  import tensorflow_datasets as tfds

  skip = {name: tfds.decode.SkipDecoding() for name in features.undecoded}
  try:
    source = builder.as_data_source(split, decoders=skip)
    for start in range(0, len(source), _BLOCK):
      rows = range(start, min(start + _BLOCK, len(source)))
      yield source.__getitems__(list(rows))
  # What array_record raises for a file that is cut off or changed.
  except (RuntimeError, IndexError) as error:
    raise _unreadable(builder, split, error) from error


def _read_by_tensorflow(
  builder: Any, features: Features, split: str
) -> Iterator[list[Any]]:
  import tensorflow as tf
  import tensorflow_datasets as tfds

  skip = {name: tfds.decode.SkipDecoding() for name in features.undecoded}
  # One shard after the other: the order of the split, as array_record has it.
  in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
  try:
    records = iter(
      tfds.as_numpy(
        builder.as_dataset(split=split, decoders=skip, read_config=in_order)
      )
    )
    while block := list(itertools.islice(records, _BLOCK)):
      yield block
  except tf.errors.OpError as error:
    raise _unreadable(builder, split, error) from error


def _unreadable(builder: Any, split: str, error: Exception) -> ValueError:
  return ValueError(
    f'{builder.data_dir}: the files of split {split!r} cannot be read '
    f'({error}); copy or prepare the set again'
  )
