"""Tests of the user's own arrays: what is taken, and what is refused."""

import errno
import io
import re
import zipfile

import numpy as np
import pytest

from advjax import data, files

REFUSALS = [
  # field, its new value (None: left out), what the message says.
  ('train_images', None, 'lacks train_images; it holds test_images'),
  ('test_labels', None, 'lacks test_labels'),
  ('train_images', np.zeros([6, 8], np.uint8), r'\(6, 8\); .*\[N, H, W, C\]'),
  ('train_images', np.zeros([0, 8, 8], np.uint8), r'\(0, 8, 8\); .*empty'),
  ('test_images', np.zeros([4, 8, 0, 3], np.uint8), 'empty'),
  ('train_images', np.zeros([6, 8, 8], np.int64), 'int64.*uint8'),
  ('train_images', np.full([6, 8, 8], 1.5), r'1\.5.*\[0, 1\]'),
  ('train_images', np.full([6, 8, 8], np.nan), r'nan.*\[0, 1\]'),
  ('test_images', np.full([4, 8, 8], np.inf), r'inf.*\[0, 1\]'),
  ('test_images', np.zeros([4, 8, 9], np.uint8), r'\(8, 9, 1\).*\(8, 8, 1\)'),
  ('test_labels', np.zeros(5, int), r'int64 \[5\]; allowed: int \[4\]'),
  ('train_labels', np.zeros(6), r'float64 \[6\]; allowed: int \[6\]'),
  ('train_labels', np.zeros([6, 3], int), r'\[6, 3\]; allowed: int \[6\]'),
  ('train_labels', np.zeros(0, int), r'int64 \[0\]; allowed'),
  ('train_labels', np.array([0, 1, 2, 0, 1, -1]), '-1'),
  ('test_labels', np.array([0, 1, 2, 3]), r'3; allowed: \[0, 3\)'),
  ('test_labels', np.array([0, 1, 2, 2**40]), f'{2**40}'),
  ('class_names', np.array(['a', 'b']), r'2; allowed: \[0, 2\).*class_names'),
  ('class_names', np.array([1, 2, 3]), 'int64.*strings'),
  ('class_names', np.array([['a', 'b', 'c']]), 'strings'),
  ('class_names', np.array([1, 'two', None], object), 'names .*not pickled'),
]


def arrays():
  """Six training and four test images of three classes."""
  random = np.random.RandomState(0)
  return {
    'train_images': random.randint(0, 256, [6, 8, 8], np.uint8),
    'train_labels': np.array([0, 1, 2, 0, 1, 2], np.int64),
    'test_images': random.randint(0, 256, [4, 8, 8], np.uint8),
    'test_labels': np.array([0, 1, 2, 0], np.uint8),
  }


def load(path, **changes):
  """Writes the arrays with some of them changed, and loads them."""
  fields = {**arrays(), **changes}
  np.savez(path, **{k: v for k, v in fields.items() if v is not None})
  return data.load({'name': 'npz', 'path': str(path)})


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'mine.npz'


def test_the_home_folder_is_found(tmp_path, monkeypatch, path):
  load(path)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert len(data.load({'name': 'npz', 'path': '~/mine.npz'}).train.labels) == 6


def test_grey_bytes_get_a_channel(path):
  dataset = load(path)
  assert dataset.name == 'npz'
  assert dataset.num_classes == 3
  assert dataset.class_names == ('0', '1', '2')
  np.testing.assert_array_equal(
    dataset.train.images, arrays()['train_images'][..., None]
  )
  np.testing.assert_array_equal(dataset.test.labels, [0, 1, 2, 0])
  for split in (dataset.train, dataset.test):
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32


def test_floats_become_float32(path):
  for dtype in (np.float16, np.float64):
    images = np.linspace(0, 1, 6 * 8 * 8 * 3).reshape(6, 8, 8, 3).astype(dtype)
    dataset = load(path, train_images=images, test_images=images[:4])
    assert dataset.train.images.dtype == np.float32
    np.testing.assert_allclose(dataset.train.images, images, rtol=1e-7)


def test_class_names_say_how_many_classes_there_are(path):
  names = np.array(['ant', 'bee', 'cat', 'dog'])
  # Other fields are left alone, even pickled ones.
  dataset = load(path, class_names=names, notes=np.array([object()]))
  assert dataset.num_classes == 4
  assert dataset.class_names == ('ant', 'bee', 'cat', 'dog')


@pytest.mark.parametrize(('field', 'value', 'message'), REFUSALS)
def test_refuses(path, field, value, message):
  with pytest.raises(ValueError, match=message) as caught:
    load(path, **{field: value})
  assert str(path) in str(caught.value)
  if value is not None and field != 'class_names':
    assert field in str(caught.value)


def test_refuses_damaged_and_other_files(path):
  load(path)
  whole = path.read_bytes()
  middle = len(whole) // 4
  single = io.BytesIO()
  np.save(single, np.zeros(3))
  for content, message in (
    (b'not an archive', r'\.npz file'),
    (b'PK\x03\x04 broken', r'\.npz file'),
    (b'\x80\x04N.', r'\.npz file'),
    (single.getvalue(), r'\.npz file'),
    (whole[:200], 'truncated'),
    (whole[:middle] + b'damage' + whole[middle + 6 :], 'cannot be read'),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
      data.load({'name': 'npz', 'path': str(path)})
    assert str(path) in str(caught.value)


def test_what_may_pass_is_no_damage(path, monkeypatch):
  """A disk that fails, and a file that is larger than memory."""
  load(path)

  def fail(*_, **__):
    raise error

  for error in (OSError(errno.EIO, 'x'), PermissionError(errno.EACCES, 'x')):
    with monkeypatch.context() as patch, pytest.raises(type(error)):
      patch.setattr(zipfile.ZipFile, 'open', fail)
      files.read_npz(path)
  error = MemoryError()
  with monkeypatch.context() as patch, pytest.raises(MemoryError):
    patch.setattr(np.lib.format, 'read_array', fail)
    files.read_npz(path)
  with pytest.raises(IsADirectoryError):
    files.read_npz(path.parent)


def test_no_header_is_believed(path):
  """It declares more memory than there is, or is nested too deeply."""
  header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 8, 8)}"
  for text in (header % 2**50, header % -1, b'-' * 9000 + b'1'):
    with zipfile.ZipFile(path, 'w') as archive:
      size = len(text).to_bytes(2, 'little')
      content = b'\x93NUMPY\x01\x00' + size + text + bytes(64)
      archive.writestr('train_images.npy', content)
    with pytest.raises(ValueError, match=r'mine.npz: train_images cannot'):
      files.read_npz(path)


def test_missing_file_names_the_two_ways_out(tmp_path):
  missing = str(tmp_path / 'missing.npz')
  with pytest.raises(FileNotFoundError, match=re.escape(missing)) as caught:
    data.load({'name': 'npz', 'path': missing})
  assert 'numpy.savez' in str(caught.value)
  assert "name='digits'" in str(caught.value)
  with pytest.raises(FileNotFoundError, match='no such file'):
    data.load({'name': 'npz', 'path': str(tmp_path)})


def test_the_array_that_is_wrong_first_is_named(path):
  pickled = np.array([0, 1, None] * 2, object)
  with pytest.raises(ValueError, match=r'train_labels .*not pickled'):
    load(path, train_labels=pickled, test_labels=pickled[:4])


def test_other_names_of_arrays_are_listed(tmp_path):
  path = tmp_path / 'keras.npz'
  np.savez(path, x_train=np.zeros(3), y_train=np.zeros(3))
  with pytest.raises(ValueError, match=r'it holds x_train, y_train$'):
    data.load({'name': 'npz', 'path': str(path)})
