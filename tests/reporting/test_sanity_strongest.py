"""Whether AutoAttack and Square find all and nothing more."""

import pytest
from advjax.reporting.sanity.findings import (
  sanity_findings,
  suspicions,
)
from advjax.reporting.sanity.scores import (
  attacks_on,
  score_of,
)

from advjax.reporting.values import accuracy_interval
from tests.reporting.evaluated_reports import (
  build,
  find,
  set_curve,
)


@pytest.fixture
def report():
  return build()


def build_into(report):
  """Sets a report back to what `build` makes."""
  report.update(build())
  return report


def test_square_finds_little_after_the_others(report):
  check = 'black box finds little more'
  for entry in (m['robust_accuracy'] for m in report['members'].values()):
    del entry['square']
  attacks = report['members']['base']['autoattack'][0]['attacks']
  assert [a['name'] for a in attacks][-1] == 'square'
  attacks[-1]['accuracy'] = attacks[-2]['accuracy'] - 0.002  # 2 of 1,000.
  assert find(report, check)[0] is True
  attacks[-1]['accuracy'] = attacks[-2]['accuracy'] - 0.003
  passed, detail = find(report, check)
  assert passed is False and 'from 7.1 % to 6.8 % at epsilon 0.1' in detail
  # Alone it shows nothing.
  report['members']['base']['autoattack'][0]['attacks'] = attacks[-1:]
  assert find(report, check)[0] is None


def test_square_beside_attacks_with_gradients(report):
  check = 'black box finds little more'
  report['members']['base']['autoattack'] = []
  # AutoAttack holds Square: it shows nothing of gradients.
  entry = report['members']['base']['robust_accuracy']['autoattack']
  assert entry['white_box'] < 0.076 and entry['epsilon'] == 0.1
  for value, passed in ((0.078, True), (0.076, False)):
    set_curve(report, 'square', (0.7, value, 0.02, 0.0))
    found, detail = find(report, check)
    assert found is passed, detail
  assert 'where PGD-40-5 leaves 8.0 %' in detail
  for attack in ('pgd-10', 'pgd-40-5'):
    del report['members']['base']['robust_accuracy'][attack]
  assert find(report, check)[0] is None


def test_autoattack_is_no_weaker_than_others(report):
  check = 'AutoAttack is the strongest'
  (run,) = report['members']['base']['autoattack']
  for value, passed in ((0.082, True), (0.083, False)):
    run['accuracy'] = value
    found, detail = find(report, check)
    assert found is passed, detail
  assert 'AutoAttack leaves base 8.3 % and PGD-40-5 8.0 %' in detail
  # What `evaluate` can run is named as such; the rest is for Python.
  assert 'autoattack-plus' in detail and 'autoattack-rand' not in detail
  assert "advjax.autoattack(version='rand')" in detail
  run['norm'] = 'l2'
  assert find(report, check)[0] is None


def test_autoattack_is_not_compared_with_itself(report):
  check = 'AutoAttack is the strongest'
  base = report['members']['base']
  base['robust_accuracy']['autoattack-plus'] = {
    **base['robust_accuracy']['autoattack'],
    **{'version': 'plus', 'white_box': 0.01, 'white_box_ci': [0.0, 0.02]},
  }
  passed, detail = find(report, check)
  assert passed is True and 'PGD-40-5' in detail
  for attack in ('fgsm', 'pgd-10', 'pgd-40-5', 'square'):
    del base['robust_accuracy'][attack]
  passed, detail = find(report, check)
  assert passed is None and 'AutoAttack was not run on base' in detail


def curve_of_1000(report, left, headline):
  """10,000 test images; AutoAttack leaves this of 1,000, at 0.2, and of all."""
  report['dataset']['num_test'] = 10_000
  (run,) = report['members']['base']['autoattack']
  runs = [
    run | {'epsilon': 0.2, 'num_images': 1000, 'accuracy': left},
    run | {'num_images': 10_000, 'accuracy': headline},
  ]
  for each in runs:
    ends = accuracy_interval(each['accuracy'], each['num_images'])
    each |= {'accuracy_ci': list(ends), 'attacks': []}
  report['members']['base']['autoattack'] = runs
  return runs


def test_autoattack_is_compared_over_the_same_images(report):
  check = 'AutoAttack is the strongest'
  # PGD-40-5 leaves 8 % of all at the headline, 0 of 1,000 at 0.2.
  for left, headline, passed in (
    (0.002, 0.082, True),
    (0.002, 0.0821, False),
    (0.003, 0.082, False),
  ):
    runs = curve_of_1000(build_into(report), left, headline)
    found, detail = find(report, check)
    assert found is passed, detail
  # Where only the images differ, nothing is compared, nor where none are told.
  for count in (1000, None):
    curve_of_1000(build_into(report), 0.0, 0.3)
    runs = report['members']['base']['autoattack']
    runs[1]['num_images'] = count
    found, detail = find(report, check)
    assert found is True and 'at epsilon 0.2' in detail
  runs[0]['num_images'] = 10_000
  assert find(report, check)[0] is None


def test_headlines_and_curves_are_compared_apart(report):
  report['dataset']['num_test'] = 10_000
  entries = report['members']['base']['robust_accuracy']
  counts = {each.name: each.counts for each in attacks_on(report, 'base')}
  assert counts['pgd-10'] == {0.05: 1000, 0.1: 10_000, 0.2: 1000, 0.5: 1000}
  # One has 0.2 as its headline: over all images, so it says nothing there.
  check = 'many steps beat one'
  set_curve(report, 'pgd-10', (0.66, 0.1, 0.6, 0.0))
  assert find(report, check)[0] is False
  entries['fgsm'] |= {'epsilon': 0.2} | entries['fgsm']['curve'][2]
  assert find(report, check)[0] is True


def test_intervals_of_autoattack_are_over_its_own_images(report):
  runs = curve_of_1000(report, 0.07, 0.07)
  for run in runs:
    del run['accuracy_ci']
    expected = accuracy_interval(0.07, run['num_images'])
    assert score_of(report, run, 'accuracy') == (0.07, *expected)


def test_flags_of_autoattack_are_passed_on(report):
  report['members']['base']['autoattack'][0]['warnings'] = [
    'the network is random. '
  ]
  passed, detail = find(report, 'AutoAttack raised no flags')
  assert passed is False
  assert 'at epsilon 0.1 (linf): the network is random.' in detail


@pytest.mark.parametrize('num_images', [100, 1000, 1300, 10_000])
@pytest.mark.parametrize('more', [0, 1])
def test_what_square_found_is_said_once(report, num_images, more):
  (run,) = report['members']['base']['autoattack']
  fooled = int(max(2, 0.002 * num_images)) + more  # As AutoAttack counts it.
  before = num_images // 10
  run['num_images'] = num_images
  run['attacks'] = [
    {'name': 'apgd-ce', 'accuracy': before / num_images},
    {'name': 'square', 'accuracy': (before - fooled) / num_images},
  ]
  if more:
    run['warnings'] = [f'Square fooled {fooled} of {num_images} images.']
  findings = [f for f in sanity_findings(report) if f['member'] == 'base']
  texts = [f for f in findings if 'AutoAttack' in f['check']]
  assert texts[-1]['passed'] is True
  assert ('but of what Square found' in texts[-1]['detail']) == bool(more)
  about = [text for text in suspicions(findings) if 'Square' in text]
  assert len(about) == more
  # What the other check does not say is said here.
  run['warnings'] = ['Square is slow.', 'The network draws.']
  run['attacks'] = []
  _, detail = find(report, 'AutoAttack raised no flags')
  assert 'Square is slow; ' in detail and 'draws' in detail
