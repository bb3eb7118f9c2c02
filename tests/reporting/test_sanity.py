"""Which evaluations are suspicious, and which are not."""

import dataclasses
import math

import pytest

from advjax.evaluation.diagnostics import large_epsilon
from advjax.reporting.sanity import (
  CHECKS,
  findings_of,
  is_above,
  sanity_findings,
)
from advjax.reporting.text import sentences, warnings
from advjax.results import Estimate, MinimalDistance, Trace
from tests.reporting.reports import (
  EPSILONS,
  NUM_TEST,
  attack,
  autoattack,
  change,
  change_attack,
  compared,
  estimate,
  report,
)

CLEAN = 'clean accuracy above chance'
NEAR = 'test accuracy at least half of training accuracy'
FALLS = 'accuracy falls with epsilon'
CHANCE = 'accuracy reaches chance at large epsilon'
MULTI = 'multi-step at least as strong as single-step'
EFFORT = 'more steps and restarts at least as strong'
AGREE = 'single-step and multi-step agree'
GRADIENTS = 'gradients do not vanish'
TRANSFER = 'white box at least as strong as transfer'
NOISE = 'attacks stronger than random noise'
BLACK_BOX = 'black box not stronger than white box'
STRONGEST = 'AutoAttack is the strongest attack'
WARNINGS = 'AutoAttack raises no warnings'
MINIMAL = 'minimum-norm attacks succeed'
WITHIN = 'perturbations within epsilon'
ROUNDING = 'adversarial examples survive 8-bit rounding'
LOGITS = 'outputs are logits'


@pytest.fixture(scope='module')
def sound():
  return report()


def check(name, found, model='base'):
  return CHECKS[name](found, model)


def without(found, *keys):
  """Takes attacks away from `base`."""
  attacks = found.members['base'].robust_accuracy
  kept = {key: value for key, value in attacks.items() if key not in keys}
  return change(found, robust_accuracy=kept)


def test_sound_evaluations_pass(sound):
  for model in ('base', 'pgd_at'):
    verdicts = {name: check(name, sound, model)[0] for name in CHECKS}
    assert verdicts.pop(NEAR) is None  # An evaluation knows of no training.
    assert {*verdicts.values()} == {True}


def test_masked_gradients_are_found(sound):
  findings = [f for f in sanity_findings(sound) if f.member == 'single_step']
  assert {f.check for f in findings if f.passed is False} == {
    AGREE,
    TRANSFER,
    BLACK_BOX,
  }
  (masked,) = (f.detail for f in findings if f.check == AGREE)
  assert '90.0 %' in masked and '14.0 %' in masked


def test_what_was_not_measured_is_not_run(sound):
  bare = dataclasses.replace(compared().members['base'], robust_accuracy={})
  bare = dataclasses.replace(sound, members={'base': bare})
  not_run = {f.check for f in sanity_findings(bare) if f.passed is None}
  assert not_run == set(CHECKS) - {LOGITS, CLEAN, NEAR}
  assert findings_of(bare) == []
  one = dataclasses.replace(sound.dataset, num_test=1)
  assert check(LOGITS, dataclasses.replace(sound, dataset=one))[0] is None


@pytest.mark.parametrize(
  ('accuracy', 'count', 'share', 'passed'),
  [
    # Ten classes: a network at chance, which resists noise as attacks do.
    (0.097, 1000, 0.1, False),
    (0.118, 1000, 0.1, False),  # [0.0995, 0.1394]
    (0.13, 1000, 0.1, True),
    (0.9, 1000, 0.9, False),  # A constant prediction.
    (0.5, 20, 0.3, False),  # [0.2993, 0.7007]
    (1.0, 1000, 1.0, False),  # One class.
    (0.1, 1000, None, None),
  ],
)
def test_a_network_has_to_be_above_chance(
  sound, accuracy, count, share, passed
):
  data = dataclasses.replace(
    sound.dataset, largest_class_share=share, num_test=count
  )
  found = change(sound, clean_accuracy=estimate(accuracy, count))
  found = dataclasses.replace(found, dataset=data)
  assert check(CLEAN, found)[0] is passed
  if passed is False:  # Said before all else.
    assert findings_of(found)[0].passed is False
    first = warnings(found)[0]
    assert 'clean accuracy' in first and 'largest class' in first


@pytest.mark.parametrize(
  ('trained', 'passed'),
  [(1.0, False), (0.82, False), (0.78, True), (None, None)],
)
def test_test_accuracy_is_near_that_of_training(trained, passed):
  found = change(compared(), clean_accuracy=estimate(0.4))
  training = found.members['base'].training
  epochs = [*training.epochs[:-1], {'clean_accuracy': trained}]
  training = dataclasses.replace(training, epochs=epochs)
  assert check(NEAR, change(found, training=training))[0] is passed


@pytest.mark.parametrize(('count', 'warned'), [(50, True), (200, False)])
def test_few_test_images_are_a_warning(count, warned):
  found = report(['base'])
  data = dataclasses.replace(found.dataset, num_test=count)
  found = dataclasses.replace(found, dataset=data)
  found = change(found, clean_accuracy=estimate(0.7, count))
  for said, wanted in (
    (warnings(found), warned),
    (sentences(found), not warned),
  ):
    assert any(f'{count} test images' in text for text in said) == wanted


# (check, attack to change, its accuracies, verdict)
CURVES = [
  (FALLS, 'pgd-10', (0.66, 0.1, 0.12, 0.0), True),  # Chance.
  (FALLS, 'pgd-10', (0.66, 0.1, 0.2, 0.0), False),
  # A single step beyond what is near shows nothing.
  (FALLS, 'fgsm', (0.78, 0.41, 0.14, 0.4), True),
  (CHANCE, 'pgd-10', (0.66, 0.1, 0.05, 0.9), True),  # Others reach it.
  (MULTI, 'pgd-10', (0.79, 0.43, 0.14, 0.1), True),
  (MULTI, 'pgd-10', (0.79, 0.5, 0.14, 0.1), False),
  (EFFORT, 'pgd-40-5', (0.66, 0.11, 0.0, 0.0), True),
  (EFFORT, 'pgd-40-5', (0.66, 0.2, 0.0, 0.0), False),
  (AGREE, 'fgsm', (0.78, 0.41, 0.3, 0.8), True),  # Large, so no masking.
]


@pytest.mark.parametrize(('name', 'key', 'values', 'passed'), CURVES)
def test_curves(sound, name, key, values, passed):
  assert check(name, change_attack(sound, key, values))[0] is passed


def test_flat_curves_are_not_decided(sound):
  for key in sound.members['base'].robust_accuracy:
    sound = change_attack(sound, key, (0.984, 0.98, 0.979, 0.98))
  assert check(FALLS, sound)[0] is None


@pytest.mark.parametrize(
  ('left', 'largest', 'passed'),
  [
    (0.11, 0.104, True),
    (0.4, 0.4, True),  # A constant prediction.
    (0.4, 0.3, False),
    (0.4, None, None),
  ],
)
def test_nothing_is_above_chance_where_all_can_be_gray(
  sound, left, largest, passed
):
  for key in ('pgd-10', 'pgd-40-5', 'square'):
    sound = change_attack(sound, key, (0.66, 0.4, 0.4, left))
  data = dataclasses.replace(sound.dataset, largest_class_share=largest)
  found = dataclasses.replace(sound, dataset=data)
  assert check(CHANCE, found)[0] is passed


def test_large_epsilons_hold_a_gray_image():
  assert large_epsilon('linf', (0.0, 1.0)) == 0.5 == EPSILONS[-1]
  assert large_epsilon('linf', (-1, 1), (2, 2, 1)) == 1.0
  assert large_epsilon('l2', (0.0, 1.0), (28, 28, 1)) == pytest.approx(14)
  assert large_epsilon('l1', (0.0, 1.0), (2, 3, 1)) == 3.0
  assert large_epsilon('l2', (0.0, 1.0)) is None
  assert large_epsilon('linf', None) is None


def test_only_the_same_norm_compares(sound):
  found = change_attack(
    sound, 'pgd-10', (0.79, 0.5, 0.14, 0.1), norm='l2', num_restarts=10
  )
  assert check(MULTI, found)[0] is True
  # More steps and fewer restarts are neither more nor less.
  assert check(EFFORT, found)[0] is None


@pytest.mark.parametrize(
  ('one', 'many', 'passed', 'mild'),
  [
    (0.80, 0.02, False, False),
    (0.80, 0.30, False, True),
    (0.80, 0.41, True, False),
    (0.45, 0.01, True, False),
  ],
)
def test_masking_is_single_step_far_above_multi_step(
  sound, one, many, passed, mild
):
  found = change_attack(sound, 'fgsm', (0.9, one, 0.3, 0.2))
  for key in ('pgd-10', 'pgd-40-5', 'square'):
    found = change_attack(found, key, (0.88, many, 0.01, 0.0))
  verdict, detail = check(AGREE, found)
  assert verdict is passed and ('Mild' in detail) == mild
  assert check(AGREE, without(found, 'fgsm'))[0] is None
  assert check(MULTI, without(found, 'fgsm'))[0] is None


def test_targeted_and_untargeted_attacks_are_not_the_same(sound):
  weak, strong = (0.7, 0.3, 0.05, 0.0), (0.9, 0.8, 0.05, 0.0)
  found = without(sound, 'pgd-40-5')
  found = change_attack(found, 'apgd-ce', weak)
  found = change_attack(found, 'apgd-t', strong, num_steps=100)
  assert check(EFFORT, found)[0] is None
  found = change_attack(found, 'apgd-ce-100', strong, num_steps=100)
  assert check(EFFORT, found)[0] is False


def test_curves_of_fewer_images_do_not_compare_with_all(sound):
  data = dataclasses.replace(sound.dataset, num_test=10 * NUM_TEST)
  found = dataclasses.replace(sound, dataset=data)
  found = change_attack(found, 'pgd-10', (0.66, 0.1, 0.6, 0.0))
  assert check(MULTI, found)[0] is False
  # One has 0.2 as its evaluation epsilon: over all images.
  point = found.members['base'].robust_accuracy['fgsm'].curve[2]
  found = change_attack(found, 'fgsm', epsilon=0.2, white_box=point.white_box)
  assert check(MULTI, found)[0] is True


@pytest.mark.parametrize(('value', 'passed'), [(0.09, True), (0.05, False)])
def test_transfer_is_not_stronger(sound, value, passed):
  attacks = dict(sound.members['pgd_at'].robust_accuracy)
  transfer = {**attacks['pgd-10'].transfer, 'base': estimate(value)}
  attacks['pgd-10'] = dataclasses.replace(attacks['pgd-10'], transfer=transfer)
  found = change(sound, 'pgd_at', robust_accuracy=attacks)
  assert check(TRANSFER, found)[0] is passed
  assert check(TRANSFER, report(['base']))[0] is None


@pytest.mark.parametrize(
  ('value', 'fields', 'passed', 'words'),
  [
    (0.68, {}, True, ''),  # Below transfer, by chance.
    (0.6, {}, False, 'transfer from'),
    (0.35, {}, False, 'under FGSM and'),
    (0.35, {'epsilon': 0.3}, None, ''),
    (0.35, {'norm': 'l2'}, None, ''),
  ],
)
def test_noise_is_weaker(sound, value, fields, passed, words):
  noise = {
    kind: dataclasses.replace(each, accuracy=estimate(value), **fields)
    for kind, each in sound.members['base'].noise.items()
  }
  verdict, detail = check(NOISE, change(sound, noise=noise))
  assert verdict is passed and words in detail


def trace(zero, not_finite):
  shares = {'zero_gradients': zero, 'not_finite_gradients': not_finite}
  return {'traces': {'pgd-10': Trace(loss=[1.0], accuracy=[0.5], **shares)}}


def found_by_cw(share):
  distance = MinimalDistance(median_epsilon=0.5, found=share, norm='l2')
  return {'minimal': {'cw': distance}}


@pytest.mark.parametrize(
  ('name', 'fields', 'passed'),
  [
    (GRADIENTS, trace(0.01, 0.0), True),
    (GRADIENTS, trace(0.011, 0.0), False),
    (GRADIENTS, trace(0.0, 0.001), False),
    (MINIMAL, found_by_cw(0.96), True),
    (MINIMAL, found_by_cw(0.9), False),
    (ROUNDING, {'rounded': {'pgd-10': 0.12}}, True),
    (ROUNDING, {'rounded': {'pgd-10': 0.5}}, False),
    # An attack that stops at the decision boundary need not survive.
    (ROUNDING, {'rounded': {'pgd-10': 0.12, 'fmn': 0.9}}, True),
  ],
)
def test_other_measurements(sound, name, fields, passed):
  found = change_attack(sound, 'fmn', (0.66, 0.1, 0.0, 0.0))
  assert check(name, change(found, **fields))[0] is passed


@pytest.mark.parametrize(
  ('norm', 'epsilon', 'size', 'passed'),
  [
    ('linf', 0.1, 0.1 * (1 + 9e-7), True),
    ('linf', 0.1, 0.1 * (1 + 2e-6), False),
    ('l2', 3.0, 3.0 * (1 + 2e-6), False),
    ('l1', 12.0, 12.0001, True),
    ('l1', 12.0, 12.001, False),
  ],
)
def test_perturbations(sound, norm, epsilon, size, passed):
  found = change_attack(
    sound, 'pgd-10', norm=norm, epsilon=epsilon, max_perturbation=size
  )
  assert check(WITHIN, found)[0] is passed


@pytest.mark.parametrize(
  ('after', 'passed'),
  [
    ((0.074, 0.072), True),  # 2 of 1,000 images.
    ((0.074, 0.071), False),
    ((0.071,), None),  # Alone it shows nothing.
  ],
)
def test_square_finds_little_after_the_others(sound, after, passed):
  found = change(without(sound, 'square'), autoattack=[autoattack(0.98, after)])
  assert check(BLACK_BOX, found)[0] is passed


@pytest.mark.parametrize(('value', 'passed'), [(0.078, True), (0.076, False)])
def test_square_beside_gradient_attacks(sound, value, passed):
  found = change(sound, autoattack=[])
  # AutoAttack contains Square: it shows nothing of gradients.
  found = change_attack(found, 'autoattack', (0.6, 0.05, 0.0, 0.0))
  found = change_attack(found, 'square', (0.7, value, 0.02, 0.0))
  assert check(BLACK_BOX, found)[0] is passed
  assert check(BLACK_BOX, without(found, 'pgd-10', 'pgd-40-5'))[0] is None


@pytest.mark.parametrize(
  ('left', 'count', 'fields', 'passed'),
  [
    (0.082, 1000, {}, True),
    (0.083, 1000, {}, False),
    (0.083, 1000, {'norm': 'l2'}, None),
    (0.3, 10_000, {}, None),  # Other images.
    (0.002, 1000, {'epsilon': 0.2}, True),
    (0.003, 1000, {'epsilon': 0.2}, False),
  ],
)
def test_autoattack_is_the_strongest(sound, left, count, fields, passed):
  found = change(
    sound, autoattack=[autoattack(0.984, (0.5, left), count, **fields)]
  )
  # It is not compared with itself.
  found = change_attack(found, 'autoattack-plus', (0.1, 0.0, 0.0, 0.0))
  assert check(STRONGEST, found)[0] is passed


def test_attacks_of_ones_own_are_no_multi_step_attacks(sound):
  """Whatever their modules are called; how many steps they have is unknown."""
  own, verdicts = 'autoattack_mine:f', []
  for weak in (0.04, 0.97):
    values = attack((weak,) * 4, attack=own, num_steps=None, num_restarts=None)
    attacks = sound.members['base'].robust_accuracy
    found = change(sound, robust_accuracy={**attacks, own: values})
    names = [MULTI, EFFORT, AGREE, BLACK_BOX, CHANCE]
    assert {check(name, found)[0] for name in names} == {True}
    verdicts.append(check(STRONGEST, found)[0])
  assert verdicts == [False, True]


@pytest.mark.parametrize(
  ('fooled', 'count', 'warned'),
  [(2, 100, False), (3, 1000, True), (20, 10_000, False), (21, 10_000, True)],
)
def test_what_square_found_is_reported_once(sound, fooled, count, warned):
  after = 0.1, 0.1 - fooled / count
  warnings = ['Square fooled some.'] if warned else []
  run = autoattack(0.98, after, count, warnings=warnings)
  found = change(without(sound, 'square'), autoattack=[run])
  assert check(BLACK_BOX, found)[0] is not warned
  assert check(WARNINGS, found)[0] is True
  # A warning that is not of the other check.
  run = dataclasses.replace(run, attacks=[], warnings=['Square is slow.'])
  passed, detail = check(WARNINGS, change(found, autoattack=[run, run]))
  assert passed is False and detail.count('Square is slow') == 2


def test_above_is_more_than_chance():
  # Newcombe's example (1998, table II, row a): 56/70 against 48/80 has the
  # interval [0.0524, 0.3339] for the difference.
  def lower_end(upper, lower):
    chance = math.hypot(upper.value - upper.ci[0], lower.ci[1] - lower.value)
    return upper.value - lower.value - chance

  upper, lower = estimate(56 / 70, 70), estimate(48 / 80, 80)
  assert lower_end(upper, lower) == pytest.approx(0.0524, 1e-3)
  assert is_above(upper, lower) and not is_above(lower, upper)
  # [-0.0381, 0.1926]
  assert not is_above(estimate(5 / 56, 56), estimate(0.0, 29))
  assert not is_above(Estimate(0.5), Estimate(0.5))
  assert is_above(Estimate(0.6), Estimate(0.5))
