"""What the files of a folder mean: which are images, of which split and class.

Three layouts are known:

  Tiny ImageNet's    wnids.txt, words.txt, train/ID/images/*, val/images/* and
                     val/val_annotations.txt
  split folders      train/CLASS/*, and test/CLASS/*, val/ or validation/
  class folders      CLASS/*; a share of each class is the test split
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from advjax.data.file_tree import FileTree, inside

_SUFFIXES = (
  '.png',
  '.jpg',
  '.jpeg',
  '.webp',
  '.bmp',
  '.gif',
  '.tif',
  '.tiff',
  '.ppm',
  '.pgm',
)
_TEST_FOLDERS = ('test', 'val', 'validation')
_TEST_FRACTION = 0.2
_IDS, _WORDS = 'wnids.txt', 'words.txt'
_ANNOTATIONS = 'val/val_annotations.txt'

# A file and its label.
Sample = tuple[str, int]


class Layout(NamedTuple):
  """Which files make a data set.

  Attributes:
    tree: Where the files are.
    train: (file, label) of every image to train on, in order.
    test: The same of the test split.
    class_names: One name per class.
    class_ids: One id per class, or empty.
  """

  tree: FileTree
  train: tuple[Sample, ...]
  test: tuple[Sample, ...]
  class_names: tuple[str, ...]
  class_ids: tuple[str, ...] = ()


def find_layout(tree: FileTree, test_fraction: float | None = None) -> Layout:
  """Finds the images of both splits and their classes.

  Args:
    tree: All files; perhaps within one folder.
    test_fraction: Which share of each class is the test split, in (0, 1), if
      there are folders of classes but not of splits; 0.2 by default.

  Returns:
    The layout. Images are in an order drawn from their names; those of
    val_annotations.txt in its order.

  Raises:
    ValueError: If the files are laid out in another way, something is missing,
      or the splits have not the same classes.
  """
  number = isinstance(test_fraction, (int, float))
  if test_fraction is not None and not (number and 0 < test_fraction < 1):
    raise ValueError(
      f'test_fraction = {test_fraction!r}; allowed: a number between 0 and 1'
    )
  tree = _enter(tree)
  if _IDS in tree.files:
    layout = _tiny_imagenet(tree)
  elif _has_classes(tree, 'train'):
    layout = _split_folders(tree)
  else:
    return _class_folders(tree, test_fraction or _TEST_FRACTION)
  if test_fraction is not None:
    raise ValueError(
      f'test_fraction = {test_fraction!r}, but this data set has a test split '
      'of its own; leave the field out'
    )
  return layout


def is_image(name: str) -> bool:
  """Returns whether a file is an image, by the end of its name."""
  return name.lower().endswith(_SUFFIXES)


def _enter(tree: FileTree) -> FileTree:
  """Returns the tree in the one folder that holds all images, if there is."""
  tops = [name for name in tree.folders if '/' not in name]
  beside = [name for name in tree.files if '/' not in name]
  alone = len(tops) == 1 and not any(map(is_image, beside))
  if not alone or _IDS in beside or tops[0] in ('train', *_TEST_FOLDERS):
    return tree
  return inside(tree, tops[0])


def _has_classes(tree: FileTree, split: str) -> bool:
  """Returns whether a folder holds folders of images, and is no class."""
  return any(
    name.startswith(f'{split}/') and name.count('/') > 1 and is_image(name)
    for name in tree.files
  )


# ------------------------------------------------------------ class folders


def _by_class(tree: FileTree, split: str = '') -> dict[str, list[str]]:
  """Returns the images in each folder of a split, at any depth."""
  prefix = f'{split}/' if split else ''
  classes: dict[str, list[str]] = {
    name.removeprefix(prefix): []
    for name in tree.folders
    if name.startswith(prefix) and '/' not in name.removeprefix(prefix)
  }
  for name in tree.files:
    folder, separator, _ = name.removeprefix(prefix).partition('/')
    if name.startswith(prefix) and separator and is_image(name):
      classes[folder].append(name)
  return classes


def _check_classes(classes: dict[str, list[str]], where: str) -> None:
  if len(classes) < 2:
    raise ValueError(
      f'{where} has {_listed(classes)} for classes; allowed: wnids.txt as in '
      'Tiny ImageNet; or train/CLASS/* with test/CLASS/*, val/ or validation/; '
      'or two or more folders CLASS/*'
    )
  empty = [name for name, files in classes.items() if not files]
  if empty:
    raise ValueError(
      f'{where}: no image in the folders of these classes: {_listed(empty)} '
      f'(images end in {", ".join(_SUFFIXES)})'
    )


def _samples(
  classes: dict[str, list[str]], order: Sequence[str]
) -> tuple[Sample, ...]:
  """Mixes the classes: whoever takes the first so many gets all of them."""
  samples = [
    (file, label) for label, name in enumerate(order) for file in classes[name]
  ]
  return tuple(sorted(samples, key=lambda sample: _draw(sample[0])))


def _draw(name: str) -> bytes:
  """Returns what is as good as random, but depends on a name alone."""
  return hashlib.sha256(os.fsencode(name)).digest()


def _check_same(
  train: set[str], test: set[str], train_name: str, test_name: str
) -> None:
  """Raises a ValueError unless two places name the same classes."""
  if train != test:
    lacking = [
      f'{place} lacks {_listed(sorted(missing))}'
      for place, missing in (
        (train_name, test - train),
        (test_name, train - test),
      )
      if missing
    ]
    raise ValueError(
      f'{train_name} and {test_name} must have the same classes, but '
      f'{" and ".join(lacking)}'
    )


def _split_folders(tree: FileTree) -> Layout:
  there = [split for split in _TEST_FOLDERS if _has_classes(tree, split)]
  if not there:
    raise ValueError(
      'train/ has folders of classes, but none of test/, val/ and validation/ '
      'has: the test split is missing (to hold out a share of train/ instead, '
      'name that folder in path)'
    )
  train, test = _by_class(tree, 'train'), _by_class(tree, there[0])
  _check_classes(train, 'train/')
  _check_same(set(train), set(test), 'train/', f'{there[0]}/')
  _check_classes(test, f'{there[0]}/')
  names = tuple(sorted(train))
  return Layout(tree, _samples(train, names), _samples(test, names), names)


def _class_folders(tree: FileTree, test_fraction: float) -> Layout:
  classes = _by_class(tree)
  _check_classes(classes, 'the data set')
  names = tuple(sorted(classes))
  train, test = {}, {}
  for name in names:
    train[name], test[name] = hold_out(classes[name], test_fraction)
    if not train[name]:
      raise ValueError(
        f'class {name!r} has one image; allowed: two or more, of which '
        f'{test_fraction:.0%} are for the test split'
      )
  return Layout(tree, _samples(train, names), _samples(test, names), names)


def hold_out(
  files: Sequence[str], fraction: float
) -> tuple[list[str], list[str]]:
  """Divides the files of a class by nothing but their names.

  Args:
    files: Names, in any order.
    fraction: The share to hold out, in (0, 1); at least one file, and all but
      one at most, if there are two.

  Returns:
    (the files to train on, those held out), sorted.

  Example:
    >>> hold_out(['a/1.png', 'a/2.png', 'a/3.png', 'a/4.png'], 0.5)
    (['a/3.png', 'a/4.png'], ['a/1.png', 'a/2.png'])
  """
  ordered = sorted(files, key=_draw)
  count = max(1, min(len(files) - 1, math.floor(len(files) * fraction + 0.5)))
  return sorted(ordered[count:]), sorted(ordered[:count])


# ------------------------------------------------------------ Tiny ImageNet


def _tiny_imagenet(tree: FileTree) -> Layout:
  ids = tuple(_lines(tree, _IDS))
  if len(ids) < 2 or len(set(ids)) < len(ids):
    raise ValueError(
      f'{_IDS}: two or more different ids are needed, one a line'
    )
  names = _read_names(tree, ids)
  train = _by_class(tree, 'train')
  _check_same(set(ids), set(train), _IDS, 'train/')
  _check_classes(train, 'train/')
  if _ANNOTATIONS in tree.files:
    test = _annotated(tree, ids)
  elif _has_classes(tree, 'val') and 'val/images' not in tree.folders:
    # Many sort the images of val/ into folders like those of train/.
    classes = _by_class(tree, 'val')
    _check_same(set(ids), set(classes), _IDS, 'val/')
    _check_classes(classes, 'val/')
    test = _samples(classes, ids)
  else:
    raise ValueError(f'{_ANNOTATIONS} is missing: the test split has no labels')
  return Layout(tree, _samples(train, ids), test, names, ids)


def _lines(tree: FileTree, name: str) -> list[str]:
  """Returns the lines of a text file that are not empty."""
  if name not in tree.files:
    raise ValueError(f'{name} is missing, next to {_IDS}')
  try:
    lines = tree.read(name).decode('utf-8-sig').splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(f'{name} is no text: {error}') from error
  return [line.strip() for line in lines if line.strip()]


def _read_names(tree: FileTree, ids: Sequence[str]) -> tuple[str, ...]:
  """Returns the first name of each id, with the id where two share it."""
  words = dict(
    line.split('\t', 1) for line in _lines(tree, _WORDS) if '\t' in line
  )
  firsts = {wnid: names.split(',')[0].strip() for wnid, names in words.items()}
  lacking = [wnid for wnid in ids if not firsts.get(wnid)]
  if lacking:
    raise ValueError(
      f'{_WORDS} has no line for these ids of {_IDS}: {_listed(lacking)}'
    )
  names = [firsts[wnid] for wnid in ids]
  count = Counter(names)
  return tuple(
    name if count[name] == 1 else f'{name} ({wnid})'
    for name, wnid in zip(names, ids, strict=True)
  )


def _annotated(tree: FileTree, ids: Sequence[str]) -> tuple[Sample, ...]:
  """Returns the images of val/images by the lines of val_annotations.txt."""
  labels = {wnid: label for label, wnid in enumerate(ids)}
  samples: dict[str, int] = {}
  for number, line in enumerate(_lines(tree, _ANNOTATIONS), 1):
    file, _, rest = line.partition('\t')
    wnid = rest.split('\t')[0]
    name = f'val/images/{file}'
    if wnid not in labels or name in samples:
      raise ValueError(
        f'{_ANNOTATIONS}, line {number}: {line!r}; needed: an image that no '
        f'line has named yet, a tab, and an id of {_IDS}'
      )
    samples[name] = labels[wnid]
  images = {
    name
    for name in tree.files
    if name.startswith('val/images/') and is_image(name)
  }
  if missing := sorted(samples.keys() - images):
    raise ValueError(
      f'val/images/ lacks {len(missing)} images that {_ANNOTATIONS} names: '
      f'{_listed(missing)}'
    )
  if unnamed := sorted(images - samples.keys()):
    raise ValueError(
      f'{_ANNOTATIONS} has no line for {len(unnamed)} images: '
      f'{_listed(unnamed)}'
    )
  if empty := sorted(set(ids) - {ids[label] for label in samples.values()}):
    raise ValueError(f'{_ANNOTATIONS} names no image of: {_listed(empty)}')
  return tuple(samples.items())


def _listed(names: Sequence[str] | dict[str, list[str]]) -> str:
  """Writes the first few names."""
  shown = list(names)[:5]
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return (', '.join(repr(name) for name in shown) or 'no folder') + more
