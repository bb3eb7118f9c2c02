"""What one process has compiled, the next one reuses."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from advjax import compile_cache


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('caches')


@pytest.fixture(scope='module')
def results(root):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.compile_caches', str(root)],
    stdout=subprocess.PIPE,
    check=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  return json.loads(done.stdout)


def test_the_second_process_compiles_nothing(results, root):
  first, second = results['first'], results['second']
  assert first['compiled'] == len(first['entries']) >= 2
  assert second['compiled'] == 0
  assert second['entries'] == first['entries']
  assert first['stderr'] == second['stderr'] == ''
  folder = pathlib.Path(first['folder'])
  assert folder.parent == root / 'cache' / 'advjax' / 'compiled'
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_half_written_programs_are_replaced(results):
  damaged, healed = results['damaged'], results['healed']
  assert damaged['compiled'] == results['first']['compiled']
  assert damaged['entries'].keys() == results['first']['entries'].keys()
  (line,) = damaged['stderr'].splitlines()
  assert line.startswith('Error reading persistent compilation cache entry')
  assert healed['compiled'] == 0
  assert healed['stderr'] == ''


def test_settings_of_the_user_take_precedence(results, root):
  assert results['own']['folder'] == str(root / 'own')
  # JAX's own threshold holds there: it keeps what takes a second.
  assert results['own']['compiled'] >= 2
  assert results['own']['stderr'] == ''
  assert not list((root / 'own').glob('*-cache'))
  assert not (root / 'unused').exists()


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('unwritable', 'compiled programs are not cached: '),
    ('full', 'Error writing persistent compilation cache entry'),
  ],
)
def test_programs_that_cannot_be_written_are_one_warning(
  results, name, message
):
  case = results[name]
  assert case['compiled'] >= 2
  assert not case['entries']
  (line,) = case['stderr'].splitlines()
  assert line.startswith(message)


def test_importing_changes_no_setting(results):
  assert results['unchanged']


def test_the_least_recently_used_programs_are_removed(tmp_path):
  for age, name in enumerate(['d-cache', 'c-cache', 'b-cache', 'a-cache']):
    (tmp_path / name).write_bytes(bytes(100))
    os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
  # Written long ago, but read since.
  os.utime(tmp_path / 'b-cache', (1e9 + 1, 0))
  (tmp_path / 'else').write_bytes(bytes(1000))
  compile_cache.remove_oldest(tmp_path, 400)
  assert len(list(tmp_path.iterdir())) == 5
  compile_cache.remove_oldest(tmp_path, 299)
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {'b-cache', 'd-cache', 'else'}


def test_each_kind_of_machine_has_a_folder(monkeypatch):
  folder = compile_cache.default_folder()
  assert folder == compile_cache.default_folder()
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(77))
  assert compile_cache.default_folder() != folder
