"""What is said about the numbers, and what is not."""

import math

import pytest
from advjax.reporting.sanity.findings import sanity_findings, suspicions
from advjax.reporting.sentences import explain

MASKS = 'masks its gradients'
MILD = 'mild form of gradient masking'


def said(report, *words):
  """Returns the sentences that hold all these words."""
  return [s for s in explain(report) if all(word in s for word in words)]


def set_white_box(report, name, attack, values, half=0.03):
  entry = report['members'][name]['robust_accuracy'][attack]
  for at, value in zip(entry['curve'], values, strict=True):
    at['white_box'] = value
    at['white_box_ci'] = [value - half, value + half]
  entry['white_box'] = values[2]
  entry['white_box_ci'] = [values[2] - half, values[2] + half]


def unmask(report):
  """One step and many agree at every epsilon."""
  for name in ('base', 'adversarial'):
    curve = [
      point['white_box']
      for point in report['members'][name]['robust_accuracy']['bim']['curve']
    ]
    set_white_box(report, name, 'fgsm', curve, half=0.001)


def test_transfer_is_not_called_robustness(report):
  (sentence,) = said(report, 'NSL')
  assert 'perturbed on base (FGSM, epsilon 0.1)' in sentence
  assert '86.0 % (transfer)' in sentence
  assert '80.0 % when attacked with its own gradients (white box)' in sentence


def test_no_word_of_transfer_where_there_is_one_member(report):
  del report['members']['adversarial']
  for entry in report['members']['base']['robust_accuracy'].values():
    entry['transfer'] = {}
  assert not said(report, 'ransfer')
  assert not said(report, 'more robust')
  assert said(report, 'the strongest attack leaves base 8.0 % (PGD-40).')


def test_more_robust_by_the_strongest_attack(report):
  unmask(report)
  (sentence,) = said(report, 'strongest')
  assert 'At epsilon 0.1 (linf)' in sentence
  assert 'base 8.0 % (PGD-40) and adversarial 44.0 % (PGD-40)' in sentence
  assert 'adversarial is more robust than base by 36.0 points' in sentence
  assert 'None of them' not in sentence


def test_a_lead_of_masked_gradients_shows_nothing(report):
  """One step leaves 71 % at epsilon 0.2, many leave 0 %."""
  (sentence,) = said(report, 'strongest')
  assert 'more robust' not in sentence
  assert 'The numbers of adversarial are suspicious (see below)' in sentence
  assert 'its lead of 36.0 points over base shows nothing' in sentence
  assert said(report, 'adversarial masks its gradients')


def test_strongest_attack_is_chosen_per_member(report):
  set_white_box(report, 'base', 'bim', (0.9, 0.6, 0.05, 0, 0))
  assert said(report, 'base 5.0 % (BIM-20) and adversarial 44.0 % (PGD-40)')


def test_overlapping_intervals_name_no_winner(report):
  for attack in ('bim', 'pgd'):
    set_white_box(report, 'base', attack, (0.9, 0.7, 0.43, 0.1, 0), half=0.05)
  (sentence,) = said(report, 'strongest')
  assert 'do not tell which is more robust' in sentence
  assert 'more robust than' not in sentence


def test_winner_below_ten_percent_is_not_robust_either(report):
  for name, value in (('base', 0.0), ('adversarial', 0.05)):
    for attack in ('bim', 'pgd'):
      set_white_box(report, name, attack, (0.9, 0.4, value, 0, 0), half=0.001)
  unmask(report)
  (sentence,) = said(report, 'strongest')
  assert 'more robust than base by 5.0 points' in sentence
  assert 'None of them is robust' in sentence


def test_threat_models_are_compared_apart(report):
  for member in report['members'].values():
    member['robust_accuracy']['pgd']['norm'] = 'l2'
  assert len(said(report, 'strongest')) == 2


def test_masking_where_many_steps_break_what_one_does_not(report):
  set_white_box(report, 'adversarial', 'fgsm', (0.97, 0.9, 0.77, 0.7, 0.6))
  set_white_box(report, 'adversarial', 'bim', (0.97, 0.8, 0.3, 0.02, 0.0))
  set_white_box(report, 'adversarial', 'pgd', (0.97, 0.8, 0.01, 0.0, 0.0))
  (sentence,) = said(report, MASKS)
  assert sentence.startswith('adversarial')
  # The headline goes before other epsilons, the strongest attack before others.
  assert 'at epsilon 0.1 one step (FGSM) leaves 77.0 %' in sentence
  assert '(PGD-40) leave 1.0 %' in sentence


def test_masking_is_found_beside_the_headline(report):
  (sentence,) = said(report, MASKS)
  assert 'at epsilon 0.2 one step (FGSM) leaves 71.0 %' in sentence
  assert '0.0 %' in sentence


def test_weak_one_step_attack_is_told_from_masking(report):
  set_white_box(report, 'base', 'fgsm', (0.9, 0.78, 0.6, 0.22, 0.14))
  for attack in ('bim', 'pgd'):
    set_white_box(report, 'base', attack, (0.9, 0.62, 0.25, 0.1, 0.0))
  (sentence,) = said(report, MILD)
  assert sentence.startswith('base')


@pytest.mark.parametrize('change', ['half remains', 'below half', 'other norm'])
def test_no_masking(report, change):
  fgsm = (0.9, 0.8, 0.7, 0.6, 0.5)
  many = (0.9, 0.7, 0.4, 0.35, 0.3)
  if change == 'below half':
    fgsm, many = (0.9, 0.45, 0.4, 0.3, 0.2), (0.9, 0.1, 0.0, 0.0, 0.0)
  for name in report['members']:
    set_white_box(report, name, 'fgsm', fgsm)
    for attack in ('bim', 'pgd'):
      set_white_box(report, name, attack, many)
      if change == 'other norm':
        set_white_box(report, name, attack, (0.2, 0.1, 0.0, 0.0, 0.0))
        report['members'][name]['robust_accuracy'][attack]['norm'] = 'l2'
  assert not said(report, MASKS)
  assert not said(report, MILD)


def test_black_box_that_beats_white_box(report):
  assert not said(report, 'mislead')
  base = report['members']['base']['robust_accuracy']['fgsm']
  base['transfer']['adversarial'] = 0.6
  base['transfer_ci']['adversarial'] = [0.55, 0.65]
  (sentence,) = said(report, 'mislead')
  assert 'FGSM at epsilon 0.1 leaves adversarial 80.0 %' in sentence
  assert '60.0 % with those of base' in sentence


def test_more_steps_that_do_less(report):
  assert not said(report, 'step size or number of steps')
  set_white_box(report, 'base', 'pgd', (0.97, 0.95, 0.9, 0.85, 0.8))
  (sentence,) = said(report, 'step size or number of steps')
  # Where they differ most.
  assert 'epsilon 0.2 PGD-40 leaves base 80.0 %, more than FGSM' in sentence


def test_accuracy_that_rises_with_epsilon(report):
  assert not said(report, 'rises')
  set_white_box(report, 'adversarial', 'fgsm', (0.9, 0.7, 0.4, 0.5, 0.6))
  (sentence,) = said(report, 'rises')
  assert '40.0 % at epsilon 0.1 to 60.0 % at epsilon 0.2' in sentence


def test_noise_is_no_rise(report):
  set_white_box(report, 'adversarial', 'fgsm', (0.9, 0.8, 0.78, 0.8, 0.7))
  assert not said(report, 'rises')


def test_accuracy_that_does_not_fall(report):
  flat = (0.98, 0.98, 0.98, 0.98, 0.97)
  set_white_box(report, 'adversarial', 'bim', flat)
  # One attack that does nothing beside others that do is a weak attack.
  assert not said(report, 'lowers the accuracy')
  (sentence,) = said(report, 'step size or number of steps')
  assert 'BIM-20 leaves adversarial 97.0 %' in sentence
  for attack in ('fgsm', 'pgd'):
    set_white_box(report, 'adversarial', attack, flat)
  (sentence,) = said(report, 'no attack lowers the accuracy of adversarial')
  assert 'Up to epsilon 0.2' in sentence
  report['sanity'] = []  # An evaluation says it in a section of its own.
  assert not said(report, 'lowers the accuracy')


def test_doubts_are_those_of_an_evaluation(report):
  set_white_box(report, 'adversarial', 'fgsm', (0.9, 0.7, 0.4, 0.5, 0.6))
  found = suspicions(sanity_findings(report))
  assert len(found) > 1
  assert [s for s in explain(report) if s in found] == found


@pytest.mark.parametrize(
  ('series', 'sentence'),
  [
    ([0.3, 0.6, None, 0.55, 0.02], 'from 60.0 % to 2.0 % by epoch 5'),
    ([0.3, 0.6, 0.55, 0.5, 0.45], None),
    ([0.1, 0.15, 0.01, 0.02, 0.03], None),  # Noise around nothing.
  ],
)
def test_collapse_in_training(report, series, sentence):
  epochs = [
    {'adversarial_loss': 0.1, 'monitor_robust_accuracy': value}
    for value in series
  ]
  report['members']['adversarial']['epochs'] = epochs
  found = said(report, 'In training the PGD accuracy')
  assert [sentence in s for s in found] == [True] * (sentence is not None)


def test_plain_training_cannot_collapse(report):
  report['members']['base']['epochs'] = [
    {'monitor_robust_accuracy': value} for value in (0.6, 0.0)
  ]
  assert not said(report, 'In training')


def test_width_of_the_intervals_on_a_small_test_set(report):
  (sentence,) = said(report, '360 test images are few')
  assert '± 5.1 points' in sentence


def test_no_word_about_width_on_a_large_test_set(report):
  for member in report['members'].values():
    for at in (member, *member['robust_accuracy'].values()):
      for key in ('clean_accuracy', 'white_box'):
        if key in at:
          at[f'{key}_ci'] = [at[key] - 0.01, at[key] + 0.01]
  assert not said(report, 'are few')


def test_clean_accuracies(report):
  assert said(report, 'base 98.6 % and adversarial 98.6 %', 'overlap')
  member = report['members']['adversarial']
  member['clean_accuracy'], member['clean_accuracy_ci'] = 0.9, [0.88, 0.92]
  assert said(report, 'adversarial pays with 8.6 points of clean accuracy')


def test_a_failed_member_is_passed_over(report):
  base = report['members']['base']
  base['clean_accuracy'] = math.nan
  base['robust_accuracy'] = {}
  assert said(report, 'leaves adversarial 44.0 % (PGD-40).')
  assert not said(report, 'nan')


def test_reports_with_next_to_nothing():
  assert explain({}) == []
  assert explain({'members': {'model': {}}}) == []
  (sentence,) = explain({'members': {'model': {'clean_accuracy': 0.5}}})
  assert sentence == 'Right on clean test images: model 50.0 %.'
