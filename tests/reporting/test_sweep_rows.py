"""results.csv and results.jsonl say what the rows of the report say."""

import csv
import errno
import json
import math
import os

import pytest

from advjax.reporting.sweep.rows import write_rows
from tests.reporting.sweep_reports import grid_report, make_report, product

TEXTS = ('member', 'status', 'folder', 'command', 'objective.name', 'reason')


def read_csv(path):
  with open(path, newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def parsed(name, cell):
  """What a cell was before it became text; empty is None."""
  if cell == '':
    return None
  return cell if name in TEXTS else json.loads(cell)


def read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_files_hold_every_row_and_column(tmp_path):
  report = grid_report()
  report['rows'][3]['warnings'] = ['a "quoted", long\nline', 'naïve']
  write_rows(tmp_path, report)
  rows = read_csv(tmp_path / 'results.csv')
  assert [
    {name: parsed(name, cell) for name, cell in row.items()} for row in rows
  ] == report['rows']
  assert read_lines(tmp_path / 'results.jsonl') == report['rows']
  assert list(rows[0]) == list(report['rows'][0])


def test_what_is_missing_is_empty_and_null(tmp_path):
  settings = product(hparams__epsilon=(0.1, 9.0), model__pool=((2, 2), None))
  report = make_report(
    settings, lambda f: (0.9, 0.5) if f['hparams.epsilon'] < 1 else None
  )
  report['rows'][0] |= {'loss': math.nan, 'train_seconds': math.inf, 'ok': True}
  write_rows(tmp_path, report)
  lines = read_lines(tmp_path / 'results.jsonl')
  rows = read_csv(tmp_path / 'results.csv')
  assert len({tuple(line) for line in lines}) == 1
  assert list(lines[0])[-2:] == ['ok', 'reason']
  assert lines[0]['loss'] is lines[0]['train_seconds'] is None
  assert rows[0]['loss'] == rows[0]['train_seconds'] == ''
  assert (rows[0]['ok'], rows[1]['ok']) == ('true', '')
  assert rows[0]['model.pool'] == '[2, 2]' and rows[1]['model.pool'] == ''
  assert lines[2]['clean_accuracy'] is None
  assert lines[2]['reason'] == rows[2]['reason'] == 'the loss is not finite'


def test_a_sweep_without_rows_leaves_empty_files(tmp_path):
  write_rows(tmp_path, grid_report(rows=[]))
  assert (tmp_path / 'results.jsonl').read_text() == ''
  assert read_csv(tmp_path / 'results.csv') == []


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
  write_rows(tmp_path, grid_report(1))
  before = (tmp_path / 'results.csv').read_text()

  def fail(*args):
    raise OSError(errno.ENOSPC, 'no space left')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='no space'):
    write_rows(tmp_path, grid_report(2))
  assert sorted(os.listdir(tmp_path)) == ['results.csv', 'results.jsonl']
  assert (tmp_path / 'results.csv').read_text() == before
