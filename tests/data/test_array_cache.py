"""Tests of the cache of decoded images: whole, checked, written once."""

import errno
import fcntl
import mmap
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import array_cache

SOURCE = {'folder': '/sets/pets', 'files': [['a', 3, 5]]}
NAMES = ('cat', 'dog')
FILES = ('images.npy', 'labels.npy', 'entry.json')


def arrays(num_images=7, seed=0):
  random = np.random.default_rng(seed)
  images = random.integers(0, 256, (num_images, 4, 3, 2), np.uint8)
  return images, random.integers(0, 2, num_images)


def blocks_of(images, labels, size=3):
  for start in range(0, len(images), size):
    yield images[start : start + size], labels[start : start + size]


def write(folder, source=SOURCE, num_images=7, seed=0):
  images, labels = arrays(num_images, seed)
  return array_cache.write(
    folder, source, blocks_of(images, labels), num_images, NAMES
  )


def drawn():
  """Blocks that must not be asked for."""
  raise AssertionError('decoded again')
  yield


def entry_of(folder):
  (path,) = [path for path in folder.iterdir() if len(path.name) == 32]
  return path


def all_files(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, sizes):
  folder = tmp_path_factory.mktemp('cache') / 'pets'
  images, labels = arrays(sum(sizes))
  ends = np.cumsum(sizes)
  blocks = (
    (images[end - size : end], labels[end - size : end])
    for size, end in zip(sizes, ends, strict=True)
  )
  written = array_cache.write(folder, SOURCE, blocks, len(images), NAMES)
  for entry in (written, array_cache.read(folder, SOURCE)):
    np.testing.assert_array_equal(entry.images, images)
    np.testing.assert_array_equal(entry.labels, labels)
    assert (entry.images.dtype, entry.labels.dtype) == (np.uint8, np.int32)
    assert entry.class_names == NAMES


def test_arrays_are_plain_memory_mapped_and_read_only(tmp_path):
  entry = write(tmp_path)
  for array in (entry.images, entry.labels):
    assert type(array) is np.ndarray
    assert not array.flags.writeable
    while isinstance(array, np.ndarray):
      array = array.base
    assert isinstance(array, mmap.mmap)


def test_the_files_are_those_of_numpy(tmp_path):
  write(tmp_path)
  images, labels = arrays()
  path = entry_of(tmp_path)
  np.testing.assert_array_equal(np.load(path / 'images.npy'), images)
  np.testing.assert_array_equal(np.load(path / 'labels.npy'), labels)


def test_an_entry_is_written_once(tmp_path):
  assert array_cache.read(tmp_path, SOURCE) is None
  write(tmp_path)
  before = all_files(tmp_path)
  entry = array_cache.write(tmp_path, SOURCE, drawn(), 7, NAMES)
  np.testing.assert_array_equal(entry.images, arrays()[0])
  assert all_files(tmp_path) == before


def test_another_source_replaces_the_entry_and_nothing_else(tmp_path):
  mine = tmp_path / 'mine'
  mine.mkdir()
  (mine / 'notes.txt').write_text('keep')
  (tmp_path / 'notes.txt').write_text('keep')
  old = write(tmp_path)
  changed = {**SOURCE, 'files': [['a', 3, 6]]}
  assert array_cache.read(tmp_path, changed) is None
  new = write(tmp_path, changed, num_images=5, seed=1)
  np.testing.assert_array_equal(new.images, arrays(5, seed=1)[0])
  assert array_cache.read(tmp_path, SOURCE) is None
  assert {path.name for path in tmp_path.iterdir()} == {
    '.lock',
    'mine',
    'notes.txt',
    entry_of(tmp_path).name,
  }
  assert (mine / 'notes.txt').read_text() == 'keep'
  # Whoever has the old one open goes on reading it.
  np.testing.assert_array_equal(old.images, arrays()[0])


# ------------------------------------------------------------------- damage


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('how', ['first', 'middle', 'last', 'cut', 'gone'])
def test_damage_is_found_and_left_alone(tmp_path, name, how):
  write(tmp_path)
  file = entry_of(tmp_path) / name
  content = bytearray(file.read_bytes())
  places = {'first': 0, 'middle': len(content) // 2, 'last': -1}
  if how == 'gone':
    file.unlink()
  elif how == 'cut':
    file.write_bytes(content[:-1])
  else:
    content[places[how]] ^= 1
    file.write_bytes(content)
  before = all_files(tmp_path)
  for attempt in (
    lambda: array_cache.read(tmp_path, SOURCE),
    lambda: array_cache.write(tmp_path, SOURCE, drawn(), 7, NAMES),
  ):
    with pytest.raises(ValueError, match='the cache is damaged') as error:
      attempt()
    assert str(file) in str(error.value)
    assert f"Delete the folder '{file.parent}'" in str(error.value)
    assert all_files(tmp_path) == before
  # The way out.
  shutil.rmtree(file.parent)
  np.testing.assert_array_equal(write(tmp_path).images, arrays()[0])


# -------------------------------------------------------------- interruptions


def test_an_exception_leaves_nothing(tmp_path):
  def blocks():
    images, labels = arrays()
    yield images[:3], labels[:3]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    array_cache.write(tmp_path, SOURCE, blocks(), 7, NAMES)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
  assert array_cache.read(tmp_path, SOURCE) is None


def test_trouble_with_the_source_is_not_laid_on_the_cache(tmp_path):
  def unreadable():
    raise PermissionError(13, 'Permission denied', 'mnist-train.array_record')
    yield

  with pytest.raises(
    ValueError, match=r'the data set cannot be read: .*mnist-train.array_rec'
  ):
    array_cache.write(tmp_path / 'set', {'a': 1}, unreadable(), 3, ('a', 'b'))


def test_others_may_read_what_they_may_find(tmp_path):
  folder = tmp_path / 'set'
  folder.mkdir(mode=0o755)
  block = (np.zeros((3, 2, 2, 1), np.uint8), np.arange(3))
  array_cache.write(folder, {'a': 1}, [block], 3, ('a', 'b', 'c'))
  (entry,) = [path for path in folder.iterdir() if path.is_dir()]
  assert entry.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777


def test_too_few_images_are_no_entry(tmp_path):
  images, labels = arrays()
  with pytest.raises(ValueError, match='7 images came, 8 were promised'):
    array_cache.write(tmp_path, SOURCE, blocks_of(images, labels), 8, NAMES)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


@pytest.mark.parametrize('num_images', [8, 10_007])
def test_fewer_images_may_come_where_that_is_said(tmp_path, num_images):
  images, labels = arrays()
  entry = array_cache.write(
    tmp_path,
    SOURCE,
    blocks_of(images, labels),
    num_images,
    NAMES,
    fewer=True,
  )
  np.testing.assert_array_equal(entry.images, images)
  np.testing.assert_array_equal(entry.labels, labels)
  path = entry_of(tmp_path) / 'images.npy'
  np.testing.assert_array_equal(np.load(path), images)


def test_more_images_than_promised_are_no_entry(tmp_path):
  images, labels = arrays()
  with pytest.raises(ValueError, match='7 images came, 6 were promised'):
    array_cache.write(
      tmp_path, SOURCE, blocks_of(images, labels), 6, NAMES, fewer=True
    )


def test_notes_are_kept(tmp_path):
  notes = {}

  def blocks():
    yield arrays()
    notes['grey'] = 3

  entry = array_cache.write(tmp_path, SOURCE, blocks(), 7, NAMES, notes=notes)
  assert entry.notes == {'grey': 3}
  assert array_cache.read(tmp_path, SOURCE).notes == {'grey': 3}
  assert write(tmp_path / 'other').notes == {}


PROGRAM = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
from advjax.data import array_cache
from tests.data.test_array_cache import NAMES, SOURCE, arrays, blocks_of

def blocks():
  print('decoding', flush=True)
  for block in blocks_of(*arrays()):
    yield block
    if sys.argv[2] == 'die':
      os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)

folder = pathlib.Path(sys.argv[1])
sys.stdin.read()  # Until all are ready.
entry = array_cache.write(folder, SOURCE, blocks(), 7, NAMES)
print(int(entry.images.sum()), flush=True)
"""


def start(folder, what):
  """Starts a process that writes the entry once its input is closed."""
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM.format(root=root), folder, what],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )


def test_what_a_killed_process_leaves_is_ignored_and_removed(tmp_path):
  process = start(tmp_path, 'die')
  process.communicate(timeout=60)
  assert process.returncode == -9
  names = {path.name for path in tmp_path.iterdir()}
  assert any(name.startswith('writing-') for name in names)
  assert array_cache.read(tmp_path, SOURCE) is None
  np.testing.assert_array_equal(write(tmp_path).images, arrays()[0])
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'.lock', entry_of(tmp_path).name}


def test_of_two_processes_one_decodes(tmp_path):
  processes = [start(tmp_path, 'live') for _ in range(2)]
  for process in processes:
    process.stdin.close()
    process.stdin = None
  outputs = [process.communicate(timeout=60)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  total = str(int(arrays()[0].sum()))
  assert sorted(outputs) == sorted([f'{total}\n', f'decoding\n{total}\n'])
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'.lock', entry_of(tmp_path).name}


def test_without_locks_the_quicker_one_wins(tmp_path, monkeypatch):
  def flock(stream, operation):
    raise OSError(errno.ENOLCK, 'no locks')

  monkeypatch.setattr(fcntl, 'flock', flock)
  leftover = tmp_path / 'writing-by-another'
  leftover.mkdir()

  def blocks():
    images, labels = arrays()
    yield images[:3], labels[:3]
    write(tmp_path)  # Another process gets there first.
    yield images[3:], labels[3:]

  entry = array_cache.write(tmp_path, SOURCE, blocks(), 7, NAMES)
  np.testing.assert_array_equal(entry.images, arrays()[0])
  # It may be alive.
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'.lock', leftover.name, entry_of(tmp_path).name}


# ------------------------------------------------------------- no room, no way


def test_room_is_looked_for_before_decoding(tmp_path, monkeypatch):
  usage = namedtuple('usage', 'total used free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(200, 40, 160))
  count = []

  def blocks():
    for block in blocks_of(*arrays()):
      count.append(block)
      yield block

  with pytest.raises(
    ValueError, match=r'168 bytes are needed, 160 are free.*cache_dir'
  ):
    array_cache.write(tmp_path, SOURCE, blocks(), 7, NAMES)
  assert len(count) == 1
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
  try:
    with pytest.raises(ValueError, match=r'cannot be kept.*cache_dir') as error:
      write(tmp_path, num_images=1000)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert isinstance(error.value.__cause__, OSError)
  assert str(tmp_path) in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
  assert len(write(tmp_path, num_images=1000).images) == 1000


def test_a_file_in_the_place_of_the_folder(tmp_path):
  file = tmp_path / 'file'
  file.write_text('mine')
  with pytest.raises(ValueError, match=f'{file}.*cannot be kept.*cache_dir'):
    write(file / 'pets')
  assert file.read_text() == 'mine'


def test_the_default_place_is_the_users_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert array_cache.default_root() == tmp_path / 'advjax' / 'datasets'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  expected = tmp_path / '.cache' / 'advjax' / 'datasets'
  assert array_cache.default_root() == expected
