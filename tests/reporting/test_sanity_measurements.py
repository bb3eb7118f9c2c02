"""What else than attacks an evaluation is suspected by, and what not."""

import pytest

from advjax.reporting.values import accuracy_interval
from tests.reporting.evaluated_reports import NUM_TEST, build, find


@pytest.fixture
def report():
  return build()


def test_transfer_does_not_beat_white_box(report):
  check = 'white box beats transfer'
  entry = report['members']['pgd_at']['robust_accuracy']['pgd-10']
  for value, passed in ((0.09, True), (0.05, False)):
    entry['transfer']['base'] = value
    entry['transfer_ci']['base'] = list(accuracy_interval(value, NUM_TEST))
    found, detail = find(report, check)
    assert found is passed
    if not passed:
      assert 'leaves base 10.0 % with its own gradients' in detail
      assert '5.0 % with those of pgd_at' in detail
  for member in report['members'].values():
    for attack in member['robust_accuracy'].values():
      attack['transfer'] = {}
  assert find(report, check)[0] is None


def set_noise(report, value, **fields):
  for entry in report['members']['base']['noise'].values():
    entry |= {'accuracy': value, **fields}
    entry['accuracy_ci'] = list(accuracy_interval(value, NUM_TEST))


def test_noise_does_not_beat_attacks(report):
  check = 'attacks beat noise'
  set_noise(report, 0.68)  # Less than transfer, by chance.
  assert find(report, check)[0] is True
  set_noise(report, 0.6)
  passed, detail = find(report, check)
  assert passed is False
  assert 'more than images made on another network' in detail
  assert 'made on pgd_at leaves base 70.0 %' in detail
  set_noise(report, 0.35)
  passed, detail = find(report, check)
  assert passed is False and 'Noise breaks more than an attack' in detail
  assert 'FGSM leaves base 41.0 %' in detail
  set_noise(report, 0.35, epsilon=0.3)
  assert find(report, check)[0] is None
  set_noise(report, 0.35, epsilon=0.1, norm='l2')
  assert find(report, check)[0] is None


@pytest.mark.parametrize(
  ('zero', 'not_finite', 'passed', 'words'),
  [
    (0.01, 0.0, True, '1.00 % of the images have a gradient of exactly zero'),
    (0.011, 0.0, False, 'counts them as robust'),
    (0.0, 0.001, False, '0.10 % of the images have gradients that are not'),
  ],
)
def test_gradients_must_be_there(report, zero, not_finite, passed, words):
  for trace in report['members']['base']['traces'].values():
    trace |= {'zero_gradients': zero, 'not_finite_gradients': not_finite}
  found, detail = find(report, 'gradients are there')
  assert found is passed and words in detail


def test_rounding_does_not_undo_an_attack(report):
  check = 'attacks survive 8 bits'
  rounded = report['members']['base']['rounded']
  rounded['pgd-10'] = 0.12
  assert find(report, check)[0] is True
  rounded['pgd-10'] = 0.5
  passed, detail = find(report, check)
  assert passed is False and '10.0 %, and 50.0 % once' in detail
  # An attack that stops right behind the border is not expected to.
  rounded['pgd-10'] = 0.12
  for name in ('fmn', 'autoattack', 'apgd-ce'):
    entries = report['members']['base']['robust_accuracy']
    entries[name] = dict(entries['pgd-10'])
    rounded[name] = 0.9
  assert find(report, check)[0] is True


@pytest.mark.parametrize(
  ('norm', 'epsilon', 'size', 'passed'),
  [
    ('linf', 0.1, 0.1, True),
    ('linf', 0.1, 0.1 * (1 + 9e-7), True),
    ('linf', 0.1, 0.1 * (1 + 2e-6), False),
    ('l2', 3.0, 3.0 * (1 + 2e-6), False),
    ('l1', 0.1, 0.100009, True),
    ('l1', 12.0, 12.0001, True),
    ('l1', 12.0, 12.001, False),
  ],
)
def test_perturbations_stay_in_their_ball(report, norm, epsilon, size, passed):
  entries = report['members']['base']['robust_accuracy']
  entries['pgd-10'] |= {
    'norm': norm,
    'epsilon': epsilon,
    'max_perturbation': size,
  }
  assert find(report, 'perturbations stay in the ball')[0] is passed


def test_attacks_without_a_limit_find_something(report):
  minimal = report['members']['base']['minimal']
  minimal['cw']['found'] = 0.96
  assert find(report, 'unlimited attacks find all')[0] is True
  minimal['cw']['found'] = 0.9
  passed, detail = find(report, 'unlimited attacks find all')
  assert passed is False and 'CW fools base on 90.0 %' in detail


def test_probabilities_were_looked_for(report):
  passed, detail = find(report, 'logits, not probabilities')
  assert passed is True and 'On the 1,000 clean test images' in detail
  assert 'returns logits' not in detail  # Which nobody can know.
  report['dataset']['num_test'] = 1
  assert find(report, 'logits, not probabilities')[0] is None
  report['dataset']['num_test'] = NUM_TEST
  del report['members']['base']['clean_accuracy']
  assert find(report, 'logits, not probabilities')[0] is None
