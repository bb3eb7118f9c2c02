"""Small sets to load, and a home of their own."""

import pytest

from advjax import data
from tests.data import tfds_sets


@pytest.fixture
def home(tmp_path, monkeypatch):
  """Nothing of a test's goes to the user's own folders."""
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  return tmp_path


@pytest.fixture
def sets(tmp_path, home):
  """A data_dir with `pets`: 30 and 12 grey images of 5 x 4."""
  del home
  tfds_sets.prepare_pets(tmp_path / 'sets')
  return tmp_path / 'sets'


@pytest.fixture
def load_folder(home):
  """Loads a data set into a cache of this test's own."""

  def load(path, **fields):
    fields = {'cache_dir': str(home / 'cache'), **fields}
    return data.load({'name': 'folder', 'path': str(path), **fields})

  return load
