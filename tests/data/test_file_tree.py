"""Tests of listing and reading the files of folders and zips."""

import os
import shutil
import stat
import zipfile

import pytest

from advjax.data import file_tree
from tests.data import image_folders

FILES = {'b/2.png': b'two', 'a.txt': b'text', 'b/c/1.png': b'one'}
JUNK = {
  '.hidden': b'',
  'b/.DS_Store': b'',
  'b/Thumbs.db': b'',
  '__MACOSX/b/._2.png': b'',
}


def opened(path):
  with file_tree.open_tree(path) as tree:
    return tree, {name: tree.read(name) for name in tree.files}


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_lists_and_reads_all_files_but_junk(tmp_path, kind):
  if kind == 'zip':
    path = image_folders.write_zip(tmp_path / 'set.ZIP', {**FILES, **JUNK})
  else:
    path = image_folders.write(tmp_path / 'set', {**FILES, **JUNK})
  tree, contents = opened(path)
  assert tree.files == ('a.txt', 'b/2.png', 'b/c/1.png')
  assert tree.folders == ('b', 'b/c')
  assert contents == FILES


def test_the_tree_below_a_folder(tmp_path):
  path = image_folders.write(tmp_path, {**FILES, 'bb/3.png': b''})
  with file_tree.open_tree(path) as tree:
    below = file_tree.inside(tree, 'b')
    assert (below.files, below.folders) == (('2.png', 'c/1.png'), ('c',))
    assert below.read('c/1.png') == b'one'
    assert below.fingerprint == tree.fingerprint


@pytest.mark.parametrize('change', ['name', 'size', 'time', 'new'])
def test_the_fingerprint_of_a_folder_changes_with_its_files(tmp_path, change):
  root = image_folders.write(tmp_path, FILES)
  file = root / 'b' / '2.png'
  os.utime(file, ns=(10**18, 10**18))
  first = opened(root)[0].fingerprint
  assert opened(root)[0].fingerprint == first
  match change:
    case 'name':
      file.rename(file.with_name('3.png'))
    case 'size':
      file.write_bytes(b'more')
      os.utime(file, ns=(10**18, 10**18))
    case 'time':
      os.utime(file, ns=(10**18, 10**18 + 1))
    case 'new':
      (root / 'new.txt').touch()
  assert opened(root)[0].fingerprint != first


def test_the_fingerprint_of_a_zip_changes_with_its_content(tmp_path):
  def fingerprint(files, time):
    path = image_folders.write_zip(tmp_path / 'set.zip', files)
    os.utime(path, ns=(time, time))
    return opened(path)[0].fingerprint

  first = fingerprint(FILES, 10**18)
  assert fingerprint(FILES, 10**18) == first
  assert fingerprint(FILES, 10**18 + 1) != first
  # As long as before, but other bytes.
  assert fingerprint({**FILES, 'a.txt': b'tixt'}, 10**18) != first


# -------------------------------------------------------------------- links


def test_links_in_a_folder_are_followed(tmp_path):
  elsewhere = image_folders.write(tmp_path / 'elsewhere', {'1.png': b'one'})
  root = tmp_path / 'set'
  root.mkdir()
  (root / 'a').symlink_to(elsewhere)
  (root / '2.png').symlink_to(elsewhere / '1.png')
  assert opened(root)[1] == {'2.png': b'one', 'a/1.png': b'one'}


def test_links_that_lead_nowhere_or_round_are_refused(tmp_path):
  root = image_folders.write(tmp_path / 'set', FILES)
  (root / 'b' / 'again').symlink_to(root)
  with pytest.raises(ValueError, match='b/again: a link to a folder that it'):
    opened(root)
  (root / 'b' / 'again').unlink()
  (root / 'b' / 'gone').symlink_to(root / 'nothing')
  with pytest.raises(ValueError, match='b/gone: a link that leads nowhere'):
    opened(root)


# ------------------------------------------------------------ hostile zips


@pytest.mark.parametrize(
  ('name', 'problem'),
  [
    ('/etc/a.png', 'an absolute path'),
    ('C:\\a.png', 'an absolute path'),
    ('../a.png', r"leads out of it by '\.\.'"),
    ('b/../../a.png', r"leads out of it by '\.\.'"),
    ('b\\..\\..\\a.png', r"leads out of it by '\.\.'"),
    ('../', r"leads out of it by '\.\.'"),
  ],
)
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path, name, problem):
  path = image_folders.write_zip(tmp_path / 'set.zip', {**FILES, name: b''})
  with pytest.raises(ValueError, match=f'set.zip: .*member.*{problem}'):
    opened(path)


def test_dots_within_a_name_are_no_way_out(tmp_path):
  files = {'b/a..png': b'1', 'c../d.png': b'2'}
  path = image_folders.write_zip(tmp_path / 'set.zip', files)
  assert opened(path)[1] == files


def test_links_in_a_zip_are_refused(tmp_path):
  path = tmp_path / 'set.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    info = zipfile.ZipInfo('b/link.png')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, '/etc/passwd')
  with pytest.raises(ValueError, match=r"'b/link\.png', .*a symbolic link"):
    opened(path)


def test_a_name_may_not_come_twice(tmp_path):
  path = tmp_path / 'set.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('b/1.png', b'one')
    archive.writestr('b//1.png', b'other')
  with pytest.raises(ValueError, match=r"'b/1\.png' twice"):
    opened(path)


def test_an_encrypted_zip_is_refused(tmp_path):
  path = image_folders.write_zip(tmp_path / 'set.zip', {'a.png': b'one'})
  content = bytearray(path.read_bytes())
  content[content.index(b'PK\x01\x02') + 8] |= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"'a\.png', which is encrypted"):
    opened(path)


def test_a_small_zip_of_a_huge_file_is_not_unpacked(tmp_path, monkeypatch):
  path = tmp_path / 'set.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a/bomb.png', bytes(1 << 20))
  assert path.stat().st_size < 2000
  monkeypatch.setattr(file_tree, '_MAX_BYTES', (1 << 20) - 1)
  with pytest.raises(ValueError, match=r'bomb\.png would take 1,048,576 bytes'):
    opened(path)


# ----------------------------------------------------------------- damage


@pytest.mark.parametrize('how', ['cut', 'text', 'empty', 'flipped'])
def test_a_damaged_zip_is_refused(tmp_path, how):
  path = image_folders.write_zip(tmp_path / 'set.zip', {'a.png': b'123456'})
  content = path.read_bytes()
  damaged = {
    'cut': content[:-30],
    'text': b'<html>Not found</html>',
    'empty': b'',
    'flipped': content.replace(b'123456', b'123457'),
  }
  path.write_bytes(damaged[how])
  with pytest.raises(ValueError, match=r'set\.zip: this zip is damaged'):
    opened(path)


def test_other_paths_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"set'.*no such folder"):
    opened(tmp_path / 'set')
  (tmp_path / 'set.tar.gz').write_bytes(b'')
  with pytest.raises(ValueError, match=r'set\.tar\.gz.*allowed: a folder'):
    opened(tmp_path / 'set.tar.gz')


def test_a_file_that_goes_away_is_an_error_that_names_it(tmp_path):
  root = image_folders.write(tmp_path / 'set', FILES)
  with file_tree.open_tree(root) as tree:
    shutil.rmtree(root / 'b')
    with pytest.raises(ValueError, match=r'b/2\.png cannot be read'):
      tree.read('b/2.png')
