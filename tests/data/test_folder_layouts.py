"""Tests of which files make a data set, by names alone."""

import hypothesis
import pytest
from hypothesis import strategies as st

from advjax.data import folder_layouts
from advjax.data.file_tree import FileTree
from tests.data import image_folders


def tree_of(files):
  """A tree of files in memory: {name: content}, or names of empty ones."""
  contents = files if isinstance(files, dict) else dict.fromkeys(files, b'')
  parts = [name.split('/') for name in contents]
  folders = {'/'.join(p[:i]) for p in parts for i in range(1, len(p))}
  names = tuple(sorted(name for name in contents if not name.endswith('/')))
  return FileTree(names, tuple(sorted(folders)), '', contents.__getitem__)


def find(files, **fields):
  return folder_layouts.find_layout(tree_of(files), **fields)


def tiny(changes=(), drop=()):
  """Tiny ImageNet's layout with some files changed or left out."""
  files = {**image_folders.tiny_imagenet()[0], **dict(changes)}
  return {
    name: content
    for name, content in files.items()
    if not any(name.startswith(start) for start in drop)
  }


# ------------------------------------------------------------ Tiny ImageNet


def test_tiny_imagenet():
  layout = find(tiny())
  assert layout.class_ids == ('n03', 'n01', 'n02')
  # Two are called crane.
  assert layout.class_names == ('crane (n03)', 'cat', 'crane (n02)')
  labels = {
    f'train/{wnid}/images/{wnid}_{k}.JPEG': label
    for label, wnid in enumerate(layout.class_ids)
    for k in (0, 1)
  }
  assert layout.train == tuple(
    (name, labels[name]) for name in image_folders.mixed(labels)
  )
  # In the order of the annotations, whose ids ascend.
  assert layout.test == (
    ('val/images/val_0.JPEG', 1),
    ('val/images/val_1.JPEG', 2),
    ('val/images/val_2.JPEG', 0),
  )


def test_tiny_imagenet_with_val_sorted_into_folders():
  files = tiny(drop=['val/'])
  files |= {f'val/{i}/images/x{i}.JPEG': b'' for i in image_folders.IDS}
  assert sorted(find(files).test) == [
    ('val/n01/images/xn01.JPEG', 1),
    ('val/n02/images/xn02.JPEG', 2),
    ('val/n03/images/xn03.JPEG', 0),
  ]


def test_text_may_come_from_windows():
  changes = {'wnids.txt': b'\xef\xbb\xbfn03\r\nn01\r\nn02\r\n\r\n'}
  assert find(tiny(changes))[1:] == find(tiny())[1:]


ANNOTATIONS = tiny()['val/val_annotations.txt']


@pytest.mark.parametrize(
  ('changes', 'drop', 'message'),
  [
    ({}, ['words.txt'], r'words\.txt is missing'),
    ({}, ['val/val_ann'], r'val/val_annotations\.txt is missing'),
    ({}, ['val/'], r'val/val_annotations\.txt is missing'),
    ({}, ['train/n01'], r"same classes, but train/ lacks 'n01'"),
    ({}, ['train'], "train/ lacks 'n01', 'n02', 'n03'"),
    ({}, ['train/n01/images'], "train/: no image in the folders.*'n01'"),
    ({}, ['val/images/val_1'], "lacks 1 images .*: 'val/images/val_1.JPEG'"),
    ({'wnids.txt': b'n01\nn02'}, [], r"wnids\.txt lacks 'n03'"),
    ({'wnids.txt': b'n01\nn01'}, [], 'two or more different ids'),
    ({'wnids.txt': b'n01'}, [], 'two or more different ids'),
    ({'wnids.txt': b'\xff\xfe'}, [], r'wnids\.txt is no text'),
    ({'words.txt': b'n01\ta\nn02\tb'}, [], r"words\.txt has no.*'n03'"),
    ({'words.txt': b'n01\ta\nn02\tb\nn03\t,'}, [], r"words.*'n03'"),
    ({'val/images/new.JPEG': b''}, [], "no line for 1 .*'val/images/new.JPEG'"),
    (
      {'val/val_annotations.txt': ANNOTATIONS + b'val_3.JPEG\tn99\t1'},
      [],
      'annotations.txt, line 4: .*n99',
    ),
    (
      {'val/val_annotations.txt': ANNOTATIONS + b'val_0.JPEG\tn01\t1'},
      [],
      'annotations.txt, line 4: .*val_0',
    ),
    (
      {'val/val_annotations.txt': ANNOTATIONS.replace(b'n02', b'n01')},
      [],
      "names no image of: 'n02'",
    ),
  ],
)
def test_what_is_missing_from_tiny_imagenet_is_named(changes, drop, message):
  with pytest.raises(ValueError, match=message):
    find(tiny(changes, drop))


# ------------------------------------------------------------ class folders


@pytest.mark.parametrize('test', ['test', 'val', 'validation'])
def test_split_folders(test):
  layout = find(
    [
      'train/b/1.png',
      'train/b/deep/er/0.JPG',
      'train/a/2.webp',
      'train/a/2.txt',
      f'{test}/a/9.bmp',
      f'{test}/b/8.jpeg',
      f'{test}/readme.md',
    ]
  )
  assert layout.class_names == ('a', 'b')
  assert layout.class_ids == ()
  assert sorted(layout.train) == [
    ('train/a/2.webp', 0),
    ('train/b/1.png', 1),
    ('train/b/deep/er/0.JPG', 1),
  ]
  assert sorted(layout.test) == [
    (f'{test}/a/9.bmp', 0),
    (f'{test}/b/8.jpeg', 1),
  ]


def test_of_several_test_splits_the_first_one_with_labels_is_taken():
  classes = ['train/a/1.png', 'train/b/1.png', 'val/a/2.png', 'val/b/2.png']
  unlabelled = find([*classes, 'test/7.png'])
  assert sorted(unlabelled.test) == [('val/a/2.png', 0), ('val/b/2.png', 1)]
  both = find([*classes, 'test/a/3.png', 'test/b/3.png'])
  assert sorted(both.test) == [('test/a/3.png', 0), ('test/b/3.png', 1)]


def test_the_first_images_are_of_all_classes():
  files = [f'{c}/{k}.png' for c in 'abcd' for k in range(100)]
  layout = find(files, test_fraction=0.5)
  for split in (layout.train, layout.test):
    assert [name for name, _ in split] == image_folders.mixed(
      name for name, _ in split
    )
    first = [label for _, label in split[:40]]
    assert all(first.count(label) >= 4 for label in range(4))


def test_classes_alone_are_divided():
  files = [f'{name}/{k}.png' for name in 'ab' for k in range(10)]
  layout = find(files)
  assert layout.class_names == ('a', 'b')
  assert sorted(label for _, label in layout.train) == [0] * 8 + [1] * 8
  assert sorted(label for _, label in layout.test) == [0] * 2 + [1] * 2
  assert sorted(f for f, _ in layout.train + layout.test) == sorted(files)
  assert len(find(files, test_fraction=0.5).test) == 10


def test_a_class_may_be_called_train():
  files = ['train/1.png', 'train/2.png', 'car/1.png', 'car/2.png']
  assert find(files).class_names == ('car', 'train')


@pytest.mark.parametrize('beside', [[], ['readme.md']])
def test_one_top_folder_is_entered(beside):
  files = ['top/train/a/1.png', 'top/train/b/1.png', 'top/val/a/1.png']
  layout = find([*files, 'top/val/b/1.png', *beside])
  assert ('train/a/1.png', 0) in layout.train


@pytest.mark.parametrize(
  ('files', 'fields', 'message'),
  [
    ([], {}, 'no folder for classes'),
    (['1.png', '2.png'], {}, 'no folder for classes; allowed: wnids.txt'),
    (['top/1.png'], {}, 'no folder for classes'),
    (['a/1.png', 'b/'], {}, "no image in the folders of these classes: 'b'"),
    (['a/1.png', 'b/1.txt'], {}, "no image in the folders.*'b'"),
    (['a/1.png', 'b/1.png', 'b/2.png'], {}, "class 'a' has one image"),
    (['train/a/1.png', 'train/b/1.png'], {}, 'test split is missing'),
    (
      ['train/a/1.png', 'train/b/1.png', 'val/a/1.png'],
      {},
      "train/ and val/ must have the same classes, but val/ lacks 'b'",
    ),
    (
      ['train/a/1.png', 'train/c/1.png', 'test/a/1.png', 'test/d/1.png'],
      {},
      "train/ lacks 'd' and test/ lacks 'c'",
    ),
    (['train/a/1.png', 'val/a/1.png'], {}, "train/ has 'a' for classes"),
    (
      [f'{s}/{c}/1.png' for s in ('train', 'val') for c in 'ab'],
      {'test_fraction': 0.3},
      'test_fraction = 0.3, but .* of its own',
    ),
    (['a/1.png', 'b/1.png'], {'test_fraction': 1}, r'test_fraction = 1; allo'),
    (['a/1.png', 'b/1.png'], {'test_fraction': 0.0}, r'test_fraction = 0\.0;'),
    (['a/1.png', 'b/1.png'], {'test_fraction': 'a'}, "test_fraction = 'a';"),
  ],
)
def test_other_layouts_are_refused(files, fields, message):
  with pytest.raises(ValueError, match=message):
    find(files, **fields)


# ---------------------------------------------------------------- the share


NAMES = st.lists(
  st.text('abcxyz019', min_size=1, max_size=6).map('{}.png'.format),
  min_size=2,
  max_size=30,
  unique=True,
)


@hypothesis.given(
  names=NAMES, other=NAMES, fraction=st.floats(0.01, 0.99), data=st.data()
)
def test_the_share_of_a_class_depends_on_its_own_names_alone(
  names, other, fraction, data
):
  files = [f'a/{name}' for name in names]
  train, test = folder_layouts.hold_out(files, fraction)
  assert sorted(train + test) == sorted(files)
  assert train and test
  assert abs(len(test) - fraction * len(files)) <= 1
  shuffled = data.draw(st.permutations(files))
  assert folder_layouts.hold_out(shuffled, fraction) == (train, test)
  layout = find([*files, *(f'b/{name}' for name in other)], test_fraction=0.4)
  alone = folder_layouts.hold_out(files, 0.4)[1]
  assert sorted(file for file, label in layout.test if label == 0) == alone


def test_the_share_never_changes():
  files = [f'a/{k}.png' for k in range(10)]
  held_out = folder_layouts.hold_out(files, 0.3)[1]
  # The first three by their SHA-256.
  assert held_out == ['a/0.png', 'a/2.png', 'a/8.png']
