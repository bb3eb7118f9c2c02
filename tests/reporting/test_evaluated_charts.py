"""Tables by colour, and the charts of an evaluation."""

import itertools

import numpy as np
import pytest
from advjax.reporting.evaluated import charts, matrices, tables
from advjax.reporting.evaluated.autoattack import autoattack_steps
from advjax.reporting.evaluated.sanity import sanity_html, sanity_line
from advjax.reporting.evaluated.shading import shaded_table
from matplotlib.colors import to_rgb

from tests.reporting.compared_reports import add_top_k
from tests.reporting.evaluated_reports import build
from tests.reporting.pages import Page


@pytest.fixture
def report():
  return build()


class Cells(Page):
  """Keeps the cells of a table, row by row: [text, style, class]."""

  def __init__(self, text):
    self.rows = []
    super().__init__(text)

  def handle_starttag(self, tag, attrs):
    super().handle_starttag(tag, attrs)
    attrs = dict(attrs)
    if tag == 'tr':
      self.rows.append([])
    elif tag in ('td', 'th'):
      cell = ['', attrs.get('style', ''), attrs.get('class', '')]
      self.rows[-1].append(cell)

  def handle_data(self, data):
    super().handle_data(data)
    if self.open and self.open[-1] in ('td', 'th'):
      self.rows[-1][-1][0] += data


def luminance(colour):
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
    for c in to_rgb(colour)
  ]
  return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_cells_can_be_read_on_every_colour():
  values = np.linspace(0, 1, 41).tolist()
  table = Cells(shaded_table('It', ['row'], list(map(str, values)), [values]))
  previous = -1.0
  for (text, style, _), value in zip(table.rows[1][1:], values, strict=True):
    assert text == f'{100 * value:.1f}'
    background, ink = (part.split(':')[1] for part in style.split(';'))
    low, high = sorted(map(luminance, (background, ink)))
    assert (high + 0.05) / (low + 0.05) >= 4.5, value  # WCAG 2, level AA.
    assert luminance(background) > previous
    previous = luminance(background)


def test_absent_numbers_are_dashes():
  table = Cells(shaded_table('It', ['a'], ['b', 'c'], [[None, float('nan')]]))
  assert [cell[:2] for cell in table.rows[1][1:]] == [['-', ''], ['-', '']]


def test_transfer_has_its_source_in_the_row(report):
  entries = {
    name: member['robust_accuracy']['fgsm']
    for name, member in report['members'].items()
  }
  entries['base']['transfer'] = {'single_step': 0.11, 'pgd_at': 0.22}
  tables_html = matrices.transfer_tables(report)
  assert len(tables_html) == 5
  table = Cells(tables_html[0])
  assert 'FGSM, epsilon 0.1 (linf)' in table.text
  assert [row[0][0] for row in table.rows[1:]] == list(report['members'])
  assert [cell[0] for cell in table.rows[0][1:]] == list(report['members'])
  assert [cell[0] for cell in table.rows[1][1:]] == ['41.0', '11.0', '22.0']
  marked = [[cell[2] == 'mark' for cell in row[1:]] for row in table.rows[1:]]
  assert np.array_equal(marked, np.eye(3, dtype=bool))
  del entries, report['members']['single_step']['robust_accuracy']['fgsm']
  table = Cells(matrices.transfer_tables(report)[0])
  assert [row[0][0] for row in table.rows[1:]] == ['base', 'pgd_at']
  assert [cell[2] for cell in table.rows[2][1:]] == ['', '', 'mark']


def test_corruptions_and_their_means(report):
  kinds = report['members']['base']['corruptions']
  means, base, other = matrices.corruption_tables(report)
  table = Cells(base)
  assert len(table.rows) == 1 + 15 + 1
  expected = [f'{100 * value:.1f}' for value in kinds['fog']]
  expected.append(f'{100 * np.mean(kinds["fog"]):.1f}')
  (fog,) = (row for row in table.rows if row[0][0] == 'fog')
  assert [cell[0] for cell in fog[1:]] == expected
  total = 100 * np.mean(list(kinds.values()))
  assert table.rows[-1][-1][0] == f'{total:.1f}'
  table = Cells(means)
  assert [cell[0] for cell in table.rows[0][1:]] == ['base', 'single_step']
  assert table.rows[-1][1][0] == f'{total:.1f}'
  assert 'single_step' in other
  del report['members']['single_step']['corruptions']
  assert len(matrices.corruption_tables(report)) == 1


def test_noise_stands_beside_attacks_of_its_ball(report):
  rows = tables.noise_rows(report)
  labels = [row.label for row in rows]
  assert labels == [
    '',
    'no perturbation',
    'epsilon 0.1, linf',
    *('  uniform noise', '  Gaussian noise', '  salt-and-pepper noise'),
    *('  FGSM', '  PGD-10', '  PGD-40-5', '  Square-1000', '  AutoAttack'),
  ]
  assert rows[5].cells[0] == '93.0 % [91.2, 94.4]'
  assert rows[6].cells[0] == '41.0 % [38.0, 44.1]'
  for member in report['members'].values():
    member['robust_accuracy']['fgsm']['norm'] = 'l2'
  assert '  FGSM' not in [row.label for row in tables.noise_rows(report)]
  report['members']['base']['noise']['uniform']['epsilon'] = 0.2
  rows = tables.noise_rows(report)
  here = [row.label for row in rows].index('epsilon 0.1, linf')
  (cells,) = (row.cells for row in rows[here:] if 'uniform' in row.label)
  assert cells[0] == 'n/a' and cells[1].startswith('98.0 %')
  (cells,) = (row.cells for row in rows[:here] if 'uniform' in row.label)
  assert cells[0].startswith('97.5 %') and cells[1] == 'n/a'


def test_top_k_stands_below_each_accuracy_under_noise(report):
  without = tables.noise_rows(report)
  add_top_k(report)
  entry = report['members']['base']['noise']['gaussian']
  entry |= {'top_k_accuracy': 0.995, 'top_k_accuracy_ci': [0.99, 0.999]}
  rows = tables.noise_rows(report)
  below = {one.label: two for one, two in itertools.pairwise(rows)}
  assert below['  Gaussian noise'].label == '    top-5'
  assert below['  Gaussian noise'].cells[0] == '99.5 % [99.0, 99.9]'
  assert set(below['  Gaussian noise'].cells[1:]) == {'n/a'}
  assert below['no perturbation'].label == '  top-5'
  assert below['  FGSM'].label == '    top-5'
  assert below['  FGSM'].cells[0].startswith('70.5 %')
  # Where none was measured there is no row; all other rows are as before.
  assert below['  uniform noise'].label == '  Gaussian noise'
  assert [row for row in rows if 'top-5' not in row.label] == without


def test_gradients_of_attacks_that_differ_are_listed_apart(report):
  labels = [row.label for row in tables.gradient_rows(report)]
  assert labels == ['', 'exactly zero', 'not finite']
  report['members']['base']['traces']['fgsm']['zero_gradients'] = 0.5
  rows = tables.gradient_rows(report)
  assert rows[1].cells == () and rows[2].label == '  FGSM'
  assert rows[2].cells[0] == '50.00 %'


def test_classes_are_listed_clean_and_under_the_worst_attack(report):
  rows = tables.class_rows(report)
  assert rows[0].cells[:4] == (
    'base, clean',
    'base, AutoAttack',
    'single_step, clean',
    'single_step, AutoAttack',
  )
  assert len(rows) == 11
  per_class = report['members']['base']['per_class']
  assert rows[1].cells[1] == f'{100 * per_class["autoattack"][0]:.1f} %'
  del report['classes']
  assert [row.label for row in tables.class_rows(report)[1:3]] == ['0', '1']


def test_autoattack_is_told_attack_by_attack(report):
  rows = autoattack_steps(report)
  assert [row.label for row in rows[1:8]] == [
    'base: standard, epsilon 0.1, linf',
    *('  no attack', '  APGD-CE', '  APGD-T', '  FAB-T', '  Square'),
    '  together',
  ]
  assert rows[4].cells == ('7.4 %', '16', '210.9', '612,000', '612,000')
  assert rows[7].cells == ('7.0 %', '914', '381.4', '2,191,400', '998,400')


def test_sanity_is_worded_by_what_was_found():
  findings = [
    {'check': 'a', 'member': 'm', 'passed': passed, 'detail': f'{passed}.'}
    for passed in (True, None, False, True)
  ]
  assert sanity_line(findings).startswith('1 of 4 checks found something')
  assert sanity_line(findings[:1]) == 'Nothing is suspicious in 1 check.'
  page = Page(sanity_html(findings))
  order = [text for text in page.texts if text in ('True.', 'None.', 'False.')]
  assert order == ['False.', 'None.', 'True.', 'True.']
  assert not page.all('details')
  many = Page(sanity_html(5 * findings))
  assert len(many.all('details')) == 2 and len(many.all('table')) == 3
  assert '5 checks could not be decided' in many.text
  assert sanity_html([]) == ''


def test_class_chart_shows_what_the_attacks_break(report):
  figure = charts.class_chart(report)
  axes = [ax for ax in figure.axes if ax.lines]
  assert [ax.get_title() for ax in axes] == [
    'base, AutoAttack',
    'single_step, AutoAttack',
    'pgd_at, PGD-40-5',
  ]
  clean, attacked = (line.get_xdata() for line in axes[0].lines)
  per_class = report['members']['base']['per_class']
  assert np.array_equal(clean, per_class['clean'])
  assert np.array_equal(attacked, per_class['autoattack'])
  assert axes[0].get_yticklabels()[3].get_text() == 'digit 3'


def test_many_classes_show_the_most_broken(report):
  many = build(200)
  assert charts.shown_classes(report) == list(range(10))
  worst = np.full((3, 200), 0.5)
  for number, member in enumerate(many['members'].values()):
    worst[number, 7 * number + 100] = 0.1 * number
    member['per_class'] = {'clean': [0.9] * 200, 'pgd-10': worst[number]}
  assert charts.shown_classes(many)[:4] == [100, 107, 114, 0]
  assert len(charts.shown_classes(many)) == 20
  axes = charts.class_chart(many).axes
  assert axes[0].get_yticklabels()[1].get_text() == 'class 107'


def test_trace_chart_has_a_column_per_attack(report):
  del report['members']['base']['traces']['fgsm']
  figure = charts.trace_chart(report)
  titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
  assert titles == ['PGD-10', 'PGD-40-5', 'FGSM']
  losses = figure.axes[0]
  trace = report['members']['base']['traces']['pgd-10']
  assert np.array_equal(losses.lines[0].get_ydata(), trace['loss'])
  assert len(figure.axes[2].lines) == 2


def test_losses_far_apart_are_both_to_be_seen(report):
  figure = charts.trace_chart(report)
  assert {ax.get_yscale() for ax in figure.axes} == {'linear'}
  trace = report['members']['base']['traces']['fgsm']
  trace['loss'] = [None, 1e4]
  figure = charts.trace_chart(report)
  assert [ax.get_yscale() for ax in figure.axes[:2]] == ['log', 'linear']
  assert figure.axes[0].get_ylim()[0] < 0.1


def test_charts_ask_for_something_to_draw():
  with pytest.raises(ValueError, match='per_class'):
    charts.class_chart({'members': {'it': {}}})
  with pytest.raises(ValueError, match='traces'):
    charts.trace_chart({'members': {'it': {}}})
