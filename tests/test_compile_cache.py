"""What one process has compiled, the next one reads, come what may."""

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
  root = tmp_path_factory.mktemp('caches')
  subprocess.run(
    [sys.executable, '-m', 'tests.compile_caches', str(root)],
    check=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  return root


@pytest.fixture(scope='module')
def results(root):
  return json.loads((root / 'results.json').read_text())


def test_the_second_process_compiles_nothing(results, root):
  first, second = results['first'], results['second']
  assert first['compiled'] == len(first['entries']) >= 2
  assert second['compiled'] == 0
  assert second['entries'] == first['entries']
  assert first['stderr'] == second['stderr'] == ''
  folder = pathlib.Path(first['folder'])
  assert folder.parent == root / 'cache' / 'advjax' / 'compiled'
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_damaged_is_compiled_anew(results):
  damaged, healed = results['damaged'], results['healed']
  assert damaged['compiled'] == results['first']['compiled']
  assert damaged['entries'].keys() == results['first']['entries'].keys()
  (line,) = damaged['stderr'].splitlines()
  assert 'is damaged and is compiled anew' in line
  assert healed['compiled'] == 0
  assert healed['stderr'] == ''


def test_settings_of_the_user_win(results, root):
  assert results['off']['folder'] is None
  assert results['own']['folder'] == str(root / 'own')
  # JAX's own threshold holds there: it keeps what takes a second.
  for name in ('off', 'own'):
    assert results[name]['compiled'] >= 2
    assert results[name]['stderr'] == ''
    assert not results[name]['entries']
  assert not (root / 'off').exists()
  assert not (root / 'unused').exists()


@pytest.mark.parametrize('name', ['unwritable', 'full'])
def test_what_cannot_be_written_is_one_warning(results, name):
  case = results[name]
  assert case['compiled'] >= 2
  assert not case['entries']
  (line,) = case['stderr'].splitlines()
  assert 'compiled programs are not kept there' in line


def test_importing_changes_no_setting(results):
  assert results['unchanged']


def test_the_oldest_programs_go(tmp_path):
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


def test_other_machines_have_other_folders(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  folder = compile_cache.default_folder()
  assert folder == compile_cache.default_folder()
  monkeypatch.setattr(compile_cache, '_cpu', lambda: 'another one')
  other = compile_cache.default_folder()
  assert other != folder
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(77))
  assert compile_cache.default_folder() not in (folder, other)
