"""Tests of finding prepared sets, and of what is said where there are none."""

import pathlib
import re

import pytest

from advjax.data import prepared
from advjax.data.prepared import parse_name
from tests.data.tfds_sets import prepare_pets


def make(data_dir, *names):
  """Makes the folders of versions, with empty descriptions."""
  for name in names:
    folder = data_dir / name
    folder.mkdir(parents=True)
    for description in prepared.DESCRIPTIONS:
      (folder / description).touch()


@pytest.mark.parametrize(
  'name', ['mnist', 'mnist:3.0.1', 'a1_b/c-d.e', 'a/b:3.*.*', 'a:*.*.*']
)
def test_names_as_tfds_writes_them(name):
  assert str(parse_name(name)) == name


@pytest.mark.parametrize(
  'name',
  [
    '',
    'Mnist',
    'a b',
    'mnist:3',
    'mnist/',
    '../mnist',
    'a/b/c',
    'x:y',
    'a/b=1',
  ],
)
def test_refuses_other_names(name):
  with pytest.raises(ValueError, match=r'builder = .*NAME\[/CONFIG\]') as error:
    parse_name(name)
  assert repr(name) in str(error.value)


def test_the_newest_version_is_found(tmp_path):
  make(tmp_path, 'pets/3.0.9', 'pets/3.0.10', 'pets/2.11.0', 'pets/1.0.0')

  def version(name):
    return prepared.find(parse_name(name), tmp_path).name

  assert version('pets') == '3.0.10'
  assert version('pets:3.0.9') == '3.0.9'
  assert version('pets:2.*.*') == '2.11.0'
  assert version('pets:*.0.*') == '3.0.10'
  with pytest.raises(
    ValueError,
    match=r"'pets:4\.\*\.\*': there is no such version in .*1\.0\.0, 2\.11\.0",
  ):
    version('pets:4.*.*')


def test_configs(tmp_path):
  make(tmp_path, 'pets/small/1.0.0', 'pets/large/1.0.0', 'pets/large/2.0.0')
  found = prepared.find(parse_name('pets/large:1.0.0'), tmp_path)
  assert found == tmp_path / 'pets' / 'large' / '1.0.0'
  for name in ('pets', 'pets/huge'):
    with pytest.raises(
      ValueError, match=r'other configs; there are: pets/large, pets/small$'
    ):
      prepared.find(parse_name(name), tmp_path)
  assert prepared.prepared_sets(tmp_path) == [
    'pets/large:1.0.0',
    'pets/large:2.0.0',
    'pets/small:1.0.0',
  ]


def test_tfds_own_default_config(tmp_path):
  folder = prepare_pets(tmp_path, config='small')
  assert folder == tmp_path / 'pets' / 'small' / '1.0.0'
  assert prepared.find(parse_name('pets'), tmp_path) == folder
  metadata = tmp_path / 'pets' / '.config' / 'metadata.json'
  metadata.write_text(metadata.read_text()[:-5])
  with pytest.raises(ValueError, match='other configs'):
    prepared.find(parse_name('pets'), tmp_path)


def test_nothing_is_found(tmp_path):
  make(tmp_path, 'pets/1.0.0', 'birds/small/2.0.0')
  (tmp_path / 'downloads').mkdir()
  name = parse_name('mnist')
  assert prepared.find(name, tmp_path) is None
  message = prepared.missing_set(name, tmp_path)
  assert str(tmp_path) in message
  assert message.endswith('prepared there: birds/small:2.0.0, pets:1.0.0')
  empty = tmp_path / 'downloads'
  assert prepared.missing_set(name, empty).endswith('prepared there: none')


@pytest.mark.parametrize('place', ['pets', 'pets/small'])
def test_a_half_made_set_is_named(tmp_path, place):
  half = tmp_path / place / 'incomplete.AB12CD_1.0.0'
  half.mkdir(parents=True)
  name = parse_name('pets')
  assert prepared.find(name, tmp_path) is None
  assert f'half-made one, which TFDS began: {half}' in prepared.missing_set(
    name, tmp_path
  )


@pytest.mark.parametrize('lacks', prepared.DESCRIPTIONS)
def test_a_half_copied_set_is_refused(tmp_path, lacks):
  folder = prepare_pets(tmp_path)
  (folder / lacks).unlink()
  with pytest.raises(
    ValueError, match=f'incomplete, it lacks {lacks}'
  ) as error:
    prepared.find(parse_name('pets'), tmp_path)
  assert str(folder) in str(error.value)


@pytest.mark.parametrize('inside', ['pets', 'pets/1.0.0'])
def test_a_folder_inside_of_the_set_is_no_data_dir(tmp_path, inside):
  make(tmp_path, 'pets/1.0.0')
  with pytest.raises(
    ValueError, match=re.escape(f'holds the sets is {str(tmp_path)!r}')
  ):
    prepared.find(parse_name('pets'), tmp_path / inside)


def test_data_dir(tmp_path, monkeypatch):
  assert prepared.resolve_data_dir(str(tmp_path)) == tmp_path
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'sets').mkdir()
  assert prepared.resolve_data_dir('sets') == tmp_path / 'sets'
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'other'))
  assert prepared.resolve_data_dir(None) == tmp_path / 'other'
  monkeypatch.delenv('TFDS_DATA_DIR')
  monkeypatch.setenv('HOME', str(tmp_path))
  default = tmp_path / 'tensorflow_datasets'
  assert prepared.resolve_data_dir(None) == default
  assert prepared.resolve_data_dir('~/sets') == tmp_path / 'sets'


@pytest.mark.parametrize('data_dir', ['', '/no/such/folder', __file__])
def test_refuses_what_is_no_folder(data_dir):
  with pytest.raises(ValueError, match=r'^data_dir = .* is no folder') as error:
    prepared.resolve_data_dir(data_dir)
  assert repr(data_dir) in str(error.value)


def test_files_tell_of_changes(tmp_path):
  folder = prepare_pets(tmp_path)
  before = prepared.list_files(folder)
  assert [name for name, *_ in before] == sorted(
    path.name for path in pathlib.Path(folder).iterdir()
  )
  assert prepared.list_files(folder) == before
  (folder / 'features.json').touch()
  assert prepared.list_files(folder) != before
