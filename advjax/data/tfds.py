"""Any image-classification set of TensorFlow Datasets, without TensorFlow.

  --config.dataset.name=tfds --config.dataset.builder=mnist \\
    --config.dataset.data_dir=DIR

A set prepared as array_record is read as it is. TensorFlow is needed once to
download and prepare a set that is not there, and to read one that was prepared
in another format; it is imported for nothing else. Images are decoded once and
then memory-mapped (`advjax.data.cache`), by Pillow in every case, so that the
same set gives the same pixels however it was prepared. Where all is decoded,
TFDS is not even imported: that would take longer than the rest.
"""

import contextlib
import fnmatch
import importlib.util
import json
import logging
import os
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np

from advjax.data import cache
from advjax.data.dataset import Dataset, Split, check_class_names
from advjax.data.decode import NoImage, decode_image
from advjax.files import expand

logger = logging.getLogger(__name__)

_NAME = re.compile(
  r'(?P<name>[a-z]\w*)'
  r'(/(?P<config>[\w.-]+))?'
  r'(:(?P<version>(\d+|\*)\.(\d+|\*)\.(\d+|\*)))?'
)
_VERSION = re.compile(r'\d+\.\d+\.\d+')
# What every prepared set has beside its records.
_FILES = ('dataset_info.json', 'features.json')
_ARRAY_RECORD = 'array_record'
# One by one, reading takes ten times as long.
_BLOCK = 1000
_INSTALL = f'{sys.executable} -m pip install tensorflow-cpu importlib_resources'


def load(
  builder: str,
  data_dir: str | None = None,
  train_split: str = 'train',
  test_split: str = 'test',
  cache_dir: str | None = None,
) -> Dataset:
  """Loads uint8 images [N, H, W, C], memory-mapped and read-only."""
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  root = expand(default if data_dir is None else data_dir).absolute()
  if data_dir is not None and not (data_dir and root.is_dir()):
    raise ValueError(
      f'data_dir = {data_dir!r}; allowed: the folder that holds the sets '
      '(DATA_DIR/mnist/3.0.1/...); to download a set into a new folder, make '
      'the folder first'
    )
  folder = _find_or_prepare(builder, root).resolve()
  name = builder.partition('/')[0].partition(':')[0]
  files = sorted(
    [file.name, file.stat().st_size, file.stat().st_mtime_ns]
    for file in list(os.scandir(folder))
    if file.is_file() and not file.name.startswith('.')
  )
  splits = {'train_split': train_split, 'test_split': test_split}
  paths = [
    cache.entry_path(cache_dir, f'{name}-{split}', f'{folder}\n{split}', files)
    for split in splits.values()
  ]
  entries = [entry for path in paths if (entry := cache.read(path))]
  if len(entries) < 2:
    # Everything is checked before the first image is decoded.
    prepared = _open(folder)
    keys = _find_features(prepared, folder)
    info = {'class_names': prepared.info.features[keys[1]].names}
    sizes = [_check_split(prepared, *item) for item in splits.items()]
    entries = []
    for path, split, size in zip(paths, splits.values(), sizes, strict=True):
      images = _decode(prepared, keys, split, size)
      full_name = f'{prepared.info.full_name} {split}'
      entries.append(cache.write(path, images, size, info, full_name))
  train, test = (Split(entry.images, entry.labels) for entry in entries)
  if train.images.shape[1:] != test.images.shape[1:]:
    raise ValueError(
      f'test_split = {test_split!r} with images of shape '
      f'{test.images.shape[1:]}; allowed: that of train_split = '
      f'{train_split!r}, {train.images.shape[1:]}'
    )
  class_names = check_class_names(entries[0].info['class_names'])
  return Dataset(name, train, test, len(class_names), class_names)


def _prepared(data_dir: pathlib.Path, name: str = '*') -> list[pathlib.Path]:
  """Returns DATA_DIR/NAME[/CONFIG]/VERSION for all there are, ascending."""
  found = [*data_dir.glob(f'{name}/*'), *data_dir.glob(f'{name}/*/*')]
  folders = [f for f in found if _VERSION.fullmatch(f.name) and f.is_dir()]
  return sorted(
    folders, key=lambda f: (f.parent, [int(n) for n in f.name.split('.')])
  )


def _find_or_prepare(builder: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the newest version of a set that matches."""
  parts = _NAME.fullmatch(builder)
  if not parts:
    raise ValueError(
      f'builder = {builder!r}; allowed: NAME[/CONFIG][:VERSION] as TFDS writes '
      "it, such as 'mnist', 'mnist:3.0.1' or 'cifar10_corrupted/fog_3'"
    )
  name, config, version = parts.group('name', 'config', 'version')
  folders = _prepared(data_dir, name)
  root = data_dir / name
  if config is None and root not in [folder.parent for folder in folders]:
    # The config that TFDS takes where none is named.
    with contextlib.suppress(OSError, json.JSONDecodeError):
      text = (root / '.config' / 'metadata.json').read_text()
      config = json.loads(text).get('default_config_name')
  for folder in reversed(folders):
    of_config = folder.parent == (root / config if config else root)
    if of_config and fnmatch.fnmatch(folder.name, version or '*'):
      if lacks := [n for n in _FILES if not (folder / n).is_file()]:
        raise ValueError(
          f'{folder}: this set is incomplete, it lacks {", ".join(lacks)}; '
          'copy it again, or move the folder away and prepare the set again'
        )
      return folder
  for above in data_dir.parents[:3]:
    if data_dir.is_relative_to(above / name) and _prepared(above, name):
      raise ValueError(
        f'data_dir = {str(data_dir)!r}; allowed: the folder that holds the '
        f'sets, {str(above)!r}, not one inside of a set'
      )
  there = [
    f'{f.parent.relative_to(data_dir)}:{f.name}' for f in _prepared(data_dir)
  ]
  missing = (
    f'builder = {builder!r}; allowed: a set that was prepared in {data_dir}: '
    f'{", ".join(there) or "none"}'
  )
  ways_out = (
    'Set config.dataset.data_dir to a folder that contains it; or let TFDS '
    'download and prepare it, which needs network access and, once, '
    f'TensorFlow ({_INSTALL}). Your own arrays need neither: '
    "dataset.name='npz'"
  )
  # Other versions or configs that are there are more likely meant.
  if folders or not _has_tensorflow():
    raise ValueError(f'{missing}. {ways_out}')
  logger.info('%s is not in %s: preparing it', builder, data_dir)
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download import download_manager, util

  try:
    made = tfds.builder(builder, data_dir=data_dir, file_format=_ARRAY_RECORD)
    _check_network(made)
    made.download_and_prepare()
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(f'{missing}, or one of TFDS') from error
  # Of networks, of files that moved or changed, of sets to be downloaded by
  # hand, and of packages that a set needs.
  except (
    OSError,
    AssertionError,
    ImportError,
    util.DownloadError,
    download_manager.NonMatchingChecksumError,
  ) as error:
    reason = str(error).strip().split('\n')[0] or type(error).__name__
    raise ValueError(
      f'{missing}, and TFDS could not prepare it ({reason}). {ways_out}'
    ) from error
  return pathlib.Path(made.data_dir)


def _has_tensorflow() -> bool:
  return importlib.util.find_spec('tensorflow') is not None


def _check_network(builder: Any) -> None:
  """Raises an OSError if no host of a set is there: TFDS tries minutes."""
  by_host = {
    urllib.parse.urlsplit(url).netloc: url
    for url in builder.url_infos or ()
    if url.startswith('http')
  }
  for url in by_host.values():
    request = urllib.request.Request(url, method='HEAD')
    try:
      urllib.request.urlopen(request, timeout=10).close()
      return
    except urllib.error.HTTPError:
      return  # Whatever its status, the host can be reached.
    except OSError:
      pass
  if by_host:
    raise ConnectionError(f'cannot reach {" or ".join(by_host)}')


def _open(folder: pathlib.Path) -> Any:
  """Returns the `DatasetBuilder` of a set, as array_record if it has that."""
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
    formats = {item.value for item in builder.info.available_file_formats()}
    if _ARRAY_RECORD in formats:
      builder = tfds.builder_from_directory(folder, file_format=_ARRAY_RECORD)
  # Of broken JSON, unknown features, or packages that features need.
  except Exception as error:
    raise ValueError(
      f'{folder}: TFDS cannot open this set ({error}): dataset_info.json or '
      'features.json is damaged, or it is no image-classification set'
    ) from error
  if _ARRAY_RECORD not in formats and not _has_tensorflow():
    raise ValueError(
      f'{folder}: this set was prepared as {" and ".join(sorted(formats))}, '
      f'which takes TensorFlow to read. Install it ({_INSTALL}); or prepare '
      'the set again, in another data_dir, by '
      "download_and_prepare(file_format='array_record')"
    )
  return builder


def _find_features(builder: Any, folder: pathlib.Path) -> tuple[str, str]:
  """Returns the image and the label: the set's own choice, or the only ones."""
  import tensorflow_datasets as tfds

  features = builder.info.features

  def find(kind: type, preferred: str | None) -> str:
    names = [n for n, feature in features.items() if type(feature) is kind]
    if preferred in names:
      return str(preferred)
    if len(names) == 1:
      return names[0]
    listed = (f'{n} ({type(f).__name__})' for n, f in features.items())
    raise ValueError(
      f'{folder}: features = {", ".join(listed)}; allowed: one '
      f'{kind.__name__} feature, not {len(names) or "none"}'
    )

  supervised = builder.info.supervised_keys or (None, None)
  image = find(tfds.features.Image, supervised[0])
  label = find(tfds.features.ClassLabel, supervised[1])
  dtype, shape = np.dtype(features[image].np_dtype), features[image].shape
  if dtype != np.uint8 or len(shape) != 3 or shape[-1] not in (1, 2, 3, 4):
    raise ValueError(
      f'{folder}: {image} is {dtype} of shape {shape}; allowed: uint8 of shape '
      '(height, width, channels) with 1 to 4 channels'
    )
  if not features[label].num_classes:
    raise ValueError(
      f'{folder}: {label} has no number of classes; allowed: one or more'
    )
  return image, label


def _check_split(builder: Any, field: str, split: str) -> int:
  """Returns the number of images of a split, whose files are all there."""
  try:
    chosen = builder.info.splits[split]
    parts = list(chosen.file_instructions)
  except (ValueError, KeyError) as error:
    reason = str(error).strip().split('\n')[-1].strip('"')
    raise ValueError(
      f'{field} = {split!r}: {reason}; allowed: '
      f'{", ".join(builder.info.splits) or "none"}, slices and sums of them, '
      "such as 'train[:90%]' and 'train+test[:100]'"
    ) from error
  if not parts or any(part.take < 1 for part in parts):
    raise ValueError(f'{field} = {split!r}; allowed: at least one image')
  files = {pathlib.Path(part.filename) for part in parts}
  if absent := sorted(file.name for file in files if not file.is_file()):
    raise ValueError(
      f'{builder.data_dir}: this set is incomplete, {len(absent)} of the files '
      f'of {field} = {split!r} are missing, such as {absent[0]}; copy or '
      'prepare it again'
    )
  return chosen.num_examples


def _decode(
  builder: Any, keys: tuple[str, str], split: str, num_images: int
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields the images of a split, uint8 [H, W, C], and labels, in order."""
  features = [builder.info.features[key] for key in keys]
  channels, num_classes = features[0].shape[-1], features[1].num_classes
  shape: tuple[int, ...] | None = None
  count = 0
  for record in _read(builder, split):
    encoded, label = record[keys[0]], int(record[keys[1]])
    name = f'{builder.info.full_name} {split}: image {count}'
    try:
      image = decode_image(encoded, channels)
    except NoImage as error:
      raise ValueError(f'{name} {error}') from error
    shape = shape or image.shape
    if image.shape != shape:
      raise ValueError(
        f'{name} is {image.shape[0]} x {image.shape[1]} (height x width); '
        f'allowed: {shape[0]} x {shape[1]}, as image 0, for networks here take '
        "one size; resize them and bring them as arrays: dataset.name='npz'"
      )
    if not 0 <= label < num_classes:
      raise ValueError(
        f'{name} has the label {label}; allowed: 0 to {num_classes - 1} (a '
        'split without labels cannot be used)'
      )
    count += 1
    yield image, label
  if count != num_images:
    raise ValueError(
      f'{builder.data_dir}: split {split!r} holds {count:,} images, not '
      f'{num_images:,}, as dataset_info.json says; copy or prepare it again'
    )


def _read(builder: Any, split: str) -> Iterator[Any]:
  """Yields the records of a split, images as encoded bytes."""
  import tensorflow_datasets as tfds

  skip = {
    name: tfds.decode.SkipDecoding()
    for name, feature in builder.info.features.items()
    if type(feature) is tfds.features.Image
  }
  unreadable: tuple[type[Exception], ...] = (RuntimeError, IndexError, OSError)
  try:
    if builder.info.file_format.value == _ARRAY_RECORD:
      source = builder.as_data_source(split, decoders=skip)
      for start in range(0, len(source), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(source)))
        yield from source.__getitems__(list(rows))
    else:
      import tensorflow as tf

      unreadable = (OSError, tf.errors.OpError)
      # One shard after the other: the order of the split, as in array_record.
      config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
      yield from tfds.as_numpy(
        builder.as_dataset(split=split, decoders=skip, read_config=config)
      )
  except unreadable as error:
    raise ValueError(
      f'{builder.data_dir}: the files of split {split!r} cannot be read '
      f'({error}); copy or prepare the set again'
    ) from error
