"""Tests of the choice of a loader by its config."""

import re

import numpy as np
import pytest

from advjax import data
from advjax.config import default_config
from advjax.results import DatasetSummary


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


@pytest.mark.parametrize(
  ('labels', 'lacking'),
  [
    ([0, 1, 2], None),
    ([1, 2, 3], r"1 of 4 classes: '0'"),
    ([10, 20, 30], r"28 of 31 classes: '0', '1'.* and 23 more"),
  ],
)
def test_classes_without_images_are_said(tmp_path, caplog, labels, lacking):
  images, labels = np.zeros((6, 4, 4), np.uint8), np.array(labels * 2)
  np.savez(
    tmp_path / 'x.npz',
    train_images=images,
    train_labels=labels,
    test_images=images[:3],
    test_labels=labels[:3],
  )
  dataset = data.load({'name': 'npz', 'path': str(tmp_path / 'x.npz')})
  for split in ('train', 'test'):
    found = re.search(f'no {split} image of {lacking}', caplog.text)
    assert bool(found) == bool(lacking)
  # A test set of one class alone.
  one = dataset.test._replace(labels=np.full(3, dataset.num_classes - 1))
  warnings = dataset._replace(test=one).warnings
  assert f'no test image of {dataset.num_classes - 1} of' in warnings[-1]
  summary = DatasetSummary.of(dataset).to_json()
  assert summary.get('warnings') == (dataset.warnings or None)
