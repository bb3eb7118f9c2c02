"""Which shifts there are, and what training has seen of them."""

from advjax.evaluation.corruptions import KINDS
from advjax.reporting.shifted import (
  FAMILIES,
  family_accuracy,
  noises_in_training,
  pasted_in_training,
  seen_of,
)


def test_every_kind_is_in_one_family():
  kinds = [kind for family in FAMILIES.values() for kind in family]
  assert tuple(kinds) == KINDS


def test_a_family_without_one_of_its_kinds_has_no_mean():
  assert family_accuracy({'fog': [0.5]}, ['fog', 'snow']) is None
  assert family_accuracy({'fog': [0.5], 'snow': [None]}, ['snow']) is None
  assert family_accuracy({}, []) is None


def test_what_training_has_seen():
  seen = ['shot_noise', 'impulse_noise', 'contrast', 'pasted_objects']
  report = {'members': {'base': {}, 'mixed': {'seen_corruptions': seen}}}
  assert seen_of(report) == {'shot_noise', 'impulse_noise', 'contrast'}
  assert pasted_in_training(report) == ['mixed']
  assert noises_in_training(report) == {'mixed': ['Poisson', 'salt-and-pepper']}
