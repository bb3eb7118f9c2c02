"""The page: self-contained, well formed, escaped, whole or not at all."""

import errno
import os

import pytest
from matplotlib.figure import Figure

from advjax.reporting.gallery import Picture, draw
from advjax.reporting.html import write_report
from tests.reporting.pages import Page


@pytest.fixture
def pictures() -> list[Picture]:
  figure = Figure(figsize=(2, 1))
  return [
    draw('one', 'First <title>', 'A caption & more.', figure),
    draw('two', 'Second', 'Another caption.', figure, half=True),
  ]


def write(tmp_path, *args, **kwargs):
  path = tmp_path / 'report.html'
  write_report(path, *args, **kwargs)
  return path.read_text(encoding='utf-8')


def test_page_holds_every_part(tmp_path, report, pictures):
  report |= {
    'command': './launch.sh compare --config=configs/nsl_digits.py',
    'config': {'model': {'name': 'cnn', 'conv_filters': (32, 64)}, 'seed': 0},
    'environment': {'jax': '0.10.2', 'date': '2025-01-02'},
    'warnings': ['the loss rose'],
  }
  report['members']['base']['warnings'] = ['stopped early']
  text = write(tmp_path, report, pictures, title='Base & adversarial')
  page = Page(text)
  assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
  for words in (
    'Base & adversarial',
    'digits · 1,437 training images · 360 test images · seed 0 · 2025-01-02',
    'the loss rose',
    'base: stopped early',
    'Transfer is what the NSL tutorial reports',
    'transfer from adversarial',
    'First <title>',
    'A caption & more.',
    './launch.sh compare',
    'model.conv_filters',
    '32, 64',
    '0.10.2',
  ):
    assert words in page.text, words


def test_page_loads_nothing_and_describes_its_images(
  tmp_path, report, pictures
):
  text = write(tmp_path, report, pictures)
  page = Page(text)
  images = page.all('img')
  assert len(images) == 2
  for image in images:
    assert image['src'].startswith('data:image/png;base64,')
    assert image['alt']
    assert (image['width'], image['height']) == ('300', '150')
  assert not page.all('script') and not page.all('link')
  assert 'http' not in text and '@import' not in text and 'url(' not in text
  ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
  assert len(ids) == len(set(ids))


def test_every_text_is_escaped(tmp_path, report):
  evil = '<script>alert("&\')</script>'
  member = report['members'].pop('base')
  member['warnings'] = [evil]
  report['members'] = {evil: member} | report['members']
  report['dataset']['name'] = evil
  report |= {
    'command': evil,
    'config': {evil: evil},
    'environment': {evil: evil},
    'warnings': [evil],
  }
  figure = Figure(figsize=(1, 1))
  drawn = [draw(evil, evil, evil, figure)]
  text = write(tmp_path, report, drawn, title=evil)
  assert '<script' not in text
  page = Page(text)
  assert page.all('img')[0]['alt'] == evil
  assert page.text.count(evil) >= 9


def test_parts_that_have_nothing_are_left_out(tmp_path):
  page = Page(write(tmp_path, {'members': {'model': {'clean_accuracy': 0.9}}}))
  ids = [attrs['id'] for name, attrs in page.tags if name == 'section']
  assert ids == ['meaning', 'results']
  page = Page(write(tmp_path, {}))
  assert not page.all('section')


def test_page_appears_whole_or_not_at_all(tmp_path, report, monkeypatch):
  text = write(tmp_path, report)
  assert os.listdir(tmp_path) == ['report.html']

  def fail(*args):
    raise OSError(errno.ENOSPC, 'no space left')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='no space'):
    write(tmp_path, {}, title='other')
  assert (tmp_path / 'report.html').read_text() == text
  assert os.listdir(tmp_path) == ['report.html']
