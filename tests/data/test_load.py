"""Tests of the choice of a loader by its config."""

import ml_collections
import numpy as np
import pytest

from advjax import data


def test_takes_a_config_dict_with_places_held():
  config = ml_collections.ConfigDict({'name': 'digits', 'path': None})
  config.lock()
  assert data.load(config).name == 'digits'


def test_loads_the_same_arrays_every_time():
  first, second = (data.load({'name': 'digits'}) for _ in range(2))
  for split in ('train', 'test'):
    for one, other in zip(
      getattr(first, split), getattr(second, split), strict=True
    ):
      np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'digit'}, "'digit'; allowed: digits, npz; did you.*'digits'"),
    ({'name': 'imagenet'}, "'imagenet'; allowed: digits, npz$"),
    ({'name': 3}, 'unknown data set 3'),
    ({}, 'unknown data set None; allowed: digits, npz'),
    ({'name': 'npz'}, "'npz' needs the field 'path'"),
    ({'name': 'npz', 'paht': 'a'}, "'npz' 'paht'; allowed: path; did.*'path'"),
    ({'name': 'digits', 'path': 'a'}, "'digits' 'path'; allowed: none"),
  ],
)
def test_refuses(config, message):
  with pytest.raises(ValueError, match=message):
    data.load(config)
