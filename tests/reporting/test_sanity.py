"""What an evaluation is suspected of, and what it is not."""

import math

import pytest
from advjax.reporting.sanity.findings import (
  RULES,
  sanity_findings,
  suspicions,
)
from advjax.reporting.sanity.scores import (
  Score,
  few,
  is_above,
  is_more_than_few,
  large_epsilon,
  score_of,
)

from advjax.reporting.values import accuracy_interval
from tests.reporting.evaluated_reports import (
  EPSILONS,
  NUM_TEST,
  build,
  drop_autoattack,
  find,
  set_curve,
)


@pytest.fixture
def report():
  return build()


def add_attack(report, name, values, **fields):
  """Copies PGD of base under another name."""
  entries = report['members']['base']['robust_accuracy']
  entries[name] = entries['pgd-10'] | fields
  entries[name]['curve'] = [dict(point) for point in entries[name]['curve']]
  set_curve(report, name, values)


def test_a_sound_evaluation_is_not_suspected(report):
  for member in ('base', 'pgd_at'):
    passed = {c: find(report, c, member)[0] for c in RULES}
    assert False not in passed.values(), passed
  assert None not in [find(report, check, 'base')[0] for check in RULES]
  undecided = {c for c in RULES if find(report, c, 'pgd_at')[0] is None}
  assert undecided == {
    'AutoAttack is the strongest',
    'AutoAttack raised no flags',
    'unlimited attacks find all',
  }


def test_a_masked_network_is_suspected_of_masking(report):
  findings = [
    f for f in sanity_findings(report) if f['member'] == 'single_step'
  ]
  suspicious = {f['check'] for f in findings if f['passed'] is False}
  assert suspicious == {
    'one step and many agree',
    'white box beats transfer',
    'black box finds little more',
  }
  texts = suspicions(findings)
  assert len(texts) == 3
  assert 'one step (FGSM) leaves 90.0 %' in texts[0]
  assert 'many steps (AutoAttack) leave 13.0 %' in texts[0]


def test_every_finding_is_a_sentence_about_its_member(report):
  findings = sanity_findings(report)
  assert len(findings) == 3 * len(RULES)
  for finding in findings:
    assert set(finding) == {'check', 'member', 'passed', 'detail'}
    assert finding['member'] in finding['detail']
    assert finding['detail'].endswith('.')
    if finding['passed'] is False:  # What was seen, what it means, what to do.
      assert finding['detail'].count('. ') >= 1, finding
      assert any(c.isdigit() for c in finding['detail'])


@pytest.mark.parametrize('member', [{}, {'clean_accuracy': None}])
def test_what_was_not_measured_cannot_be_decided(member):
  findings = sanity_findings({'members': {'it': member}})
  assert [f['passed'] for f in findings] == len(RULES) * [None]
  assert sanity_findings({}) == []


def test_accuracy_may_not_rise_with_epsilon(report):
  check = 'accuracy falls with epsilon'
  set_curve(report, 'pgd-10', (0.66, 0.1, 0.12, 0.0))  # By chance.
  assert find(report, check)[0] is True
  set_curve(report, 'pgd-10', (0.66, 0.1, 0.2, 0.0))
  passed, detail = find(report, check)
  assert passed is False
  assert 'from 10.0 % at epsilon 0.1 to 20.0 % at epsilon 0.2' in detail
  # One step beyond what is near says nothing.
  report['members']['base']['robust_accuracy'].pop('pgd-10')
  set_curve(report, 'fgsm', (0.78, 0.41, 0.14, 0.4))
  assert find(report, check)[0] is True
  entry = report['members']['base']['robust_accuracy']['autoattack']
  entry['curve'].append(entry['curve'][0] | {'epsilon': 0.2})
  entry['curve'][1] |= {'white_box': 0.3, 'white_box_ci': [0.27, 0.33]}
  passed, detail = find(report, check)
  assert passed is False and 'Under AutoAttack' in detail


def test_flat_curves_leave_it_open(report):
  drop_autoattack(report)
  for attack in report['members']['base']['robust_accuracy']:
    set_curve(report, attack, (0.984, 0.98, 0.979, 0.98))
  passed, detail = find(report, 'accuracy falls with epsilon')
  assert passed is None and 'larger epsilons or more images' in detail


def test_nothing_stands_where_all_images_can_be_gray(report):
  check = 'nothing stands in a large ball'
  for attack in ('pgd-10', 'pgd-40-5', 'square'):
    set_curve(report, attack, (0.66, 0.1, 0.05, 0.11))  # By chance.
  assert find(report, check)[0] is True
  for attack in ('pgd-10', 'pgd-40-5', 'square'):
    set_curve(report, attack, (0.66, 0.4, 0.4, 0.4))
  passed, detail = find(report, check)
  assert passed is False
  assert 'right on 40.0 % at epsilon 0.5 (linf)' in detail
  assert 'the most frequent class (10.4 %)' in detail
  # A network that always says the most frequent class.
  report['dataset']['largest_class_share'] = 0.4
  assert find(report, check)[0] is True
  report['dataset']['largest_class_share'] = 0.3
  assert find(report, check)[0] is False
  del report['dataset']['largest_class_share']
  passed, detail = find(report, check)
  assert passed is None and 'does not have the share' in detail


@pytest.mark.parametrize(
  'change', ['only one step', 'no large epsilon', 'no bounds', 'l2']
)
def test_without_a_large_ball_it_is_open(report, change):
  entries = report['members']['base']['robust_accuracy']
  if change == 'only one step':
    entries = {'fgsm': entries['fgsm']}
    report['members']['base']['robust_accuracy'] = entries
  for entry in entries.values():
    if change == 'no large epsilon':
      entry['curve'] = entry['curve'][:-1]
    elif change == 'no bounds':
      entry['bounds'] = None
    elif change == 'l2':  # 0.5 is little there: 28 pixels are 14.
      entry['norm'] = 'l2'
  passed, detail = find(report, 'nothing stands in a large ball')
  assert passed is None
  assert ('one step' in detail) == (change == 'only one step')


def test_large_epsilons_hold_a_gray_image():
  assert large_epsilon('linf', (0.0, 1.0)) == 0.5
  assert large_epsilon('linf', (-1, 1), (2, 2, 1)) == 1.0
  assert large_epsilon('l2', (0.0, 1.0), (28, 28, 1)) == pytest.approx(14)
  assert large_epsilon('l1', (0.0, 1.0), (2, 3, 1)) == 3.0
  assert large_epsilon('l2', (0.0, 1.0)) is None
  assert large_epsilon('linf', None) is None
  assert large_epsilon('linf', (None, 1.0)) is None


def test_many_steps_are_at_least_as_strong_as_one(report):
  check = 'many steps beat one'
  set_curve(report, 'pgd-10', (0.79, 0.43, 0.14, 0.1))  # By chance.
  assert find(report, check)[0] is True
  set_curve(report, 'pgd-10', (0.79, 0.5, 0.14, 0.1))
  passed, detail = find(report, check)
  assert passed is False
  assert 'PGD-10 leaves base 50.0 %, more than FGSM (41.0 %)' in detail
  # Another norm is another question.
  report['members']['base']['robust_accuracy']['pgd-10']['norm'] = 'l2'
  assert find(report, check)[0] is True


def test_more_work_does_not_hurt(report):
  check = 'more steps and restarts help'
  set_curve(report, 'pgd-40-5', (0.66, 0.11, 0.0, 0.0))  # By chance.
  assert find(report, check)[0] is True
  set_curve(report, 'pgd-40-5', (0.66, 0.2, 0.0, 0.0))
  passed, detail = find(report, check)
  assert passed is False
  assert 'PGD-40-5 leaves 20.0 % and PGD-10 10.0 %' in detail
  # More steps and fewer restarts are neither more nor less.
  entries = report['members']['base']['robust_accuracy']
  entries['pgd-10']['num_restarts'] = 10
  assert find(report, check)[0] is None


@pytest.mark.parametrize(
  ('one', 'many', 'passed', 'words'),
  [
    (0.80, 0.02, False, 'masks its gradients'),
    (0.80, 0.30, False, 'a mild form of gradient masking'),
    (0.80, 0.41, True, 'agree well enough'),
    (0.45, 0.01, True, 'agree well enough'),
  ],
)
def test_masking_is_one_step_far_above_many(report, one, many, passed, words):
  drop_autoattack(report)
  set_curve(report, 'fgsm', (0.9, one, 0.3, 0.2))
  for attack in ('pgd-10', 'pgd-40-5', 'square'):
    set_curve(report, attack, (0.88, many, 0.01, 0.0))
  found, detail = find(report, 'one step and many agree')
  assert found is passed and words in detail


def test_one_step_too_long_is_no_masking(report):
  set_curve(report, 'fgsm', (0.78, 0.41, 0.3, 0.8))
  assert find(report, 'one step and many agree')[0] is True
  report['members']['base']['robust_accuracy'].pop('fgsm')
  assert find(report, 'one step and many agree')[0] is None
  assert find(report, 'many steps beat one')[0] is None


def test_few_are_two_images_or_two_in_a_thousand():
  assert [few(count) for count in (10, 1000, 5000)] == [2, 2, 10]
  assert not is_more_than_few(1.0, 2)
  assert not is_more_than_few(0.002, 1000)
  assert is_more_than_few(0.003, 1000)
  assert not is_more_than_few(10 / 5000, 5000)
  assert is_more_than_few(11 / 5000, 5000)
  assert not is_more_than_few(-0.5, 1000)
  assert is_more_than_few(0.003, None) and not is_more_than_few(0.001, None)


def test_above_is_more_than_chance():
  # Newcombe's example (1998, table II, row a): 56/70 against 48/80 has the
  # interval [0.0524, 0.3339] for the difference.
  def score(right, count):
    return Score(right / count, *accuracy_interval(right / count, count))

  def lower_end(upper, lower):
    chance = math.hypot(upper.value - upper.low, lower.high - lower.value)
    return upper.value - lower.value - chance

  assert lower_end(score(56, 70), score(48, 80)) == pytest.approx(0.0524, 1e-3)
  assert is_above(score(56, 70), score(48, 80))
  assert not is_above(score(5, 56), score(0, 29))  # [-0.0381, 0.1926]
  assert not is_above(score(48, 80), score(56, 70))
  assert not is_above(Score(0.5, 0.5, 0.5), Score(0.5, 0.5, 0.5))


def test_an_interval_is_made_where_there_is_none(report):
  expected = accuracy_interval(0.5, NUM_TEST)
  assert score_of(report, {'it': 0.5}, 'it') == (0.5, *expected)
  assert score_of({}, {'it': 0.5}, 'it') == (0.5, 0.5, 0.5)
  assert score_of(report, {'it': math.nan}, 'it') is None


def test_targeted_and_untargeted_attacks_are_not_the_same(report):
  check = 'more steps and restarts help'
  del report['members']['base']['robust_accuracy']['pgd-40-5']
  weak = (0.7, 0.3, 0.05, 0.0)
  add_attack(report, 'apgd-ce', weak, num_steps=10, num_restarts=1)
  strong = (0.9, 0.8, 0.05, 0.0)
  add_attack(report, 'apgd-t', strong, num_steps=100, num_restarts=1)
  assert find(report, check)[0] is None
  add_attack(report, 'apgd-ce-100', strong, num_steps=100, num_restarts=1)
  assert find(report, check)[0] is False


def test_epsilons_of_the_example_hold_a_large_one():
  assert EPSILONS[-1] == large_epsilon('linf', (0.0, 1.0))
