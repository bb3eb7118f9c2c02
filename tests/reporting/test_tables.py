"""The results table as text and as HTML."""

from xml.etree import ElementTree

from advjax.reporting.tables import format_html, format_text, results_table
from tests.reporting.compared_reports import add_top_k


def cells(report, label, heading=None):
  rows = list(results_table(report))
  if heading is not None:
    rows = rows[[row.label.startswith(heading) for row in rows].index(True) :]
  return next(row.cells for row in rows if row.label.strip() == label)


def test_numbers_stand_in_their_cells(report):
  assert cells(report, '') == ('base', 'adversarial')
  assert cells(report, 'parameters') == ('93,322', '93,322')
  assert cells(report, 'clean accuracy') == ('98.6 % [96.8, 99.4]',) * 2
  fgsm, bim = 'FGSM, epsilon 0.1, linf', 'BIM-20, epsilon 0.1, step size 0.01'
  assert cells(report, 'white box', fgsm)[0].startswith('41.0 % [36.')
  assert cells(report, 'white box', bim)[1].startswith('47.0 % [4')
  assert cells(report, 'training') == ('12.3 s', '12.3 s')
  assert cells(report, 'per training step') == ('9.87 ms', '9.87 ms')


def test_the_top_k_has_lines_of_its_own(report):
  labels = [row.label for row in results_table(report)]
  add_top_k(report)
  top = [row.label for row in results_table(report)]
  assert [label for label in top if 'top-5' not in label] == labels
  assert cells(report, 'top-5') == ('99.3 % [97.6, 99.7]',) * 2
  assert cells(report, 'white box, top-5')[0].startswith('70.5 % [')
  assert cells(report, 'transfer from base, top-5')[0] == '-'
  assert cells(report, 'transfer from base, top-5')[1].startswith('93.0 % [')


def test_transfer_belongs_to_the_member_scored(report):
  base = report['members']['base']['robust_accuracy']['fgsm']
  base['transfer'] = {'adversarial': 0.5}
  base['transfer_ci'] = {'adversarial': [0.4, 0.6]}
  assert cells(report, 'transfer from base') == ('-', '50.0 % [40.0, 60.0]')
  assert cells(report, 'transfer from adversarial')[1] == '-'


def test_several_seeds_show_their_deviation(report):
  report['members']['base']['clean_accuracy_std'] = 0.004
  assert cells(report, 'clean accuracy')[0] == '98.6 ± 0.4 % [96.8, 99.4]'


def test_the_test_loss_stands_beside_its_parts(report):
  base, adversarial = report['members'].values()
  base['test'] = {'loss': 0.0372, 'clean_loss': 0.0372}
  assert cells(report, 'test loss') == ('0.0372', 'n/a')
  # Of PGD training both are measured, neither is a part of the loss.
  adversarial['test'] = {
    'loss': 0.2,
    'clean_loss': 0.1,
    'adversarial_loss': 0.2,
  }
  labels = [row.label for row in results_table(report)]
  assert labels.index('test loss') + 1 == labels.index(
    'FGSM, epsilon 0.1, linf'
  )
  adversarial['test'] = {
    'loss': 0.0692,
    'loss_std': 0.001,
    'clean_loss': 0.0291,
    'adversarial_loss': 0.2007,
    'scaled_adversarial_loss': 0.04014,
  }
  assert cells(report, 'test loss') == ('0.0372', '0.0692 ± 0.0010')
  assert cells(report, 'clean') == ('-', '0.0291')
  assert cells(report, 'adversarial') == ('-', '0.2007')
  assert cells(report, 'adversarial x multiplier') == ('-', '0.0401')


def test_attacks_without_a_box_are_marked(report):
  for member in report['members'].values():
    member['robust_accuracy']['fgsm']['bounds'] = None
    member['robust_accuracy']['bim']['bounds'] = [0.0, 1.0]
  labels = [row.label for row in results_table(report)]
  marked = [label for label in labels if 'not clipped' in label]
  assert marked == ['FGSM, epsilon 0.1, linf, not clipped to the pixel range']


def test_absent_numbers_are_said_to_be_absent(report):
  base = report['members']['base']
  base['clean_accuracy'] = float('nan')
  del base['robust_accuracy']['fgsm'], base['train_seconds']
  assert cells(report, 'clean accuracy')[0] == 'n/a'
  assert cells(report, 'white box', 'FGSM')[0] == 'n/a'
  assert cells(report, 'training')[0] == 'n/a'


def test_a_member_alone_has_no_transfer_and_no_empty_rows():
  report = {'members': {'model': {'clean_accuracy': 0.5}}}
  labels = [row.label for row in results_table(report)]
  assert labels == ['', 'clean accuracy']


def test_text_stays_within_a_hundred_columns(report):
  for member in report['members'].values():
    member['clean_accuracy_std'] = 0.012
  text = format_text(results_table(report))
  assert max(map(len, text.splitlines())) <= 100
  assert text.count('adversarial  ') >= 3
  assert all(f'{name}' in text for name in ('FGSM', 'BIM-20', 'PGD-40'))


def test_text_of_many_members_goes_on_below(report):
  member = report['members']['base']
  report['members'] = {f'member {i}': member for i in range(6)}
  text = format_text(results_table(report))
  assert max(map(len, text.splitlines())) <= 100
  assert all(f'member {i}' in text for i in range(6))
  assert text.count('clean accuracy') > 1


def test_html_escapes_and_nests(report):
  report['members']['<b>&"'] = report['members'].pop('base')
  table = ElementTree.fromstring(format_html(results_table(report)))
  heads = [head.text for head in table.findall('thead/tr/th')]
  assert heads == ['adversarial', '<b>&"']
  for row in table.findall('tbody/tr'):
    spans = sum(int(cell.get('colspan', '1')) for cell in row)
    assert spans == 3
