"""Sentences, warnings and tables of a report."""

import dataclasses

from advjax.reporting.text import (
  autoattack_table,
  class_table,
  results_table,
  sentences,
  warnings,
  worst_cases,
)
from tests.reporting.reports import EPSILON, change, compared, evaluated


def row(found, label, number=0):
  """Cells of the row with this label."""
  rows = [r for r in results_table(found).rows if r.label.strip() == label]
  return tuple(rows[number].cells)


def said(found, word):
  """The only sentence with a word."""
  (text,) = (each for each in sentences(found) if word in each)
  return text


def test_white_box_and_transfer_are_apart():
  found = compared()
  accuracies = '41.0 % [38.0, 44.1]', '87.0 % [84.8, 88.9]'
  assert row(found, 'white box') == accuracies
  assert row(found, 'transfer from base') == ('-', '80.0 % [77.4, 82.4]')
  assert row(found, 'transfer from pgd_at') == ('80.0 % [77.4, 82.4]', '-')
  assert row(found, 'top-5, transfer')[1].startswith('99.0 % [')
  # An evaluation has its transfer in matrices.
  labels = {each.label for each in results_table(evaluated()).rows}
  assert not any('transfer' in label for label in labels)
  text = said(found, 'Transfer accuracy')
  assert '80 %' in text.replace('.0', '') and 'white box' in text


def test_the_table_has_what_was_measured():
  found = evaluated()
  table = results_table(found)
  assert table.columns == ['base', 'single_step', 'pgd_at']
  assert row(found, 'clean accuracy')[0] == '98.4 % [97.4, 99.0]'
  assert row(found, 'white box, rounded to 8 bits', 1)[0] == '10.1 %'
  assert row(found, 'median distance, FMN, linf')[0] == '8/255 (success 97.0 %)'
  assert row(found, 'salt-and-pepper')[0].startswith('96.5 % [')
  assert row(found, 'severity 3')[0].startswith('83.4 % [')
  (label,) = {r.label for r in table.rows if r.label.startswith('AutoAttack')}
  assert row(found, label)[0].startswith('7.0 % [')
  assert row(found, 'gradients zero')[0] == '0.10 %'
  headings = [each.label for each in table.rows if not each.cells]
  assert 'PGD-40-5, epsilon 0.1, step size 0.025, linf' in headings
  # What was not measured has no row.
  assert not any('top-' in each.label for each in table.rows)
  assert not any('training' in each.label for each in table.rows)


def test_the_table_has_training_and_several_seeds():
  found = compared()
  assert row(found, 'parameters') == ('93,322', '933,220')
  assert row(found, 'adversarial x multiplier') == ('0.2500', '-')
  assert row(found, 'unseen corruptions, mean')[0] == '75.0 ± 1.0 %'
  assert row(found, 'validation accuracy') == ('91.0 %', '91.0 %')
  assert row(found, 'training time') == ('12.5 s', '25.0 s')
  assert row(found, 'clean points per million parameters')[0] == '1,054.4'
  assert row(compared(0), 'training accuracy, last epoch')[0] == '96.0 %'
  test = {'loss': 0.5, 'loss_std': 0.01}
  training = dataclasses.replace(found.members['base'].training, test=test)
  found = change(found, training=training)
  assert row(found, 'test loss')[0] == '0.5000 ± 0.0100'


def test_the_strongest_attack_counts():
  worst = worst_cases(evaluated())['linf', EPSILON]
  assert worst['base'][0].value == min(0.41, 0.1, 0.08, 0.15) - 0.01
  assert worst['base'][1] == 'AutoAttack'
  text = said(evaluated(), 'Robust accuracy')
  assert 'AutoAttack' in text
  assert 'pgd_at is more robust than single_step by 70 points.' in text


def test_warnings_are_of_data_of_training_and_of_sanity_checks():
  report = compared()
  data = dataclasses.replace(report.dataset, warnings=['no test image'])
  found = dataclasses.replace(report, dataset=data)
  assert sorted(warnings(found)) == sorted(['no test image', *warnings(report)])
  assert 'pgd_at: the loss is not finite' in warnings(compared())
  found = evaluated()
  suspicious = [f.detail for f in found.sanity if f.passed is False]
  assert suspicious and warnings(found) == suspicious


def test_autoattack_is_listed_by_attack():
  assert autoattack_table(compared()) is None
  table = autoattack_table(evaluated(['base']))
  labels = [each.label.strip() for each in table.rows]
  assert labels[0] == 'base: standard, epsilon 0.1, linf'
  assert labels[1:] == ['clean', 'APGD-CE', 'APGD-T', 'FAB-T', 'Square']
  assert table.rows[2].cells == ['9.0 %', '894', '31.2', '98,400', '0']


def test_classes_are_listed_clean_and_attacked():
  assert class_table(compared()) is None
  table = class_table(evaluated(['base']))
  assert table.columns == ['base, clean', 'base, PGD-40-5']
  assert [each.label for each in table.rows] == ['zero', 'one', 'two']
  assert table.rows[0].cells == ['98.4 %', '4.0 %']
  assert table.rows[1].cells == ['n/a', 'n/a']  # No image of it.
