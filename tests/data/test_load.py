"""Tests of the choice of a loader by its config."""

import ml_collections
import numpy as np
import pytest

from advjax import data
from advjax.config import default_config


def test_takes_a_config_dict_with_places_held():
  config = ml_collections.ConfigDict({'name': 'digits', 'path': None})
  config.lock()
  assert data.load(config).name == 'digits'


def test_a_parameter_with_a_default_may_be_left_out(monkeypatch):
  def loader(size, shade='grey'):
    return size, shade

  monkeypatch.setitem(data._LOADERS, 'made up', loader)
  assert data.load({'name': 'made up', 'size': 3}) == (3, 'grey')
  config = {'name': 'made up', 'size': 3, 'shade': None}
  assert data.load(config) == (3, 'grey')
  config['shade'] = 'red'
  assert data.load(config) == (3, 'red')
  with pytest.raises(ValueError, match="'made up' needs the field 'size'"):
    data.load({'name': 'made up', 'shade': 'red'})


def test_classes_are_a_field_of_every_data_set(tmp_path):
  config = default_config()
  config.dataset.classes = (7, 3)
  whole, kept = data.load({'name': 'digits'}), data.load(config.dataset)
  assert (kept.num_classes, kept.class_names) == (2, ('7', '3'))
  for split in ('train', 'test'):
    of_whole, of_kept = getattr(whole, split), getattr(kept, split)
    rows = np.isin(of_whole.labels, (3, 7))
    np.testing.assert_array_equal(of_kept.images, of_whole.images[rows])
    sevens = of_whole.labels[rows] == 7
    np.testing.assert_array_equal(of_kept.labels, np.where(sevens, 0, 1))


def test_a_flag_empties_what_belongs_to_another_data_set():
  config = default_config()
  config.dataset.builder = 'mnist'
  with pytest.raises(
    ValueError, match=r"builder = 'mnist'; .*\.builder= empties"
  ):
    data.load(config.dataset)
  config.dataset.builder = ''
  assert data.load(config.dataset).name == 'digits'


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'digit'}, "data set 'digit'; allowed: 'digits', .*mean 'digits'"),
    ({'name': 3}, "data set 3; allowed: 'digits', 'folder', 'npz', 'tfds'$"),
    ({}, 'unknown data set None; allowed'),
    ({'name': 'npz'}, "'npz' needs the field 'path'"),
    ({'name': 'npz', 'path': ''}, "'npz' needs the field 'path'"),
    ({'name': 'npz', 'paht': 'a'}, "'paht'; allowed: .* mean 'path'"),
    ({'name': 'digits', 'paht': 'a'}, "'paht'; allowed: 'classes'$"),
    (
      {'name': 'digits', 'path': 'a'},
      r"path = 'a'; .*folder, npz, not .*digits; --config\.dataset\.path= emp",
    ),
  ],
)
def test_refuses(config, message):
  with pytest.raises(ValueError, match=message):
    data.load(config)
