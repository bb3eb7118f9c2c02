"""Any image-classification set of TensorFlow Datasets, without TensorFlow.

  --config.dataset.name=tfds --config.dataset.builder=mnist \\
    --config.dataset.data_dir=DIR

A set prepared as array_record is read as it is. TensorFlow is needed once to
download and prepare a set that is not there, and to read one that was prepared
in another format; it is imported for nothing else. Images are decoded once and
then memory-mapped (`advjax.data.array_cache`), by Pillow in every case, so that
the same set gives the same pixels however it was prepared.
"""

import hashlib
import logging
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from advjax.data import array_cache, prepared, records
from advjax.data.dataset import Dataset, Split

logger = logging.getLogger(__name__)

# Part of the source: a new way to decode makes new entries in the cache.
_DECODER = 1


def load(
  builder: str,
  data_dir: str | None = None,
  train_split: str = 'train',
  test_split: str = 'test',
  cache_dir: str | None = None,
) -> Dataset:
  """Loads a set of TensorFlow Datasets; see docs/datasets.md.

  Args:
    builder: The set as TFDS writes it: 'mnist', 'mnist:3.0.1', 'name/config'.
    data_dir: The folder that holds the sets; default: $TFDS_DATA_DIR, else
      ~/tensorflow_datasets.
    train_split: The split to train on, or a slice or sum of splits as TFDS
      writes them: 'train[:90%]', 'train+test[:100]'.
    test_split: The split to test on.
    cache_dir: Where decoded images are kept; default: $XDG_CACHE_HOME/advjax/
      datasets, else ~/.cache/advjax/datasets.

  Returns:
    The data set, named like the set: uint8 images [N, H, W, C] (C is 1 for
    grey images), memory-mapped and read-only.

  Raises:
    ValueError: If the set is not there and cannot be prepared, or is not
      whole, or is no set of uint8 images of one size with one label each, or a
      split is unknown, or the cache is damaged or cannot be written. Nothing
      but the cache's own leftovers is ever changed or removed.
  """
  name = prepared.parse_name(builder)
  root = pathlib.Path(cache_dir).expanduser().absolute() if cache_dir else None
  folder = _find_or_prepare(name, prepared.resolve_data_dir(data_dir))
  splits = {'train_split': train_split, 'test_split': test_split}
  entries = _load_splits(
    folder.resolve(), splits, name, root or array_cache.default_root()
  )
  train, test = entries['train_split'], entries['test_split']
  if train.images.shape[1:] != test.images.shape[1:]:
    raise ValueError(
      f'{name}: images of test_split = {test_split!r} are of shape '
      f'{test.images.shape[1:]}, but of train_split = {train_split!r} of '
      f'{train.images.shape[1:]}; they must be the same'
    )
  return Dataset(
    name.name,
    Split(train.images, train.labels),
    Split(test.images, test.labels),
    len(train.class_names),
    train.class_names,
  )


def _load_splits(
  folder: pathlib.Path,
  splits: dict[str, str],
  name: prepared.SetName,
  root: pathlib.Path,
) -> dict[str, array_cache.Entry]:
  """Opens the splits' cache entries, after writing those that are missing."""
  files = prepared.list_files(folder)
  keys, sources, entries = {}, {}, {}
  for field, split in splits.items():
    identity = f'{folder}\n{split}'
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    readable = re.sub(r'[^\w.-]+', '_', f'{name.name}-{split}')[:60]
    keys[field] = root / f'{readable}-{digest}'
    sources[field] = {
      'folder': str(folder),
      'split': split,
      'files': files,
      'decoder': _DECODER,
    }
    entries[field] = array_cache.read(keys[field], sources[field])
  missing = [field for field in splits if entries[field] is None]
  if missing:
    # Everything is checked before the first image is decoded.
    prepared_set = records.open_set(folder)
    features = records.find_features(prepared_set, folder)
    sizes = {
      f: records.check_split(prepared_set, f, splits[f]) for f in missing
    }
    for field in missing:
      blocks = records.decode(
        prepared_set, features, splits[field], sizes[field]
      )
      entries[field] = array_cache.write(
        keys[field], sources[field], blocks, sizes[field], features.class_names
      )
  return {field: entry for field, entry in entries.items() if entry is not None}


# ----------------------------------------------------- finding and preparing


def _find_or_prepare(
  name: prepared.SetName, data_dir: pathlib.Path
) -> pathlib.Path:
  """Returns the folder of a prepared set."""
  folder = prepared.find(name, data_dir)
  if folder is not None:
    return folder
  ways_out = (
    'Two ways out: point config.dataset.data_dir at a folder that has it; or '
    'let TFDS download and prepare it, which takes the network and, once, '
    f'TensorFlow ({records.install_command()}). Arrays of your own go without: '
    "dataset.name='npz'"
  )
  missing = prepared.missing_set(name, data_dir)
  if not records.has_tensorflow():
    raise ValueError(f'{missing}. {ways_out}')
  logger.info('%s; downloading and preparing it', missing)
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download import download_manager, util

  try:
    builder = tfds.builder(
      str(name), data_dir=data_dir, file_format=records.ARRAY_RECORD
    )
    _check_network(builder)
    builder.download_and_prepare()
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
      f'{missing}, and TFDS knows no set of this name'
    ) from error
  # What TFDS raises without a network, for files that have moved or changed,
  # for sets to be fetched by hand, and for packages that a set needs.
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
  return pathlib.Path(builder.data_dir)


def _check_network(builder: Any) -> None:
  """Raises an OSError if no host of a set can be reached: TFDS tries minutes.

  Hosts that TFDS no longer uses are among them, so that one is enough.
  """
  by_host = {
    urllib.parse.urlsplit(url).netloc: url
    for url in builder.url_infos or {}
    if url.startswith(('http://', 'https://'))
  }
  for url in by_host.values():
    request = urllib.request.Request(url, method='HEAD')
    try:
      urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
      return  # Whatever it says, it can be reached.
    except OSError:
      continue
    return
  if by_host:
    raise ConnectionError(f'cannot reach {" or ".join(by_host)}')
