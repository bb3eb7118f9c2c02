"""A folder of image files, or a zip of one: Tiny ImageNet's, or one's own.

  --config.dataset.name=folder --config.dataset.path=tiny-imagenet-200.zip

Three layouts are known:

  Tiny ImageNet's    wnids.txt, words.txt, train/ID/images/*, val/images/* and
                     val/val_annotations.txt
  split folders      train/CLASS/*, and test/CLASS/*, val/ or validation/; or
                     as others spell them, such as Training/ and seg_test/
  class folders      CLASS/*; a fraction of each class is the test split

Images are decoded once and then memory-mapped (`advjax.data.cache`). Those that
cannot be decoded are left out, and named; too many are an error. Files of other
extensions and folders of file systems (@eaDir) are skipped, and counted.
"""

import contextlib
import hashlib
import logging
import math
import os
import pathlib
import re
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from advjax.config import check_range
from advjax.data import cache, decode
from advjax.data.dataset import Dataset, Split, check_class_names, printable
from advjax.files import expand

logger = logging.getLogger(__name__)

_IMAGE = re.compile(
  r'\.(a?png|p?jpe?g|jpe|jfif|pjp|webp|bmp|gif|tiff?|p[bgnp]m)$', re.IGNORECASE
)
_IDS, _WORDS = 'wnids.txt', 'words.txt'
_ANNOTATIONS = 'val/val_annotations.txt'
# Left behind by file systems and archivers; never part of a data set.
_JUNK = re.compile(
  r'\..*|__MACOSX|Thumbs\.db|desktop\.ini|@eaDir|#recycle|\$RECYCLE\.BIN|'
  r'System Volume Information|lost\+found|__pycache__'
)
# What people call the folders of splits: a prefix that all share, one of them.
_SPLIT = re.compile(
  r'(.*[ _-])?(?:(train(?:ing)?)|test(?:ing)?|val(?:id(?:ation)?)?|dev|eval|'
  r'pred)(?:[ _-]?(?:set|data|images))?(?:[ _-]?\d+)?',
  re.IGNORECASE,
)
_TESTS = ('test', 'val', 'validation')  # The first that there is.
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
# With it what reads a file, and the names of junk.
Listed = tuple[Listing, Callable[[str], bytes], Collection[str]]


class Files(NamedTuple):
  """The files of a folder or a zip."""

  names: tuple[str, ...]  # Sorted; of folders, too: 'train/a/1.png', 'train/a/'
  fingerprint: str  # Changes with the name, size or time of any file.
  read: Callable[[str], bytes]  # Threads may call it; raises ValueErrors.
  junk: Collection[str] = ()  # Names that were skipped.


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
  shown = printable(given.name)  # In the log.
  size = (image_size, image_size) if image_size else None
  splits = []
  with open_files(given) as files:
    try:
      layout = find_layout(files, test_fraction)
      names = check_class_names(layout.class_names)
    except ValueError as error:
      raise ValueError(f'{given}: {error}') from error
    for split, samples in (('train', layout.train), ('test', layout.test)):
      name = f'{shown} {split}'
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
  used = {*dict((*layout.train, *layout.test)), _IDS, _WORDS, _ANNOTATIONS}
  others = [n for n in layout.files.names if n not in used and n[-1] != '/']
  if images := [*filter(_IMAGE.search, others)]:
    message = '%s: %d images belong to neither split, such as %r'
    logger.info(message, shown, len(images), images[0])
  if extensions := Counter(
    os.path.splitext(n)[1] or 'without' for n in {*others} - {*images}
  ):
    common = extensions.most_common(9)
    listed = ', '.join(f'{count} {extension}' for extension, count in common)
    listed = printable(listed)
    logger.info('%s: skipped by extension: %s', shown, listed)
  if files.junk:
    logger.info('%s: skipped: %s', shown, _listed(files.junk))
  name = printable(given.stem if given.is_file() else given.name)
  return Dataset(
    name, splits[0], splits[1], len(names), names, layout.class_ids
  )


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
        listing, read, junk = _list_zip(path, archive)
      else:
        listing, read, junk = _list_folder(path)
    except _UNREADABLE as error:
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
    names = tuple(name for name, *_ in listing)
    yield Files(names, digest, checked_read, junk)


def _list_folder(root: pathlib.Path) -> Listed:
  listing: Listing = []
  junk: set[str] = set()
  folders: list[tuple[str, tuple[os.stat_result, ...]]] = [('', (root.stat(),))]
  while folders:
    prefix, above = folders.pop()
    for entry in list(os.scandir(root / prefix)):
      if _JUNK.fullmatch(entry.name):
        junk.add(entry.name)
        continue
      name = prefix + entry.name
      status = entry.stat()  # Of what a link leads to; raised if to nothing.
      if stat.S_ISDIR(status.st_mode):
        if any(os.path.samestat(status, each) for each in above):
          raise ValueError(
            f'{root}: {name} is a link to a folder above it; remove the link'
          )
        folders.append((f'{name}/', (*above, status)))
        listing.append((f'{name}/',))
      elif stat.S_ISREG(status.st_mode):
        listing.append((name, status.st_size, status.st_mtime_ns))
  return listing, lambda name: (root / name).read_bytes(), junk


def _list_zip(path: pathlib.Path, archive: zipfile.ZipFile) -> Listed:
  """Lists a zip; `zipfile.Path` neither finds doubles nor is as fast."""
  time = path.stat().st_mtime_ns
  listing: Listing = []
  junk: set[str] = set()
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
    if found := [*filter(_JUNK.fullmatch, parts)]:
      junk.add(found[0])
    if found or not name:
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

  return listing, read, junk


def find_layout(files: Files, test_fraction: float | None = None) -> Layout:
  """Finds the images of both splits, in order, and their classes."""
  number = isinstance(test_fraction, (int, float))
  if test_fraction is not None and not (number and 0 < test_fraction < 1):
    raise ValueError(
      f'test_fraction = {test_fraction!r}; allowed: a number between 0 and 1'
    )
  files = _enter(files)
  ids = _IDS in files.names
  train, tests = ('train/', ['val/']) if ids else _find_splits(files)
  if not train:
    return _class_folders(files, test_fraction or 0.2)
  if test_fraction is not None:
    raise ValueError(
      f'test_fraction = {test_fraction!r}; allowed: None, for this data set '
      'has a test split of its own'
    )
  return _split_folders(files, train, tests)


def _enter(files: Files) -> Files:
  """Returns the files in the one folder that holds all images, if there is."""
  tops = {name.partition('/')[0] for name in files.names if '/' in name}
  if (
    len(tops) != 1
    or tops & {'train', *_TESTS}
    or _IDS in files.names
    or any(_IMAGE.search(name) for name in files.names if '/' not in name)
  ):
    return files
  prefix, read = f'{tops.pop()}/', files.read
  names = (n.removeprefix(prefix) for n in files.names if n.startswith(prefix))
  return files._replace(
    names=tuple(filter(None, names)), read=lambda name: read(prefix + name)
  )


def _find_splits(files: Files) -> tuple[str, list[str]]:
  """Returns the folder to train on, or '', and those to test on, in order."""
  tops = [name for name, images in _by_class(files).items() if images]
  found = [match for match in map(_SPLIT.fullmatch, tops) if match]
  trains = [
    m[0] for m in found if m[2] and any(_by_class(files, f'{m[0]}/').values())
  ]
  # Else these may be names of classes: drug_test, weight_training.
  known = len(found) == len(tops) and len({match[1] for match in found}) == 1
  # But not Train/ and Test/ beside other folders.
  plain = [m for m in found if not m[1]]
  clear = any(m[0] in trains for m in plain) and not all(m[2] for m in plain)
  if 'train' in trains or not (known or clear):
    trains = [name for name in trains if name == 'train']
  elif len(trains) != 1 or not known:
    raise ValueError(
      f'{_listed(tops)} are names of splits; allowed: train/CLASS/* with '
      'test/CLASS/*, val/ or validation/; rename folders that are classes, or '
      'name the folder that holds classes in path'
    )
  tests = [m[0] for m in found if not m[2] and (known or m[0] in _TESTS)]
  tests.sort(key=lambda name: (name not in _TESTS, 'test' not in name.lower()))
  return f'{trains[0]}/' if trains else '', [f'{name}/' for name in tests]


def _by_class(files: Files, prefix: str = '') -> ByClass:
  """Returns the images in each folder of a split, at any depth."""
  classes: ByClass = {}
  for name in files.names:
    folder, slash, _ = name.removeprefix(prefix).partition('/')
    if name.startswith(prefix) and folder and slash:
      images = classes.setdefault(folder, [])
      if _IMAGE.search(name):
        images.append(name)
  # Archives often hold a folder twice: seg_train/seg_train/.
  twice = [f'{folder}/' for folder in classes] == [prefix]
  return _by_class(files, 2 * prefix) if twice else classes


def _check_classes(classes: ByClass, prefix: str = '') -> None:
  """Raises a ValueError unless there are two classes, and images of all."""
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


def _listed(names: Collection[str]) -> str:
  """Writes the first few names; in ASCII where two look the same."""
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  looks = {unicodedata.normalize('NFC', name) for name in names}
  write = repr if len(looks) == len(names) else ascii
  return ', '.join(map(write, sorted(names)[:5])) + more


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
  return hashlib.sha256(name.encode(errors='surrogateescape')).digest()


def _mix(classes: ByClass, order: Sequence[str]) -> Samples:
  """Mixes the classes, so that the first images are of all of them."""
  labels = {file: i for i, name in enumerate(order) for file in classes[name]}
  return tuple((file, labels[file]) for file in sorted(labels, key=_draw))


def _split_folders(files: Files, folder: str, tests: Sequence[str]) -> Layout:
  """Layout of train/ and a test split, with ids and names if there are any."""
  by_class = _by_class(files, folder)
  ids: tuple[str, ...] = ()
  names = tuple(sorted(by_class))
  if _IDS in files.names:
    ids = tuple(_lines(files, _IDS))
    if len(set(ids)) < max(2, len(ids)):
      raise ValueError(f'{_IDS} needs two or more different ids, one a line')
    names = _read_names(files, ids)
    _check_same('classes', _IDS, folder, ids, by_class)
    _check_classes(by_class, folder)
  train = _mix(by_class, ids or names)
  if ids and any(name.startswith('val/images/') for name in files.names):
    return Layout(files, train, _annotated(files, ids), names, ids)
  # Many sort the images of Tiny ImageNet's val/ into folders.
  for test in tests:
    others = _by_class(files, test)
    # Images without labels may be in one folder: test/images/*.
    if any(others.values()) and (len(others) > 1 or {*others} & {*by_class}):
      _check_same('classes', folder, test, by_class, others)
      _check_classes(by_class, folder)
      _check_classes(others, test)
      return Layout(files, train, _mix(others, ids or names), names, ids)
    logger.warning('%s is skipped: it has no folders of classes', test)
  _check_classes(by_class, folder)
  raise ValueError(
    f'the test split is missing: {folder} has folders of classes, but none of '
    f'{", ".join(tests or _TESTS)} has (to hold out a fraction of {folder} '
    'instead, name that folder in path)'
  )


def _class_folders(files: Files, test_fraction: float) -> Layout:
  classes = _by_class(files)
  _check_classes(classes)
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
  bad = []
  with decode.quiet_pillow():
    for file, _ in samples[::step]:
      try:
        sizes[decode.image_size(layout.files.read(file))] += 1
      except decode.NoImage as error:
        bad.append(f'{file} {error}')
  if not sizes:
    raise ValueError(f'{path}: none of its images can be decoded: {bad[0]}')
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
