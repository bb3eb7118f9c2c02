"""Tests of the choice of a loader by its config."""

import numpy as np
import pytest

from advjax import data
from advjax.config import default_config


def test_classes_are_a_field_of_every_data_set():
  config = default_config()
  config.dataset.classes = (7, 3)
  whole, kept = data.load({'name': 'digits'}), data.load(config.dataset)
  assert (kept.num_classes, kept.class_names) == (2, ('7', '3'))
  rows = np.isin(whole.test.labels, (3, 7))
  np.testing.assert_array_equal(kept.test.images, whole.test.images[rows])
  sevens = whole.test.labels[rows] == 7
  np.testing.assert_array_equal(kept.test.labels, np.where(sevens, 0, 1))


def test_a_flag_empties_what_belongs_to_another_data_set():
  config = default_config()
  config.dataset.builder = 'mnist'
  with pytest.raises(ValueError, match="'digits' = 'builder'; allowed"):
    data.load(config.dataset)
  config.dataset.builder = ''
  assert data.load(config.dataset).name == 'digits'


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'digit'}, "= 'digit'; allowed: 'digits', .*mean 'digits'"),
    ({'name': 3}, "dataset.name = 3; allowed: .*'tfds', or module:function"),
    ({}, 'dataset.name = None; allowed'),
    ({'name': 'npz', 'path': ''}, "path = None; allowed: .*'npz' needs it"),
    ({'name': 'npz', 'paht': 'a'}, "'paht'; allowed: .* mean 'path'"),
    ({'name': 'digits', 'paht': 'a'}, "'paht'; allowed: 'classes'$"),
    ({'name': 'digits', 'path': 'a'}, "'digits' = 'path'; allowed: 'classes'"),
  ],
)
def test_refuses(config, message):
  with pytest.raises(ValueError, match=message):
    data.load(config)
