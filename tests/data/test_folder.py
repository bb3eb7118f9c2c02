"""Folders and zips of images: their files, their layouts, their pixels."""

import logging
import os
import re
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from advjax.data import folder
from tests.data import image_folders
from tests.data.image_folders import encode, picture

SPLITS = ['train/', 'test/']


def find(files, **fields):
  """The layout of files in memory: {name: content}, or names of empty ones."""
  contents = files if isinstance(files, dict) else dict.fromkeys(files, b'')
  listed = folder.Files(tuple(sorted(contents)), '', contents.__getitem__)
  return folder.find_layout(listed, **fields)


def assert_same(one, other):
  assert one[3:] == other[3:]
  for split in ('train', 'test'):
    for array, expected in zip(
      getattr(one, split), getattr(other, split), strict=True
    ):
      assert array.dtype == expected.dtype
      np.testing.assert_array_equal(array, expected)


# ------------------------------------------------------------ Tiny ImageNet


def test_tiny_imagenet(load_folder, tmp_path, caplog):
  files, pixels = image_folders.tiny_imagenet()
  path = image_folders.write(tmp_path / 'tiny-3', files)
  with caplog.at_level(logging.INFO, 'advjax'):
    dataset = load_folder(path)
  assert (dataset.name, dataset.num_classes) == ('tiny-3', 3)
  # Two are called crane.
  assert dataset.class_names == ('crane (n03)', 'cat', 'crane (n02)')
  assert dataset.class_ids == ('n03', 'n01', 'n02')
  for images, labels in (dataset.train, dataset.test):
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert not images.flags.writeable
  names = image_folders.mixed(n for n in pixels if n.startswith('train'))
  np.testing.assert_array_equal(
    dataset.train.images, [pixels[n] for n in names]
  )
  labels = [image_folders.IDS.index(name.split('/')[1]) for name in names]
  np.testing.assert_array_equal(dataset.train.labels, labels)
  # In the order of the annotations, whose ids ascend.
  np.testing.assert_array_equal(
    dataset.test.images, [pixels[f'val/images/val_{k}.JPEG'] for k in range(3)]
  )
  np.testing.assert_array_equal(dataset.test.labels, [1, 2, 0])
  assert re.search('1 images belong to neither .*test_0.JPEG', caplog.text)
  kept = load_folder(path, classes=(2, 1))
  assert kept.class_ids == ('n02', 'n01')
  # Of the sizes and times of files, only this one's content is changed.
  ids = path / 'wnids.txt'
  time = ids.stat().st_mtime_ns
  ids.write_bytes(b'n02\nn01\nn03')
  os.utime(ids, ns=(time, time))
  assert load_folder(path).test.labels.tolist() == [1, 0, 2]


def tiny(changes=(), drop='-'):
  """Tiny ImageNet's layout with some files changed or left out."""
  files = {**image_folders.tiny_imagenet()[0], **dict(changes)}
  return {n: files[n] for n in files if not n.startswith(drop)}


def test_other_forms_of_tiny_imagenet():
  files = tiny(drop='val/')
  files |= {f'val/{i}/images/x{i}.JPEG': b'' for i in image_folders.IDS}
  labels = {name: label for name, label in find(files).test}
  assert labels == {
    'val/n01/images/xn01.JPEG': 1,
    'val/n02/images/xn02.JPEG': 2,
    'val/n03/images/xn03.JPEG': 0,
  }
  windows = {'wnids.txt': b'\xef\xbb\xbfn03\r\nn01\r\nn02\r\n\r\n'}
  assert find(tiny(windows))[1:] == find(tiny())[1:]


IDS, WORDS, LABELS = 'wnids.txt', 'words.txt', 'val/val_annotations.txt'
ANNOTATIONS = tiny()[LABELS]


@pytest.mark.parametrize(
  ('changes', 'drop', 'message'),
  [
    ({}, WORDS, r'words\.txt is missing'),
    ({}, LABELS, r'val/val_annotations\.txt is missing'),
    ({}, 'val/', r'the test split is missing.*val/'),
    ({}, 'train/n01', r"train/ need the same classes.*'n01'"),
    ({}, 'train', 'need the same classes.*n01'),
    ({}, 'train/n01/images', "train/: no image in the folders.*'n01'"),
    ({}, 'val/images/val_1', "the same images.*'val/images/val_1.JPEG'"),
    ({'val/images/new.png': b''}, '-', "same images.*'val/images/new.png'"),
    ({IDS: b'n01\nn02'}, '-', r"same classes; .*'n03'"),
    ({IDS: b'n01\nn01'}, '-', 'two or more different ids'),
    ({IDS: b'\xff\xfe'}, '-', r'wnids\.txt is not UTF-8 text'),
    ({WORDS: b'n01\ta\nn02\tb\nn03\t,'}, '-', r"words.*'n03'"),
    ({LABELS: ANNOTATIONS + b'val_3.JPEG\tn99\t1'}, '-', 'line 4: .*n99'),
    ({LABELS: ANNOTATIONS + b'val_0.JPEG\tn01\t1'}, '-', 'line 4: .*val_0'),
    ({LABELS: ANNOTATIONS.replace(b'n02', b'n01')}, '-', "classes.*'n02'"),
  ],
)
def test_what_is_missing_from_tiny_imagenet_is_named(changes, drop, message):
  with pytest.raises(ValueError, match=message):
    find(tiny(changes, drop))


def test_the_real_tiny_imagenet(load_folder):
  """Facts of 20 classes of Tiny ImageNet."""
  path = os.environ.get('ADVJAX_TINY_IMAGENET_DIR')
  if not path:
    pytest.skip('ADVJAX_TINY_IMAGENET_DIR names no folder of 20 of its classes')
  dataset = load_folder(path)
  assert dataset.class_ids[:3] == ('n02233338', 'n02906734', 'n04376876')
  assert dataset.class_names[2:5] == ('syringe', 'oboe', 'beer bottle')
  assert dataset.train.images.shape == (4000, 64, 64, 3)
  assert np.bincount(dataset.train.labels).tolist() == [200] * 20
  assert np.bincount(dataset.test.labels).tolist() == [50] * 20
  # Natural photographs.
  assert 0.3 < dataset.train.images.mean() / 255 < 0.6


# ------------------------------------------------------------ class folders


@pytest.mark.parametrize('test', ['test', 'val', 'validation'])
def test_split_folders(test):
  train = ['train/b/1.png', 'train/b/deep/er/0.JPG', 'train/a/2.webp']
  others = ['train/a/2.txt', f'{test}/readme.md']
  files = [*train, f'{test}/a/9.bmp', f'{test}/b/8.jpeg', *others]
  layout = find(files)
  assert (layout.class_names, layout.class_ids) == (('a', 'b'), ())
  assert dict(layout.train) == dict(zip(train, [1, 1, 0], strict=True))
  assert dict(layout.test) == {f'{test}/a/9.bmp': 0, f'{test}/b/8.jpeg': 1}
  # It may be in another folder; and a test/ without labels is skipped.
  assert find([f'top/{name}' for name in files] + ['readme'])[1:] == layout[1:]
  assert find([*files, 'test/7.png'])[1:] == layout[1:]


def test_classes_alone_are_divided_and_mixed():
  files = [f'{name}/{k}.png' for name in ('b', 'train') for k in range(100)]
  layout = find(files)
  assert layout.class_names == ('b', 'train')
  for split, count in ((layout.train, 80), (layout.test, 20)):
    names = [name for name, _ in split]
    assert names == image_folders.mixed(names)
    labels = [label for _, label in split]
    assert labels.count(0) == labels.count(1) == count
    assert labels[:10].count(0) in range(2, 9)
  assert sorted(name for name, _ in layout.train + layout.test) == sorted(files)
  # Those held out never change: the first three by their SHA-256.
  files = [f'{name}/{k}.png' for name in 'ab' for k in range(10)]
  test = {n for n, label in find(files, test_fraction=0.3).test if label == 0}
  assert test == {'a/0.png', 'a/2.png', 'a/8.png'}
  # They depend on the names of their own class alone.
  files = [*files[:10], *(f'c/{k}.png' for k in range(7))]
  assert test <= {n for n, _ in find(files, test_fraction=0.3).test}


@pytest.mark.parametrize(
  ('train', 'test'),
  [
    ('Train', 'Test'),
    ('TRAIN', 'VAL'),
    ('Training', 'Testing'),
    ('training', 'validation'),
    ('train', 'valid'),
    ('train', 'dev'),
    ('training_set', 'test_set'),
    ('seg_train/seg_train', 'seg_test/seg_test'),
    ('training_set/training_set', 'test_set/test_set'),
    ('train_images', 'test_images'),
    ('flowers-train', 'flowers-val'),
    ('train2017', 'val2017'),
    ('train_224', 'test_224'),
  ],
)
def test_other_spellings_of_splits(train, test):
  files = [f'{split}/{c}/1.png' for split in (train, test) for c in 'ab']
  for names in (files, [f'top/{name}' for name in files]):
    layout = find([*names, 'readme.txt'])
    assert layout.class_names == ('a', 'b')
    assert dict(layout.train) == {f'{train}/a/1.png': 0, f'{train}/b/1.png': 1}
    assert dict(layout.test) == {f'{test}/a/1.png': 0, f'{test}/b/1.png': 1}


@pytest.mark.parametrize(
  'classes',
  [
    ('drug_test', 'weight_training'),
    ('drug_test', 'running', 'weight_training', 'yoga'),
    ('post-test', 'pre-train', 'rest'),
    ('contest', 'strain'),
  ],
)
@pytest.mark.parametrize('inside', ['', 'left/', 'test/'])
def test_classes_that_have_words_of_splits_in_their_names(classes, inside):
  files = [f'{c}/{inside}{i}.png' for c in classes for i in range(2)]
  layout = find(files)
  assert layout.class_names == classes
  assert sorted(n for n, _ in layout.train + layout.test) == sorted(files)


def test_splits_beside_other_folders_are_no_classes():
  splits = [f'{split}/{c}/1.png' for split in ('Train', 'Test') for c in 'ab']
  with pytest.raises(ValueError, match="'Meta', 'Test', 'Train'"):
    find([*splits, 'Meta/1.png'])


def test_the_test_split_is_the_one_with_labels(caplog):
  for other in ('test/1.png', 'test/images/1.png'):
    caplog.clear()
    layout = find([*VAL, other, 'Testing/a/1.png'])
    assert dict(layout.test) == {'val/a/1.png': 0, 'val/b/1.png': 1}
    assert [r.levelname for r in caplog.records] == ['WARNING']
    assert 'test/ is skipped' in caplog.text
  # test/ before val/, however they are spelled.
  files = [
    f'{split}/{c}/1.png' for split in ('Train', 'Val', 'Test') for c in 'ab'
  ]
  assert dict(find(files).test) == {'Test/a/1.png': 0, 'Test/b/1.png': 1}
  # Predictions have no labels, and their images are in no split.
  files = [
    f'seg_{s}/seg_{s}/{c}/1.png' for s in ('train', 'test') for c in 'ab'
  ]
  assert len(find([*files, 'seg_pred/seg_pred/1.png']).test) == 2


TRAIN = ['train/a/1.png', 'train/b/1.png']
VAL = [*TRAIN, 'val/a/1.png', 'val/b/1.png']


@pytest.mark.parametrize(
  ('files', 'fraction', 'message'),
  [
    ([], None, 'no folder for classes'),
    (['1.png', '2.png'], None, 'no folder for classes; allowed: wnids.txt'),
    (['a/1.png', 'b/1.txt'], None, "no image in the folders.*'b'"),
    (['a/1.png', 'b/1.png', 'b/2.png'], None, "class 'a' has one image"),
    (TRAIN, None, 'test split is missing'),
    ([*TRAIN, 'val/a/1.png', 'val/c/1.png'], None, "same classes.*'b', 'c'"),
    (['train/a/1.png', 'val/a/1.png'], None, "train/ has 'a' for classes"),
    ([*TRAIN, 'val/a/1.png', 'val/b/1.png'], 0.3, '= 0.3; .* of its own'),
    ([*TRAIN, 'val/a/1.png'], None, "train/ and val/ .* has 'b'"),
    (
      ['train/a/1.png', 'val/a/1.png', 'val/b/1.png'],
      None,
      "only one of them has 'b'",
    ),
    (['Train/a/1.png', 'Train/b/1.png', 'Test/1.png'], None, 'Test/ has'),
    # Another test split is no way out of other classes.
    ([*VAL, 'test/x/1.png', 'test/y/1.png'], None, "train/ and test/ .* 'x'"),
    ([*VAL, 'test/b/1.png'], None, "train/ and test/ .* has 'a'"),
    # Classes or splits.
    (['train/1.png', 'test/1.png', 'test/2.png'], None, "'test', 'train' are"),
    (['train1/1.png', 'test1/1.png'], None, "'test1', 'train1' are"),
    (['dev/1.png', 'test/1.png'], None, "'dev', 'test' are"),
    (['test/a/1.png', 'val/a/1.png'], None, "'test', 'val' are"),
    (['Train/a/1.png', 'train2/a/1.png', 'test/1.png'], None, "'Train', 'te"),
    (
      ['train/a/1.png', 'train/\xe9/1.png', 'val/a/1.png', 'val/e\u0301/1.png'],
      None,
      r"'e\\u0301', '\\xe9'",
    ),
    (['a/1.png', 'b/1.png'], 1, r'test_fraction = 1; allowed'),
    (['a/1.png', 'b/1.png'], 'a', "test_fraction = 'a'; allowed"),
  ],
)
def test_other_layouts_are_refused(files, fraction, message):
  with pytest.raises(ValueError, match=message):
    find(files, test_fraction=fraction)


# ------------------------------------------------------------ files and zips


@pytest.mark.parametrize(
  'files',
  [
    image_folders.tiny_imagenet()[0],
    image_folders.class_folders(SPLITS)[0],
    image_folders.class_folders(count=5)[0],
  ],
  ids=['tiny', 'splits', 'classes'],
)
def test_a_zip_is_the_folder_that_it_holds(load_folder, tmp_path, files):
  junk = {'.hidden': b'', 'a/Thumbs.db': b'', '__MACOSX/b/._2.png': b''}
  one = load_folder(image_folders.write(tmp_path / 'set', {**files, **junk}))
  path = tmp_path / 'set.zip'
  for top in ('', 'anything/'):
    image_folders.write_zip(path, {**files, **junk}, top)
    assert_same(one, load_folder(path))
  assert one.name == 'set'
  # Nothing was unpacked, and files are only read.
  assert {p.name for p in tmp_path.iterdir()} == {'set', 'set.zip', 'cache'}
  assert all((tmp_path / 'set' / n).read_bytes() == files[n] for n in files)


@pytest.mark.parametrize(
  'write', [image_folders.write, image_folders.write_zip]
)
def test_a_changed_data_set_is_decoded_again(
  load_folder, tmp_path, caplog, write
):
  caplog.set_level(logging.INFO, 'advjax')
  files, _ = image_folders.class_folders(SPLITS)
  name, changed = 'train/a/0.png', picture(100)
  path = tmp_path / f'set.{write.__name__.removeprefix("write_")}'
  first = load_folder(write(path, files))
  assert_same(first, load_folder(path))
  assert caplog.text.count('decoding') == 2
  write(path, files | {name: encode(changed)})
  row = image_folders.mixed(n for n in files if 'train' in n).index(name)
  np.testing.assert_array_equal(load_folder(path).train.images[row], changed)
  assert caplog.text.count('decoding') == 4


def test_links_in_a_folder_are_followed(load_folder, tmp_path):
  files, _ = image_folders.class_folders(count=5)
  expected = load_folder(image_folders.write(tmp_path / 'set', files))
  linked = tmp_path / 'linked'
  linked.mkdir()
  (linked / 'a').symlink_to(tmp_path / 'set' / 'a')
  image_folders.write(linked, {n: files[n] for n in files if n[0] == 'b'})
  assert_same(load_folder(linked), expected)
  (linked / 'b' / 'gone.png').symlink_to(linked / 'nothing')
  with pytest.raises(ValueError, match=r'cannot be read.*gone\.png'):
    load_folder(linked)


def test_a_link_to_a_folder_above_is_refused(load_folder, tmp_path):
  files, _ = image_folders.class_folders(count=5)
  path = image_folders.write(tmp_path / 'set', files)
  (path / 'a' / 'round').symlink_to(path)
  (path / 'b' / 'round').symlink_to(path)
  with pytest.raises(ValueError, match='round is a link to a folder above'):
    load_folder(path)


JUNK = ['@eaDir', '#recycle', '$RECYCLE.BIN', 'System Volume Information']
JUNK += ['lost+found', '__pycache__', '__MACOSX', '.ipynb_checkpoints', '.git']


@pytest.mark.parametrize(
  'write', [image_folders.write, image_folders.write_zip]
)
def test_what_is_passed_over_is_said(load_folder, tmp_path, caplog, write):
  files, _ = image_folders.class_folders(count=5)
  path = tmp_path / f'set.{write.__name__.removeprefix("write_")}'
  expected = load_folder(write(path, files))
  others = {f'{j}/x/1.png': encode(picture(9)) for j in JUNK}
  others |= {f'a/{j}/1.png': encode(picture(9)) for j in JUNK}
  others |= {f'a/{i}.heic': b'' for i in range(24)}
  others |= {'b/2.avif': b'', 'b/notes': b'', 'readme.TXT': b''}
  path = tmp_path / 'more' / path.name
  path.parent.mkdir()
  write(path, files | others)
  for _ in range(2):
    caplog.clear()
    with caplog.at_level(logging.INFO, 'advjax'):
      assert_same(load_folder(path), expected)
    for text in ('24 .heic', '1 .avif', '1 .TXT', '1 without', "'@eaDir'"):
      assert caplog.text.count(text) == 1


def test_images_of_all_endings_are_read(load_folder, tmp_path):
  endings = ['png', 'apng', 'jpe', 'jfif', 'pjpeg', 'pjp', 'pnm', 'pbm', 'PNG']
  files = {
    f'{c}/{i}.{ending}': encode(picture(i))
    for c in 'ab'
    for i, ending in enumerate(endings)
  }
  path = image_folders.write(tmp_path / 'set', files)
  dataset = load_folder(path)
  assert len(dataset.train.labels) + len(dataset.test.labels) == len(files)


def test_names_that_are_not_utf_8(load_folder, tmp_path, caplog):
  path = tmp_path / 'd\udce9'
  files, _ = image_folders.class_folders(classes=('caf\udce9', 't\n'), count=5)
  with caplog.at_level(logging.INFO, 'advjax'):
    dataset = load_folder(image_folders.write(path, files))
  assert dataset.class_names == ('caf\\udce9', 't\\n')
  assert dataset.name == 'd\\udce9'
  assert np.bincount(dataset.train.labels).tolist() == [4, 4]


def test_classes_that_only_look_different_are_refused(load_folder, tmp_path):
  files, _ = image_folders.class_folders(classes=('\xe9', 'e\u0301'), count=5)
  path = image_folders.write(tmp_path / 'set', files)
  with pytest.raises(ValueError, match=r"set: classes = 'e\\u0301', '\\xe9'"):
    load_folder(path)
  assert not (tmp_path / 'cache').exists()  # Nothing was decoded.


def test_names_in_zips_of_other_systems(load_folder, tmp_path):
  """UTF-8 with and without its flag, and backslashes: the same images."""
  files, _ = image_folders.class_folders(classes=('caf\xe9', 'tea'), count=5)
  path = image_folders.write_zip(tmp_path / 'set.zip', files)
  expected = load_folder(path)
  assert expected.class_names == ('caf\xe9', 'tea')
  content = path.read_bytes()
  for header, at in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
    parts = content.split(header)
    parts[1:] = [
      part[: at - 4] + b'\0\0' + part[at - 2 :] for part in parts[1:]
    ]
    content = header.join(parts)
  path.write_bytes(content)
  images = load_folder(path)
  assert images.class_names[1] == 'tea'
  assert np.bincount(images.train.labels).tolist() == [4, 4]
  windows = {name.replace('/', '\\'): files[name] for name in files}
  image_folders.write_zip(path, windows)
  assert_same(load_folder(path), expected)


HOSTILE = ['/etc/a.png', 'C:\\a.png', '../a.png', 'b/../../a.png', '../']


@pytest.mark.parametrize(
  'name', [*HOSTILE, 'b\\..\\a.png', 'link', 'encrypted', 'b//1.png']
)
def test_hostile_zips_are_refused(tmp_path, name):
  path = tmp_path / 'set.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('b/1.png', b'1')
    info = zipfile.ZipInfo(name)
    if name == 'link':
      info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, b'')
  if name == 'encrypted':
    content = bytearray(path.read_bytes())
    content[content.rindex(b'PK\x01\x02') + 8] |= 1
    path.write_bytes(content)
  message = re.escape(f'set.zip: member {name!r}; allowed: ')
  with pytest.raises(ValueError, match=message), folder.open_files(path):
    pass


def test_a_small_zip_of_a_huge_file_is_not_unpacked(tmp_path, monkeypatch):
  path = tmp_path / 'set.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a..b/bomb.png', bytes(1 << 20))
  monkeypatch.setattr(folder, '_MAX_BYTES', (1 << 20) - 1)
  with (
    folder.open_files(path) as files,
    pytest.raises(ValueError, match=r'bomb\.png would take 1,048,576 bytes'),
  ):
    files.read('a..b/bomb.png')


def test_a_damaged_zip_is_refused(tmp_path):
  path = image_folders.write_zip(tmp_path / 'set.zip', {'a.png': b'123456'})
  content = path.read_bytes()
  flipped = content.replace(b'123456', b'123457')
  for damaged in (content[:-30], b'<html>Not found</html>', b'', flipped):
    path.write_bytes(damaged)
    with (
      pytest.raises(ValueError, match=r'set\.zip: .*copy or make it again'),
      folder.open_files(path) as files,
    ):
      files.read('a.png')


def test_other_paths_are_refused(load_folder, tmp_path):
  with pytest.raises(FileNotFoundError, match=r"set'.*no such folder"):
    load_folder(tmp_path / 'set')
  (tmp_path / 'set.tar.gz').write_bytes(b'')
  with pytest.raises(ValueError, match=r'set\.tar\.gz.*allowed: a folder'):
    load_folder(tmp_path / 'set.tar.gz')
  path = image_folders.write(tmp_path / 'one', {'a/1.png': b''})
  with pytest.raises(ValueError, match=f'{re.escape(str(path))}: '):
    load_folder(path)


# ------------------------------------------------------ odd and bad images


def test_odd_images_become_rgb_and_are_counted(load_folder, tmp_path, caplog):
  files, pixels = image_folders.class_folders(SPLITS, 'ab', 40)
  grey, large = picture(1)[..., 0], picture(7, 12, 27)
  files |= {'train/a/g.png': encode(grey), 'train/a/l.png': encode(large)}
  # A third of its size is 4 x 9, of which the middle is kept.
  small = Image.fromarray(large).resize((9, 4), Image.Resampling.BILINEAR)
  pixels['train/a/g.png'] = grey[..., None].repeat(3, -1)
  pixels['train/a/l.png'] = np.asarray(small)[:, 2:7]
  path = image_folders.write(tmp_path / 'set', files)
  for _ in range(2):
    caplog.clear()
    with caplog.at_level(logging.INFO, 'advjax'):
      dataset = load_folder(path)
    counts = '82 images of 4 x 5, 1 grey, 1 resized\n'
    assert f'set train: {counts}' in caplog.text
    assert 'set test: 80 images of 4 x 5\n' in caplog.text
  names = image_folders.mixed(n for n in files if n.startswith('train'))
  expected = [pixels[name] for name in names]
  np.testing.assert_array_equal(dataset.train.images, expected)


def test_image_size(load_folder, tmp_path):
  files, pixels = image_folders.class_folders(SPLITS, 'ab', 4)
  path = image_folders.write(tmp_path / 'set', files)
  dataset = load_folder(path, image_size=4)
  assert dataset.train.images.shape == (8, 4, 4, 3)
  # Half a column is cut off at either side.
  image = Image.fromarray(pixels['test/b/1.png'])
  expected = image.resize(
    (4, 4), Image.Resampling.BILINEAR, box=(0.5, 0, 4.5, 4)
  )
  names = image_folders.mixed(n for n in files if 'test' in n)
  row = names.index('test/b/1.png')
  np.testing.assert_array_equal(dataset.test.images[row], expected)
  assert load_folder(path).train.images.shape == (8, 4, 5, 3)
  for k in range(2):
    (path / f'train/a/{k}.png').write_bytes(encode(picture(k, 6, 6)))
  with pytest.raises(ValueError, match=r'2 sizes.*4 x 5, 6 x 6.*image_size'):
    load_folder(path)
  for size in (0, 2.5, '64'):
    with pytest.raises(ValueError, match=f'image_size = {size!r}; allowed: an'):
      load_folder(path, image_size=size)
  assert load_folder(path, image_size=5).train.images.shape == (8, 5, 5, 3)


def with_bad(files, where, count):
  """Damages some files, each in another way."""
  damage = [lambda b: b[:-40], lambda b: b'', lambda b: b'no image']
  damaged = sorted(name for name in files if name.startswith(where))[:count]
  changes = {n: damage[k % 3](files[n]) for k, n in enumerate(damaged)}
  return {**files, **changes}


def test_bad_images_are_left_out_and_named(
  load_folder, tmp_path, monkeypatch, caplog
):
  files, pixels = image_folders.class_folders(SPLITS, 'ab', 150)
  bad = with_bad(files, 'train/b', 2)
  bad['train/b/bomb.png'] = encode(np.zeros((50, 60, 3), np.uint8))
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50 * 60 - 1)
  path = image_folders.write(tmp_path / 'set', bad)
  for _ in range(2):
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'advjax'):
      dataset = load_folder(path)
    assert '3 images were left out' in caplog.text
    assert 'train/b/0.png cannot be decoded' in caplog.text
    assert re.search(r'bomb\.png .*exceeds', caplog.text)
    assert 'test/' not in caplog.text
  assert np.bincount(dataset.train.labels).tolist() == [150, 148]
  names = image_folders.mixed(
    n for n in files if n.startswith('train') and bad[n] is files[n]
  )
  np.testing.assert_array_equal(
    dataset.train.images, [pixels[n] for n in names]
  )
  assert len(dataset.test.labels) == 300


@pytest.mark.parametrize(
  ('count', 'num_bad', 'message'),
  [
    (150, 4, 'test: more than 1 % of 300 images .*test/a/0'),
    (2, 2, "test: .* all of the class 'a'"),
  ],
)
def test_too_many_bad_images_are_an_error(
  load_folder, tmp_path, count, num_bad, message
):
  files, _ = image_folders.class_folders(SPLITS, 'ab', count)
  bad = with_bad(files, 'test/a', num_bad)
  path = image_folders.write(tmp_path / 'set', bad)
  with pytest.raises(ValueError, match=message):
    load_folder(path, image_size=4)
  assert not list((tmp_path / 'cache').glob('set-test-*/*/*'))
  image_folders.write(path, dict.fromkeys(files, b''))
  with pytest.raises(
    ValueError, match=r'none of its images can be decoded: t\w+/./\d+.png '
  ):
    load_folder(path)
