"""Which shifts there are, and what training has seen of them."""

import pytest

from advjax.config import default_config
from advjax.evaluation.corruptions import KINDS
from advjax.reporting.shifted import (
  FAMILIES,
  SHIFTS,
  family_accuracy,
  noises_in_training,
  parse_shifts,
  pasted_in_training,
  seen_corruptions,
  seen_of,
)


def test_every_kind_is_in_one_family():
  kinds = [kind for family in FAMILIES.values() for kind in family]
  assert tuple(kinds) == KINDS


def test_a_family_without_one_of_its_kinds_has_no_mean():
  assert family_accuracy({'fog': [0.5]}, ['fog', 'snow']) is None
  assert family_accuracy({'fog': [0.5], 'snow': [None]}, ['snow']) is None
  assert family_accuracy({}, []) is None


def test_a_flag_gives_names_in_one_text():
  assert parse_shifts([','.join(SHIFTS)], (8, 8, 1)) == SHIFTS
  assert parse_shifts((), (4,)) == ()
  assert parse_shifts(('noise',), (4,)) == ('noise',)


@pytest.mark.parametrize(
  ('texts', 'shape', 'message'),
  [
    (['corruption'], (8, 8, 3), r"'corruption'; allowed: .*mean 'corruptions'"),
    (['noise,noise'], (8, 8, 3), r"\('noise', 'noise'\); allowed: each once"),
    (['corruptions'], (8, 8, 2), r'shape \[8, 8, 2\]; allowed: noise alone'),
    (['pasted_objects'], (7, 8, 3), r'shape \[7, 8, 3\]; allowed'),
    (['noise', 'corruptions'], (20,), r'shape \[20\]; allowed'),
  ],
)
def test_what_cannot_be_measured_is_named(texts, shape, message):
  with pytest.raises(ValueError, match=message):
    parse_shifts(texts, shape)


def test_augmentations_are_not_unseen():
  config = default_config()
  assert seen_corruptions(config) == []
  for field in ('cutmix', 'contrast', 'salt_and_pepper', 'hue', 'poisson'):
    config.augmentation[field] = 0.1
  seen = ['shot_noise', 'impulse_noise', 'contrast', 'pasted_objects']
  assert seen_corruptions(config) == seen
  config.augmentation.gaussian = config.augmentation.brightness = 0.1
  assert len(seen_corruptions(config)) == 6
  report = {'members': {'base': {}, 'mixed': {'seen_corruptions': seen}}}
  assert seen_of(report) == {'shot_noise', 'impulse_noise', 'contrast'}
  assert pasted_in_training(report) == ['mixed']
  assert noises_in_training(report) == {'mixed': ['Poisson', 'salt-and-pepper']}
