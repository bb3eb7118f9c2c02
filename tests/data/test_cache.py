"""The cache of decoded images: entries are whole, and written once."""

import errno
import logging
import mmap
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from advjax.data import cache

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 3, 2), np.uint8)
LABELS = np.arange(7) % 2


def samples():
  return zip(IMAGES, LABELS.tolist(), strict=True)


def entry_path(root, state=1):
  return cache.entry_path(str(root), 'pets', '/sets/pets', state)


def write(root, state=1, drawn=None):
  path = entry_path(root, state)
  return cache.write(path, drawn or samples(), 7, {'a': 'ä'}, 'pets')


def names(root):
  """What is in the folder of the set, but the lock."""
  return {p.name for p in entry_path(root).parent.iterdir()} - {'.lock'}


def check(entry, count=7):
  np.testing.assert_array_equal(entry.images, IMAGES[:count])
  np.testing.assert_array_equal(entry.labels, LABELS[:count])
  assert (entry.images.dtype, entry.labels.dtype) == (np.uint8, np.int32)
  assert not entry.images.flags.writeable and not entry.labels.flags.writeable


def test_an_entry_is_written_once_then_mapped_into_memory(tmp_path):
  assert cache.read(entry_path(tmp_path)) is None
  written = write(tmp_path)
  for entry in (
    written,
    cache.read(entry_path(tmp_path)),
    write(tmp_path, drawn=[None]),  # Not drawn from.
  ):
    check(entry)
    assert entry.info == {'a': 'ä'}
    array = entry.images
    assert type(array) is np.ndarray
    while isinstance(array, np.ndarray):
      array = array.base
    assert isinstance(array, mmap.mmap)
  folder = entry_path(tmp_path)
  assert folder.stat().st_mode == folder.parent.stat().st_mode


def test_fewer_samples_may_come_and_info_is_read_last(tmp_path):
  info = {}

  def fewer():
    yield from list(samples())[:5]
    info['num_bad'] = 2

  entry = cache.write(entry_path(tmp_path), fewer(), 7, info, 'pets')
  check(entry, count=5)
  assert entry.info == {'num_bad': 2}


def test_another_state_replaces_the_entry_and_nothing_else(tmp_path):
  old = write(tmp_path)
  notes = entry_path(tmp_path).parent / 'notes'
  notes.mkdir()
  assert cache.read(entry_path(tmp_path, 2)) is None
  check(write(tmp_path, 2))
  assert names(tmp_path) == {'notes', entry_path(tmp_path, 2).name}
  check(old)  # Whoever has the old one open can still read it.


@pytest.mark.parametrize('name', ['images.bin', 'labels.npz'])
def test_a_damaged_entry_is_made_again_with_a_warning(tmp_path, caplog, name):
  write(tmp_path)
  file = entry_path(tmp_path) / name
  content = file.read_bytes()
  for damaged in (content[:-1], b'', None):
    file.unlink()
    if damaged is not None:
      file.write_bytes(damaged)
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'advjax'):
      assert cache.read(entry_path(tmp_path)) is None
    assert f'{file.parent} is damaged' in caplog.text
    check(write(tmp_path))
    assert file.read_bytes() == content


def test_an_entry_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
  write(tmp_path)

  def fail(*_):
    raise PermissionError(errno.EACCES, 'x')

  with monkeypatch.context() as patch, pytest.raises(PermissionError):
    patch.setattr(cache, 'read_npz', fail)
    cache.read(entry_path(tmp_path))
  check(write(tmp_path, drawn=[None]))  # Not drawn from.


PROGRAM = """
import os, signal, sys, time
from tests.data import test_cache

def drawn(end):
  print('decoding', flush=True)
  for sample in test_cache.samples():
    yield sample
    time.sleep(0.1)
  if end == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)

for end in ('alive', 'killed'):
  test_cache.write(f'{sys.argv[1]}/{end}', drawn=drawn(end))
"""


def test_another_process_is_waited_for(tmp_path, caplog):
  with (
    caplog.at_level(logging.INFO, 'advjax'),
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, tmp_path],
      stdout=subprocess.PIPE,
      cwd=pathlib.Path(__file__).parents[2],
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': '.'},
    ) as process,
  ):
    # What it wrote is read; where it was killed, nothing is left.
    for end, drawn in (('alive', [None]), ('killed', samples())):
      root = tmp_path / end
      assert process.stdout.readline() == b'decoding\n'
      assert cache.read(entry_path(root)) is None
      check(write(root, drawn=drawn))
      assert names(root) == {entry_path(root).name}
  assert process.returncode == -9
  assert caplog.text.count('waiting for another process') == 2


def test_errors_leave_nothing(tmp_path):
  def drawn():
    yield next(samples())
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write(tmp_path, drawn=drawn())
  assert names(tmp_path) == set()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
  try:
    message = f'{tmp_path}.*cannot be written.*cache_dir'
    with pytest.raises(ValueError, match=message):
      write(tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert names(tmp_path) == set()
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(ValueError, match=f'{file}.*cannot be written.*cache_dir'):
    write(file)


def test_the_default_place_is_the_users_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for variable, folder in (
    ('', '.cache'),
    ('relative', '.cache'),  # Invalid, by the standard.
    ('~/y', 'y'),
    (str(tmp_path / 'x'), 'x'),
  ):
    monkeypatch.setenv('XDG_CACHE_HOME', variable)
    root = tmp_path / folder / 'advjax' / 'datasets'
    assert cache.entry_path(None, 'a', 'b', 'c').is_relative_to(root)
