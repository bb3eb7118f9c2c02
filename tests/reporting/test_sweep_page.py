"""The page of a sweep: all of it there, escaped, sortable, offline."""

import json
import math
import re

import pytest

from advjax.reporting.sweep import page as sweep_page
from advjax.reporting.sweep.page import write_sweep
from advjax.reporting.sweep.table import SCRIPT, members_html, members_text
from advjax.reporting.values import percent
from tests.reporting.pages import Page
from tests.reporting.sweep_reports import grid_report, make_report, product


def no_figures(monkeypatch):
  """Drawing is tested elsewhere and takes a second."""
  monkeypatch.setattr(sweep_page, 'sweep_pictures', lambda *args: [])


class Table(Page):
  """Keeps the cells of the members: [(what it sorts by, its text)] a row."""

  def __init__(self, text):
    self.rows = []
    super().__init__(text)

  def handle_starttag(self, tag, attrs):
    super().handle_starttag(tag, attrs)
    if tag == 'tr':
      self.rows.append([])
    elif tag in ('td', 'th'):
      self.rows[-1].append([dict(attrs).get('data-value'), ''])

  def handle_data(self, data):
    if any(tag in ('td', 'th') for tag in self.open):
      self.rows[-1][-1][1] += data


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep')
  return folder, write_sweep(folder, grid_report(2))


def test_every_file_is_there(written):
  folder, _ = written
  report = json.loads((folder / 'sweep.json').read_text())
  assert report == json.loads(json.dumps(grid_report(2)))
  assert sorted(path.name for path in folder.iterdir()) == [
    'figures',
    'report.html',
    'results.csv',
    'results.jsonl',
    'sweep.json',
  ]
  assert sorted(path.name for path in (folder / 'figures').iterdir()) == [
    'attack_curves.png',
    'curves.png',
    'heatmap.png',
    'pareto_front.png',
  ]


def test_page_holds_every_part_and_loads_nothing(written):
  text = (written[0] / 'report.html').read_text()
  page = Page(text)
  ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
  assert ids == [
    'meaning',
    'best',
    'figures',
    'heatmap',
    'curves',
    'pareto_front',
    'attack_curves',
    'members',
    'origin',
  ]
  for words in (
    'Sweep on digits',
    '1,437 training images · 360 test images · 18 of 18 members done · '
    'objective pgd_at',
    '--config.hparams.epsilon=0.1 --config.hparams.multiplier=0.5',
    './launch.sh sweep --config=configs/digits.py',
    'lax.map over 2 devices',
    'hparams.epsilon',
    '0.10.2',
  ):
    assert words in page.text, words
  assert all(
    image['src'].startswith('data:image/png;base64,') and image['alt']
    for image in page.all('img')
  )
  assert '://' not in text and 'url(' not in text and '@import' not in text
  assert text.count('<script') == 1 and SCRIPT in text


def test_terminal_shows_the_best_member_and_its_command(written):
  _, text = written
  lines = text.splitlines()
  assert lines[0].split()[:5] == [
    'epsilon',
    'multiplier',
    'seed',
    'clean',
    'robust',
  ]
  report = grid_report(2)
  best = max(report['rows'], key=lambda row: row['robust_accuracy'])
  cells = lines[2].split('  ')
  assert percent(best['robust_accuracy']) in cells
  assert f'to train it alone: {best["command"]}' in lines
  assert any(line.startswith('Best by robust accuracy') for line in lines)


def test_table_holds_every_row_with_heads_to_sort_by():
  report = make_report(
    product(hparams__epsilon=(0.1, 8 / 255, 2.0), norm=('l2', 'linf')),
    lambda f: (0.9, 0.5) if f['hparams.epsilon'] < 1 else None,
  )
  report['rows'][1]['warnings'] = ['one', 'two']
  table = Table(members_html(report, report['rows'][1]))
  heads = [text for _, text in table.rows[0]]
  assert heads == [
    *('#', 'epsilon', 'norm', 'clean', 'robust', 'FGSM', 'BIM', 'PGD'),
    *('loss', 'training s', 'step ms', 'group'),
    *('status', 'warnings', 'member', 'folder'),
  ]
  assert len(table.all('button')) == len(heads)
  assert table.tags.count(('th', {'scope': 'col'})) + table.tags.count(
    ('th', {'scope': 'col', 'class': 'text'})
  ) == len(heads)
  assert len(table.rows) == 1 + len(report['rows'])
  for number, (cells, row) in enumerate(
    zip(table.rows[1:], report['rows'], strict=True), 1
  ):
    cell = dict(zip(heads, cells, strict=True))
    assert cell['#'] == [str(number), str(number)]
    assert float(cell['epsilon'][0]) == row['hparams.epsilon']
    assert cell['norm'] == [row['norm'], row['norm']]
    assert cell['member'][1] == row['member']
    if row['status'] == 'done':
      assert float(cell['robust'][0]) == row['robust_accuracy']
      assert cell['robust'][1] == '50.0 % [44.9, 55.1]'
      assert cell['status'][1] == 'done'
    else:
      assert cell['robust'] == cell['loss'] == ['', '']
      assert cell['status'][1] == 'diverged: the loss is not finite'
  assert table.rows[2][heads.index('epsilon')][1] == '0.1'
  assert table.rows[3][heads.index('epsilon')][1] == '0.0314'
  assert table.rows[2][heads.index('warnings')][1] == 'one; two'
  assert table.all('tr').count({'class': 'best'}) == 1


def test_every_text_is_escaped(tmp_path, monkeypatch):
  no_figures(monkeypatch)
  evil = '<b>"&\'</b></script><script>'
  settings = [{evil: evil}, {evil: 'other'}]
  report = make_report(settings, lambda f: (0.9, 0.5))
  for row in report['rows']:
    row |= {'warnings': [evil, row['member']], 'command': evil, 'folder': evil}
  report['rows'][1] |= {'status': 'diverged', 'reason': evil}
  report |= {
    'title': evil,
    'command': evil,
    'environment': {evil: evil},
    'config': {evil: evil},
    'warnings': [f'w {evil}'],
    'pending': [evil],
    'objective': evil,
    'model': evil,
    'norm': evil,
    'groups': [{'members': evil, 'how': evil, 'chunks': [evil]}],
  }
  report['dataset']['name'] = evil
  write_sweep(tmp_path, report)
  text = (tmp_path / 'report.html').read_text()
  page = Page(text)
  assert '<b>' not in text
  assert text.count('<script') == text.count('</script') == 1
  assert page.text.count(evil) >= 20


def test_unfinished_and_diverged_members_are_told(tmp_path, monkeypatch):
  no_figures(monkeypatch)
  report = make_report(
    product(a=(1, 2)),
    lambda f: (0.9, 0.5) if f['a'] == 1 else None,
    pending=['a=3'],
    num_members=3,
  )
  report['rows'][0]['loss'] = math.nan
  text = write_sweep(tmp_path, report)
  page = Page((tmp_path / 'report.html').read_text())
  assert '2 of 3 members done, 1 diverged' in page.text
  for words in ('1 of 3 members are pending (a=3)', 'a=2: diverged: the loss'):
    assert words in page.text and 'warning: ' in text and words in text
  assert 'NaN' not in (tmp_path / 'sweep.json').read_text()


def test_one_member_and_none(tmp_path, monkeypatch):
  write_sweep(tmp_path, make_report(product(seed=(0,))))
  page = Page((tmp_path / 'report.html').read_text())
  assert 'One setting has been scored: the only setting' in page.text
  text = write_sweep(tmp_path, grid_report(rows=[], curves={}, pending=['x']))
  page = Page((tmp_path / 'report.html').read_text())
  assert '0 of 18 members done' in page.text
  assert 'No member has been scored' in page.text and not page.all('img')
  assert text.startswith('No member has been scored')


@pytest.mark.parametrize('num_seeds', [1, 2])
def test_the_best_member_is_the_first_seed(tmp_path, monkeypatch, num_seeds):
  no_figures(monkeypatch)
  report = grid_report(num_seeds)
  said = write_sweep(tmp_path, report).splitlines()
  page = (tmp_path / 'report.html').read_text()
  (line,) = (line for line in said if line.startswith('best member'))
  which = ' (the first seed of the best setting)' if num_seeds > 1 else ''
  name = line.removeprefix(f'best member{which}: ')
  assert name in [row['member'] for row in report['rows']]
  assert f'To train the best member{which} alone, {name}:' in page


def test_terminal_lists_twenty_members_the_best_first():
  report = make_report(
    product(a=range(23)),
    lambda f: None if f['a'] == 7 else (0.9, f['a'] / 100),
  )
  lines = members_text(report).splitlines()
  assert re.fullmatch(r'-+', lines[1])
  assert [line.split()[0] for line in lines[2:5]] == ['22', '21', '20']
  assert len(lines) == 23 and lines[-1] == 'and 3 more members in results.csv'
  report = make_report(
    product(a=range(3)), lambda f: None if f['a'] == 1 else (0.9, 0.5)
  )
  lines = members_text(report).splitlines()
  assert [line.split()[0] for line in lines[2:]] == ['0', '2', '1']
  assert 'diverged' in lines[-1]
