"""The page of an evaluation: every part that was measured, and no other."""

import re

import pytest
from advjax.reporting.evaluated import charts, parts
from advjax.reporting.evaluated.drawn import without_large, without_transfer
from advjax.reporting.evaluated.matrices import corruption_tables
from advjax.reporting.evaluated.parts import evaluated_lines, evaluated_parts
from advjax.reporting.sanity.findings import sanity_findings
from advjax.reporting.sentences import explain

from advjax.reporting import gallery
from advjax.reporting.html import write_report
from advjax.reporting.tables import format_text, results_table
from tests.reporting.evaluated_reports import CLASSES, build, evaluated
from tests.reporting.pages import Page

SECTIONS = [
  *('sanity', 'autoattack', 'transfer', 'noise', 'minimal', 'per_class'),
  *('traces', 'rounding', 'corruptions'),
]
# A comparison has a glance at its members first, and the checks last.
COMPARED = ['summary', *SECTIONS[1:], 'sanity']


@pytest.fixture
def report():
  return evaluated()


@pytest.fixture
def no_figures(monkeypatch):
  """Drawing takes most of the time, and is the same in all of these."""
  picture = gallery.Picture('it', 'A figure', 'Its caption.', b'0' * 24)
  monkeypatch.setattr(parts, 'draw', lambda *args: picture)
  for name in ('class_chart', 'trace_chart'):
    monkeypatch.setattr(charts, name, lambda report: None)


def write(tmp_path, report):
  path = tmp_path / 'report.html'
  write_report(path, report, (), 'Attacked', evaluated_parts(report))
  return path.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return write(tmp_path_factory.mktemp('page'), evaluated())


def test_page_holds_every_part_once(text):
  page = Page(text)
  ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
  sections = ['warnings', 'meaning', 'results', *SECTIONS, 'origin']
  assert [name for name in ids if name in sections] == sections
  assert len(set(ids)) == len(ids)
  assert len(page.all('img')) == 2 == len(page.all('figcaption'))
  assert '://' not in text and 'url(' not in text and '<script' not in text
  for words in (
    'Can these numbers be trusted?',
    '3 of 45 checks found something suspicious; 3 could not be decided.',
    'single_step masks its gradients',
    'standard, epsilon 0.1, linf',
    '7.0 % [5.6, 8.8]',
    'salt-and-pepper noise',
    'DeepFool, l2',
    '0.061 (100.0 % found)',
    'JPEG compression',
    'All 10 classes, in numbers',
    '8.0 % to 8.1 %',
  ):
    assert words in page.text.replace('  ', ' '), words


def test_tables_have_heads_and_labels(text):
  page = Page(text)
  regions = [attrs for attrs in page.all('div') if attrs.get('role')]
  labels = [attrs['aria-label'] for attrs in regions]
  assert len(set(labels)) == len(labels) == len(page.all('table'))
  assert all(attrs['tabindex'] == '0' for attrs in regions)
  for table in re.findall(r'<table.*?</table>', text, re.S):
    assert table.count('scope="col"') or 'class="fields"' in table
    for row in table.partition('<tbody>')[2].split('<tr')[1:]:
      assert row.count('<th scope="row') == 1


def test_suspicions_are_warnings_and_come_first(text, report):
  found = [f['detail'] for f in report['sanity'] if f['passed'] is False]
  warnings = re.search(r'<section class="warnings".*?</section>', text, re.S)
  sanity = re.search(r'<section id="sanity".*?</section>', text, re.S)
  assert len(found) == 3
  for detail in found:
    assert detail in Page(warnings[0]).text and detail in Page(sanity[0]).text
  verdicts = re.findall(r'class="verdict[^"]*">([^<]*)', sanity[0])
  order = ['suspicious', 'not decided', 'passed']
  assert verdicts == sorted(verdicts, key=order.index)
  assert [verdicts.count(verdict) for verdict in order] == [3, 3, 39]


def test_parts_that_were_not_measured_are_left_out(no_figures):
  report = build()
  assert [part.name for part in evaluated_parts(report)] == COMPARED
  for part, key in (
    ('autoattack', 'autoattack'),
    ('noise', 'noise'),
    ('minimal', 'minimal'),
    ('per_class', 'per_class'),
    ('traces', 'traces'),
    ('rounding', 'rounded'),
    ('corruptions', 'corruptions'),
  ):
    report = build()
    for member in report['members'].values():
      member.pop(key, None)
    names = [each.name for each in evaluated_parts(report)]
    assert names == [name for name in COMPARED if name != part]
  assert evaluated_parts({}) == []


def test_a_comparison_shows_what_it_has(report, tmp_path, no_figures):
  for member in report['members'].values():
    for key in list(member):
      if key not in ('num_params', 'clean_accuracy', 'robust_accuracy'):
        del member[key]
    for entry in member['robust_accuracy'].values():
      entry['transfer'] = {}
  del report['sanity']
  glance, checks = evaluated_parts(report)
  assert (glance.name, checks.name) == ('summary', 'sanity')
  # Many checks need what only an evaluation measures: they are folded.
  page = Page(checks.html)
  assert len(page.all('details')) == 2
  assert 'single_step masks its gradients' in page.text
  assert list(evaluated_lines(report)) == []
  assert without_transfer(report) is report is without_large(report)
  assert 'class="shaded"' not in write(tmp_path, report)


def test_what_one_member_has_seen_is_framed(report):
  report['members']['base']['seen_corruptions'] = ['fog', 'pasted_objects']
  means, base, other = corruption_tables(report)
  assert (means.count('class="mark"'), base.count('class="mark"')) == (1, 5)
  assert 'class="mark"' not in other
  assert 'mean, unseen by all' in means
  (part,) = (p for p in evaluated_parts(report) if p.name == 'corruptions')
  assert 'Framed: kinds that the member has seen' in Page(part.html).text
  for severity in ('1', '2'):
    report['members']['base'].setdefault('pasted_objects', {})[severity] = {
      'accuracy': 0.5,
      'accuracy_std': 0.01,
    }
  (part,) = (p for p in evaluated_parts(report) if p.name == 'pasted_objects')
  text = Page(part.html).text
  assert '50.0 ± 1.0 %' in text and 'severity 2' in text
  assert 'Trained with CutMix, which pastes rectangles: base.' in text


def test_members_trained_with_noise_are_named(report):
  def text():
    (part,) = (p for p in evaluated_parts(report) if p.name == 'noise')
    return Page(part.html).text

  assert 'Trained with noise' not in text()
  seen = ['gaussian_noise', 'impulse_noise', 'fog']
  report['members']['single_step']['seen_corruptions'] = seen
  named = 'of any size: single_step (Gaussian, salt-and-pepper).'
  assert f'Trained with noise, {named}' in text()


def test_members_of_several_sizes_are_set_against_them(report):
  report['members']['base']['num_params'] = 1_000_000
  parts = {part.name: part for part in evaluated_parts(report)}
  (picture,) = parts['efficiency'].pictures
  assert picture.png.startswith(b'\x89PNG')
  assert '1,000,000' in Page(parts['efficiency'].html).text


def test_one_member_alone(tmp_path, no_figures):
  report = build()
  report['members'] = {'base': report['members']['base']}
  for entry in report['members']['base']['robust_accuracy'].values():
    entry['transfer'] = {}
  report['sanity'] = sanity_findings(report)
  page = Page(write(tmp_path, report))
  ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
  assert 'transfer' not in ids and 'warnings' not in ids
  assert 'Nothing is suspicious in 15 checks; 1 could not be' in page.text
  # All in one table: nothing is folded but the classes.
  assert len(page.all('details')) == 1


def test_many_members_attacks_and_classes(tmp_path, no_figures):
  report = build(1000)
  members = report['members']
  attack = members['base']['robust_accuracy']['pgd-10']
  for number in range(3):
    members[f'copy {number}'] = members['base']
  for number in range(20, 28):
    members['base']['robust_accuracy'][f'mifgsm-{number}'] = attack
  report['sanity'] = sanity_findings(report)
  page = Page(write(tmp_path, report))
  assert '9 more attacks' in page.text
  assert 'All 1000 classes, in numbers' in page.text
  assert 'class 999' in page.text
  (line,) = (x for x in page.texts if 'checks found something' in x)
  assert line.startswith('3 of 90 checks')


def test_every_text_is_escaped(tmp_path, no_figures):
  evil = '<b>"&\'</b>'
  report = build()
  members = report['members']
  members[evil] = members.pop('base')
  for entry in members['pgd_at']['robust_accuracy'].values():
    entry['transfer'] = {evil: 0.5}
  member = members[evil]
  for part in ('noise', 'corruptions', 'minimal'):
    member[part] = {evil: next(iter(member[part].values()))}
  run = member['autoattack'][0]
  run |= {'version': evil, 'norm': evil, 'warnings': [evil]}
  run['attacks'][0]['name'] = evil
  report['classes'] = [evil] * 10
  report['sanity'] = sanity_findings(report)
  text = write(tmp_path, report)
  assert '<b>' not in text
  page = Page(text)
  assert sum(each.count(evil) for each in page.texts) > 30
  labels = [attrs.get('aria-label') for attrs in page.all('div')]
  assert 'Noise' in labels


def test_results_are_white_box_and_autoattack(report):
  rows = {row.label.strip(): row.cells for row in results_table(report)}
  assert rows['PGD-10, epsilon 0.1, linf'][0] == '10.0 % [8.3, 12.0]'
  assert rows['standard, epsilon 0.1, linf'] == (
    '7.0 % [5.6, 8.8]',
    '13.0 % [11.1, 15.2]',
    'n/a',
  )
  assert not any('transfer' in label for label in rows)
  # Its runs say it, so that it is not among the other attacks.
  assert [label for label in rows if 'AutoAttack' in label] == ['AutoAttack']
  lines = format_text(results_table(report)).splitlines()
  assert max(map(len, lines)) <= 100


def test_terminal_tells_autoattack_and_warnings(report):
  lines = list(evaluated_lines(report))
  assert lines[:3] == [
    '',
    'AutoAttack standard, epsilon 0.1, linf: base 7.0 % in 381.4 s, '
    'single_step 13.0 % in 381.4 s',
    'sanity: 3 of 45 checks found something suspicious; 3 could not be '
    'decided.',
  ]
  assert len(lines) == 6
  assert all(line.startswith('warning: ') for line in lines[3:])


def test_the_strongest_attack_may_be_autoattack(report):
  (said,) = (line for line in explain(report) if 'strongest' in line)
  assert 'base 7.0 % (AutoAttack), single_step 13.0 % (AutoAttack)' in said
  assert 'pgd_at 84.0 % (PGD-40-5)' in said
  # What the findings say is not said twice.
  assert not any('masks' in line for line in explain(report))
  del report['sanity']
  assert any('masks' in line for line in explain(report))


def test_a_suspicious_member_is_not_called_more_robust(report):
  (said,) = (line for line in explain(report) if 'strongest' in line)
  assert 'pgd_at is more robust than the next, single_step, by 71' in said
  report['sanity'][-1] |= {'passed': False}
  assert report['sanity'][-1]['member'] == 'pgd_at'
  (said,) = (line for line in explain(report) if 'strongest' in line)
  assert 'is more robust' not in said
  assert 'The numbers of pgd_at are suspicious' in said


def test_charts_of_every_report_leave_out_what_is_far(report):
  cut = without_large(report)['members']['base']['robust_accuracy']
  curve = cut['pgd-10']['curve']
  assert [point['epsilon'] for point in curve] == [0.05, 0.1, 0.2]
  assert cut['autoattack']['white_box'] == pytest.approx(0.07)
  bars = without_transfer(report)['members']['pgd_at']['robust_accuracy']
  assert 'autoattack' not in bars and bars['fgsm']['transfer'] == {}
  for entry in report['members']['base']['robust_accuracy'].values():
    entry['epsilon'] = 0.3  # Then 0.5 is not far.
  cut = without_large(report)['members']['base']['robust_accuracy']
  assert len(cut['pgd-10']['curve']) == 4


def test_classes_are_named(report):
  parts = {part.name: part for part in evaluated_parts(report)}
  page = Page(parts['per_class'].html)
  for name in CLASSES:
    assert name in page.text
