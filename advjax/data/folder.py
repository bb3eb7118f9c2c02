"""A folder of image files, or a zip of one: Tiny ImageNet's, or one's own.

  --config.dataset.name=folder --config.dataset.path=tiny-imagenet-200.zip

Images are decoded once and then memory-mapped (`advjax.data.array_cache`).
Those that cannot be decoded are left out, and named; too many are an error.
"""

import hashlib
import logging
import os
import pathlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tqdm

from advjax.data import array_cache, decode, file_tree, folder_layouts
from advjax.data.dataset import Dataset, Split
from advjax.data.file_tree import FileTree
from advjax.data.folder_layouts import Layout, Sample

logger = logging.getLogger(__name__)

# Part of the source: a new way to decode makes new entries in the cache.
_DECODER = 1
# How many images are decoded between two writes, and by one task of a thread.
_BLOCK, _PART = 1024, 32
# At most this share of a split's images may be left out.
_MAX_BAD = 0.01
# The size of the images is taken from so many of them, spread evenly, if so
# large a share of them have it.
_NUM_SIZED, _MIN_SAME = 1000, 0.9
_NUM_NAMED = 5


def load(
  path: str,
  image_size: int | None = None,
  test_fraction: float | None = None,
  cache_dir: str | None = None,
) -> Dataset:
  """Loads image files from a folder or a zip; see docs/datasets.md.

  Args:
    path: A folder or a .zip file, laid out as `folder_layouts` says.
    image_size: Height and width of the images; those of another size are scaled
      and cropped. Default: the size that nine in ten of them have.
    test_fraction: Which share of each class is the test split, in (0, 1), where
      there are folders of classes but not of splits; default: 0.2.
    cache_dir: Where decoded images are kept; default: $XDG_CACHE_HOME/advjax/
      datasets, else ~/.cache/advjax/datasets.

  Returns:
    The data set, named like the folder: uint8 images [N, H, W, 3], memory-
    mapped and read-only.

  Raises:
    FileNotFoundError: If there is no such folder.
    ValueError: If it is laid out in another way or something is missing, the
      images are of many sizes, more than 1 % of a split or all of a class
      cannot be decoded, or the cache is damaged or cannot be written. Nothing
      but the cache's own leftovers is ever changed or removed.
  """
  whole = isinstance(image_size, int) and not isinstance(image_size, bool)
  if image_size is not None and not (whole and image_size > 0):
    raise ValueError(f'image_size = {image_size!r}; allowed: an integer >= 1')
  given = pathlib.Path(path).expanduser().absolute()
  root = pathlib.Path(cache_dir).expanduser().absolute() if cache_dir else None
  with file_tree.open_tree(given) as tree:
    try:
      layout = folder_layouts.find_layout(tree, test_fraction)
    except ValueError as error:
      raise ValueError(f'{given}: {error}') from error
    train, test = _load_splits(
      given, layout, image_size, root or array_cache.default_root()
    )
  return Dataset(
    given.stem if given.is_file() else given.name,
    Split(train.images, train.labels),
    Split(test.images, test.labels),
    len(layout.class_names),
    layout.class_names,
    layout.class_ids,
  )


def _load_splits(
  path: pathlib.Path,
  layout: Layout,
  image_size: int | None,
  root: pathlib.Path,
) -> list[array_cache.Entry]:
  """Opens the splits' cache entries, after writing those that are missing."""
  entries = []
  size = (image_size, image_size) if image_size else None
  for split, samples in (('train', layout.train), ('test', layout.test)):
    # A digest of which files belong to the split, and of their labels.
    chosen = hashlib.sha256(repr(samples).encode()).hexdigest()
    source = {
      'path': str(path.resolve()),
      'files': layout.tree.fingerprint,
      'samples': chosen,
      'image_size': image_size,
      'decoder': _DECODER,
    }
    digest = hashlib.sha256(f'{source["path"]}\n{split}'.encode()).hexdigest()
    readable = re.sub(r'[^\w.-]+', '_', f'{path.name}-{split}')[:60]
    folder = root / f'{readable}-{digest[:16]}'
    entry = array_cache.read(folder, source)
    if entry is None:
      size = size or _common_size(layout, path)
      notes: dict[str, Any] = {}
      blocks = _decode(
        layout.tree, samples, layout.class_names, size, f'{path} {split}', notes
      )
      entry = array_cache.write(
        folder,
        source,
        blocks,
        len(samples),
        layout.class_names,
        fewer=True,
        notes=notes,
      )
    _log(entry, f'{path.name} {split}')
    entries.append(entry)
  used = {file for file, _ in (*layout.train, *layout.test)}
  others = [
    file
    for file in layout.tree.files
    if folder_layouts.is_image(file) and file not in used
  ]
  if others:
    logger.info(
      '%s: %s images belong to neither split and are not used, such as %s',
      path.name,
      f'{len(others):,}',
      others[0],
    )
  return entries


def _log(entry: array_cache.Entry, name: str) -> None:
  """Says what was decoded, at the first start and at all that follow."""
  count, height, width, _ = entry.images.shape
  done = ''.join(f', {n:,} {what}' for what, n in entry.notes['done'].items())
  logger.info(
    '%s: %s images of %s x %s%s', name, f'{count:,}', height, width, done
  )
  if entry.notes['num_bad']:
    logger.warning(
      '%s: %s images were left out, which cannot be decoded: %s',
      name,
      f'{entry.notes["num_bad"]:,}',
      '; '.join(entry.notes['bad']),
    )


# ----------------------------------------------------------------- decoding


def _common_size(layout: Layout, path: pathlib.Path) -> tuple[int, int]:
  """Returns the (height, width) that nearly all images have."""
  samples = [*layout.train, *layout.test]
  step = -(-len(samples) // _NUM_SIZED)
  sizes: Counter[tuple[int, int]] = Counter()
  with decode.quiet_pillow():
    for file, _ in samples[::step]:
      try:
        sizes[decode.image_size(layout.tree.read(file))] += 1
      except decode.NoImage:
        continue
  if not sizes:
    raise ValueError(f'{path}: none of its images can be decoded')
  (size, count), *_ = sizes.most_common(1)
  if count < _MIN_SAME * sizes.total():
    shown = ', '.join(f'{h} x {w}' for (h, w), _ in sizes.most_common(4))
    raise ValueError(
      f'{path}: the images are of {len(sizes)} sizes or more ({shown}, ...; '
      'height x width), but networks here take one size; say which by '
      'config.dataset.image_size: they are scaled and cropped to a square'
    )
  return size


def _decode(
  tree: FileTree,
  samples: Sequence[Sample],
  class_names: Sequence[str],
  size: tuple[int, int],
  name: str,
  notes: dict[str, Any],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Decodes a split in its order, under a progress bar.

  Args:
    tree: Where the files are.
    samples: (file, label) of every image.
    class_names: One name per class.
    size: (height, width).
    name: What is read, for messages.
    notes: Gets the counts, and the names of the first bad images.

  Yields:
    Pairs of uint8 [B, H, W, 3] and int32 [B].
  """
  logger.info('decoding %s once: %s images', name, f'{len(samples):,}')
  notes.update(done={}, num_bad=0, bad=[])
  done: Counter[str] = Counter()
  left: Counter[int] = Counter(label for _, label in samples)

  def decode_part(part: Sequence[Sample]) -> list[Any]:
    return [_try_to_decode(tree, file, size) for file, _ in part]

  with (
    ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    tqdm.tqdm(
      total=len(samples),
      desc=f'decoding {name}',
      unit=' images',
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
    ) as bar,
  ):
    for start in range(0, len(samples), _BLOCK):
      block = samples[start : start + _BLOCK]
      parts = [block[i : i + _PART] for i in range(0, len(block), _PART)]
      with decode.quiet_pillow():
        results = [r for part in pool.map(decode_part, parts) for r in part]
      images, labels = [], []
      for (file, label), (pixels, said) in zip(block, results, strict=True):
        if pixels is None:
          left[label] -= 1
          notes['num_bad'] += 1
          notes['bad'] += [f'{file} {said}'] * (len(notes['bad']) < _NUM_NAMED)
        else:
          done.update(said)
          images.append(pixels)
          labels.append(label)
      notes['done'] = dict(sorted(done.items()))
      _check_bad(notes, left, len(samples), class_names, name)
      bar.update(len(block))
      if images:
        yield np.stack(images), np.asarray(labels, np.int32)


def _try_to_decode(
  tree: FileTree, file: str, size: tuple[int, int]
) -> tuple[np.ndarray | None, Any]:
  """Returns an image and what was done to it, or None and what is wrong."""
  encoded = tree.read(file)
  try:
    return decode.decode_rgb(encoded, size)
  except decode.NoImage as error:
    return None, str(error)


def _check_bad(
  notes: dict[str, Any],
  left: Counter[int],
  num_images: int,
  class_names: Sequence[str],
  name: str,
) -> None:
  """Raises a ValueError if too many images cannot be decoded."""
  emptied = [class_names[label] for label, count in left.items() if not count]
  if not emptied and notes['num_bad'] <= _MAX_BAD * num_images:
    return
  which = f'all of class {emptied[0]!r}' if emptied else 'more than 1 %'
  raise ValueError(
    f'{name}: {notes["num_bad"]:,} of {num_images:,} images cannot be decoded, '
    f'{which}: {"; ".join(notes["bad"])}; copy or make the data set again, or '
    'remove these files'
  )
