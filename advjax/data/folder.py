"""A folder of image files, or a zip of one: Tiny ImageNet's, or one's own.

  --config.dataset.name=folder --config.dataset.path=tiny-imagenet-200.zip

Three layouts are known:

  Tiny ImageNet's    wnids.txt, words.txt, train/ID/images/*, val/images/* and
                     val/val_annotations.txt
  split folders      train/CLASS/*, and test/CLASS/*, val/ or validation/
  class folders      CLASS/*; a fraction of each class is the test split

Images are decoded once and then memory-mapped (`advjax.data.cache`). Those that
cannot be decoded are left out, and named; too many are an error.
"""

import contextlib
import hashlib
import logging
import math
import os
import pathlib
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from advjax.config import check_range
from advjax.data import cache, decode
from advjax.data.dataset import Dataset, Split
from advjax.files import expand

logger = logging.getLogger(__name__)

_IMAGE = re.compile(r'\.(png|jpe?g|webp|bmp|gif|tiff?|ppm|pgm)$', re.IGNORECASE)
_IDS, _WORDS = 'wnids.txt', 'words.txt'
_ANNOTATIONS = 'val/val_annotations.txt'
# Left behind by file managers and archivers; never part of a data set.
_JUNK = re.compile(r'\..*|__MACOSX|Thumbs\.db|desktop\.ini')
# No image file is so large; a few kilobytes of a zip may become any size.
_MAX_BYTES = 1 << 28
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
# At most this fraction of a split's images may be left out.
_MAX_BAD = 0.01
# Files and their labels, in order.
Samples = tuple[tuple[str, int], ...]
# The files of each class.
ByClass = dict[str, list[str]]
# Of each file its name, and what else changes with it; of a folder its name.
Listing = list[tuple[Any, ...]]


class Files(NamedTuple):
  """The files of a folder or a zip."""

  names: tuple[str, ...]  # Sorted; of folders, too: 'train/a/1.png', 'train/a/'
  fingerprint: str  # Changes with the name, size or time of any file.
  read: Callable[[str], bytes]  # Threads may call it; raises ValueErrors.


class Layout(NamedTuple):
  """Which files make a data set: the samples of both splits, in order."""

  files: Files
  train: Samples
  test: Samples
  class_names: tuple[str, ...]
  class_ids: tuple[str, ...] = ()


def load(
  path: str,
  image_size: int | None = None,
  test_fraction: float | None = None,
  cache_dir: str | None = None,
) -> Dataset:
  """Loads uint8 images [N, H, W, 3], memory-mapped and read-only."""
  if image_size is not None:
    check_range('image_size', image_size, 1, integer=True)
  given = expand(path).absolute()
  size = (image_size, image_size) if image_size else None
  splits = []
  with open_files(given) as files:
    try:
      layout = find_layout(files, test_fraction)
    except ValueError as error:
      raise ValueError(f'{given}: {error}') from error
    for split, samples in (('train', layout.train), ('test', layout.test)):
      name = f'{given.name} {split}'
      digest = hashlib.sha256(repr(samples).encode()).hexdigest()
      source = f'{given.resolve()}\n{split}'
      state = [files.fingerprint, digest, image_size]
      entry_path = cache.entry_path(
        cache_dir, f'{given.name}-{split}', source, state
      )
      entry = cache.read(entry_path)
      if entry is None:
        size = size or _common_size(layout, given)
        info: dict[str, Any] = {}
        decoded = _decode(layout, samples, size, name, info)
        entry = cache.write(entry_path, decoded, len(samples), info, name)
      splits.append(Split(entry.images, entry.labels))
      # At the first start and at all that follow.
      report = '{}: {:,} images of {} x {}'.format(name, *entry.images.shape)
      for what, count in sorted(entry.info['done'].items()):
        report += f', {count:,} {what}'
      logger.info(report)
      if num_bad := entry.info['num_bad']:
        message = '%s: %d images were left out, which cannot be decoded: %s'
        logger.warning(message, name, num_bad, '; '.join(entry.info['bad']))
  used = dict((*layout.train, *layout.test))
  others = [n for n in layout.files.names if _IMAGE.search(n) and n not in used]
  if others:
    message = '%s: %d images belong to neither split, such as %s'
    logger.info(message, given.name, len(others), others[0])
  names, ids = layout.class_names, layout.class_ids
  name = given.stem if given.is_file() else given.name
  return Dataset(name, splits[0], splits[1], len(names), names, ids)


@contextlib.contextmanager
def open_files(path: pathlib.Path) -> Iterator[Files]:
  """Lists a folder, following links, or a .zip, which is never unpacked."""
  if not path.exists():
    raise FileNotFoundError(f'path = {str(path)!r}: there is no such folder')
  is_zip = path.is_file() and path.suffix.lower() == '.zip'
  if not is_zip and not path.is_dir():
    raise ValueError(
      f'path = {str(path)!r}; allowed: a folder of images, or a .zip of one'
    )
  with contextlib.ExitStack() as stack:
    try:
      if is_zip:
        archive = stack.enter_context(zipfile.ZipFile(path))
        listing, read = _list_zip(path, archive)
      else:
        listing, read = _list_folder(path)
    except (zipfile.BadZipFile, OSError) as error:
      raise ValueError(
        f'{path}: cannot be read ({error}); copy or make it again'
      ) from error

    def checked_read(name: str) -> bytes:
      try:
        return read(name)
      except _UNREADABLE as error:
        raise ValueError(
          f'{path}: {name} cannot be read ({error}); copy or make it again'
        ) from error

    listing.sort()
    digest = hashlib.sha256(ascii(listing).encode()).hexdigest()
    yield Files(tuple(name for name, *_ in listing), digest, checked_read)


def _list_folder(root: pathlib.Path) -> tuple[Listing, Callable[[str], bytes]]:
  listing: Listing = []
  folders = ['']
  while folders:
    prefix = folders.pop()
    for entry in list(os.scandir(root / prefix)):
      if _JUNK.fullmatch(entry.name):
        continue
      name = prefix + entry.name
      status = entry.stat()  # Of what a link leads to; raised if to nothing.
      if stat.S_ISDIR(status.st_mode):
        folders.append(f'{name}/')
        listing.append((f'{name}/',))
      elif stat.S_ISREG(status.st_mode):
        listing.append((name, status.st_size, status.st_mtime_ns))
  return listing, lambda name: (root / name).read_bytes()


def _list_zip(
  path: pathlib.Path, archive: zipfile.ZipFile
) -> tuple[Listing, Callable[[str], bytes]]:
  """Lists a zip; `zipfile.Path` neither finds doubles nor is as fast."""
  time = path.stat().st_mtime_ns
  listing: Listing = []
  members: dict[str, zipfile.ZipInfo] = {}
  for info in archive.infolist():
    # Old archivers of Windows write its separator.
    whole = info.filename.replace('\\', '/')
    parts = [part for part in whole.split('/') if part not in ('', '.')]
    name = '/'.join(parts)
    if (
      re.match('/|[A-Za-z]:', whole)
      or '..' in parts
      or stat.S_ISLNK(info.external_attr >> 16)
      or info.flag_bits & 1
      or name in members
    ):
      raise ValueError(
        f'{path}: member {info.filename!r}; allowed: files of different '
        "relative names without '..', neither encrypted nor links"
      )
    if any(map(_JUNK.fullmatch, parts)) or not name:
      continue
    if whole.endswith('/'):
      listing.append((f'{name}/',))
    else:
      members[name] = info
      listing.append((name, info.file_size, info.CRC, time))

  def read(name: str) -> bytes:
    size = members[name].file_size
    if size > _MAX_BYTES:
      raise ValueError(
        f'{path}: {name} would take {size:,} bytes of memory; allowed: '
        f'{_MAX_BYTES:,} for one file of a zip'
      )
    # Reads no more than that size, whatever the compressed bytes hold.
    return archive.read(members[name])

  return listing, read


def find_layout(files: Files, test_fraction: float | None = None) -> Layout:
  """Finds the images of both splits, in order, and their classes."""
  number = isinstance(test_fraction, (int, float))
  if test_fraction is not None and not (number and 0 < test_fraction < 1):
    raise ValueError(
      f'test_fraction = {test_fraction!r}; allowed: a number between 0 and 1'
    )
  files = _enter(files)
  if _IDS not in files.names and not _has_classes(files, 'train/'):
    return _class_folders(files, test_fraction or 0.2)
  if test_fraction is not None:
    raise ValueError(
      f'test_fraction = {test_fraction!r}; allowed: None, for this data set '
      'has a test split of its own'
    )
  return _split_folders(files)


def _enter(files: Files) -> Files:
  """Returns the files in the one folder that holds all images, if there is."""
  tops = {name.partition('/')[0] for name in files.names if '/' in name}
  beside = [name for name in files.names if '/' not in name]
  if (
    len(tops) != 1
    or tops & {'train', 'test', 'val', 'validation'}
    or _IDS in beside
    or any(map(_IMAGE.search, beside))
  ):
    return files
  prefix, read = f'{tops.pop()}/', files.read
  names = (n.removeprefix(prefix) for n in files.names if n.startswith(prefix))
  return files._replace(
    names=tuple(filter(None, names)), read=lambda name: read(prefix + name)
  )


def _has_classes(files: Files, prefix: str) -> bool:
  """Returns whether a folder holds folders of images, and is no class."""
  return any(
    name.startswith(prefix) and name.count('/') > 1 and _IMAGE.search(name)
    for name in files.names
  )


def _by_class(files: Files, prefix: str = '') -> ByClass:
  """Returns the images in each folder of a split, at any depth."""
  classes: ByClass = {}
  for name in files.names:
    folder, slash, _ = name.removeprefix(prefix).partition('/')
    if name.startswith(prefix) and folder and slash:
      images = classes.setdefault(folder, [])
      if _IMAGE.search(name):
        images.append(name)
  where = prefix or 'the data set'
  if len(classes) < 2:
    raise ValueError(
      f'{where} has {_listed(classes) or "no folder"} for classes; allowed: '
      'wnids.txt as in Tiny ImageNet; or train/CLASS/* with test/CLASS/*, val/ '
      'or validation/; or two or more folders CLASS/*'
    )
  if empty := [name for name, images in classes.items() if not images]:
    raise ValueError(
      f'{where}: no image in the folders of these classes: {_listed(empty)} '
      f'(the names of images match {_IMAGE.pattern})'
    )
  return classes


def _listed(names: Collection[str]) -> str:
  """Writes the first few names."""
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(repr(name) for name in sorted(names)[:5]) + more


def _check_same(
  what: str, first: str, second: str, *names: Iterable[str]
) -> None:
  """Raises a ValueError unless two places have the same classes or images."""
  if different := set(names[0]) ^ set(names[1]):
    raise ValueError(
      f'{first} and {second} need the same {what}; only one of them has '
      f'{_listed(different)}'
    )


def _draw(name: str) -> bytes:
  """Returns what is as good as random, but depends on a name alone."""
  return hashlib.sha256(os.fsencode(name)).digest()


def _mix(classes: ByClass, order: Sequence[str]) -> Samples:
  """Mixes the classes, so that the first images are of all of them."""
  labels = {file: i for i, name in enumerate(order) for file in classes[name]}
  return tuple((file, labels[file]) for file in sorted(labels, key=_draw))


def _split_folders(files: Files) -> Layout:
  """Layout of train/ and a test split, with ids and names if there are any."""
  ids: tuple[str, ...] = ()
  if _IDS in files.names:
    ids = tuple(_lines(files, _IDS))
    if len(set(ids)) < max(2, len(ids)):
      raise ValueError(f'{_IDS} needs two or more different ids, one a line')
    names = _read_names(files, ids)
  by_class = _by_class(files, 'train/')
  if ids:
    _check_same('classes', _IDS, 'train/', ids, by_class)
  else:
    names = tuple(sorted(by_class))
  train = _mix(by_class, ids or names)
  if ids and any(name.startswith('val/images/') for name in files.names):
    return Layout(files, train, _annotated(files, ids), names, ids)
  # Many sort the images of Tiny ImageNet's val/ into folders.
  folders = ['val/'] if ids else ['test/', 'val/', 'validation/']
  folder = next((f for f in folders if _has_classes(files, f)), None)
  if folder is None:
    raise ValueError(
      'the test split is missing: train/ has folders of classes, but none of '
      f'{", ".join(folders)} has (to hold out a fraction of train/ instead, '
      'name that folder in path)'
    )
  others = _by_class(files, folder)
  _check_same('classes', 'train/', folder, by_class, others)
  return Layout(files, train, _mix(others, ids or names), names, ids)


def _class_folders(files: Files, test_fraction: float) -> Layout:
  classes = _by_class(files)
  names = tuple(sorted(classes))
  train, test = {}, {}
  for name in names:
    # Which images are held out depends on their names alone.
    ordered = sorted(classes[name], key=_draw)
    if len(ordered) < 2:
      raise ValueError(f'class {name!r} has one image; allowed: two or more')
    count = math.floor(len(ordered) * test_fraction + 0.5)
    count = max(1, min(len(ordered) - 1, count))
    train[name], test[name] = ordered[count:], ordered[:count]
  return Layout(files, _mix(train, names), _mix(test, names), names)


def _lines(files: Files, name: str) -> list[str]:
  """Returns the lines of a text file that are not empty."""
  if name not in files.names:
    raise ValueError(f'{name} is missing, next to {_IDS}')
  try:
    lines = files.read(name).decode('utf-8-sig').splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(f'{name} is not UTF-8 text: {error}') from error
  return [line.strip() for line in lines if line.strip()]


def _read_names(files: Files, ids: Sequence[str]) -> tuple[str, ...]:
  """Returns the first name of each id, with the id where two share it."""
  lines = (line.partition('\t') for line in _lines(files, _WORDS))
  firsts = {wnid: names.split(',')[0].strip() for wnid, _, names in lines}
  if lacking := [wnid for wnid in ids if not firsts.get(wnid)]:
    raise ValueError(f'{_WORDS} has no line for these ids: {_listed(lacking)}')
  counts = Counter(firsts[wnid] for wnid in ids)
  return tuple(
    f'{firsts[wnid]} ({wnid})' if counts[firsts[wnid]] > 1 else firsts[wnid]
    for wnid in ids
  )


def _annotated(files: Files, ids: Sequence[str]) -> Samples:
  """Returns the images of val/images by the lines of val_annotations.txt."""
  labels = {wnid: label for label, wnid in enumerate(ids)}
  samples: dict[str, int] = {}
  for number, line in enumerate(_lines(files, _ANNOTATIONS), 1):
    file, wnid, *_ = [*line.split('\t'), '']
    name = f'val/images/{file}'
    if wnid not in labels or name in samples:
      raise ValueError(
        f'{_ANNOTATIONS}, line {number}: {line!r}; allowed: an image that no '
        f'line has named yet, a tab, and an id of {_IDS}'
      )
    samples[name] = labels[wnid]
  listed = (n for n in files.names if n.startswith('val/images/'))
  images = filter(_IMAGE.search, listed)
  _check_same('images', 'val/images/', _ANNOTATIONS, images, samples)
  named = {ids[label] for label in samples.values()}
  _check_same('classes', _IDS, _ANNOTATIONS, ids, named)
  return tuple(samples.items())


def _common_size(layout: Layout, path: pathlib.Path) -> tuple[int, int]:
  """Returns the (height, width) of nine in ten of a thousand images."""
  samples = [*layout.train, *layout.test]
  step = math.ceil(len(samples) / 1000)
  sizes: Counter[tuple[int, int]] = Counter()
  with decode.quiet_pillow():
    for file, _ in samples[::step]:
      with contextlib.suppress(decode.NoImage):
        sizes[decode.image_size(layout.files.read(file))] += 1
  if not sizes:
    raise ValueError(f'{path}: none of its images can be decoded')
  (size, count), *_ = sizes.most_common(1)
  if count >= 0.9 * sizes.total():
    return size
  shown = ', '.join(f'{h} x {w}' for (h, w), _ in sizes.most_common(4))
  raise ValueError(
    f'{path}: images of {len(sizes)} sizes or more ({shown}, ...; height x '
    'width); allowed: one size, or config.dataset.image_size, to which they '
    'are scaled and cropped'
  )


def _decode(
  layout: Layout,
  samples: Samples,
  size: tuple[int, int],
  name: str,
  info: dict[str, Any],
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields a split in its order, decoded by all cores; `info` says how."""
  done: Counter[str] = Counter()  # How often each conversion.
  info.update(done=done, num_bad=0, bad=[])
  left = Counter(label for _, label in samples)

  def decode_one(sample: tuple[str, int]) -> tuple[Any, Any]:
    encoded = layout.files.read(sample[0])
    try:
      return decode.decode_rgb(encoded, size)
    except decode.NoImage as error:
      return None, str(error)

  with ThreadPoolExecutor(os.cpu_count()) as pool:
    # In blocks, as all images at once may not fit into memory.
    for start in range(0, len(samples), 1024):
      block = samples[start : start + 1024]
      with decode.quiet_pillow():
        results = list(pool.map(decode_one, block))
      for (file, label), (pixels, said) in zip(block, results, strict=True):
        if pixels is not None:
          done.update(said)
          yield pixels, label
          continue
        left[label] -= 1
        info['num_bad'] += 1
        info['bad'] = [*info['bad'], f'{file} {said}'][:5]
        if not left[label] or info['num_bad'] > _MAX_BAD * len(samples):
          raise ValueError(
            f'{name}: more than 1 % of {len(samples):,} images or all of the '
            f'class {layout.class_names[label]!r} cannot be decoded: '
            f'{"; ".join(info["bad"])}; copy or make the data set again, or '
            'remove these files'
          )
