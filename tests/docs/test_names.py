"""What README.md and docs/ point at is there: links, paths, Python names."""

import importlib
import re

import pytest

from tests.docs import pages

pytestmark = pytest.mark.parametrize(
  'page', pages.PAGES, ids=lambda page: page.name
)
_FOLDERS = ('advjax', 'configs', 'docs', 'experiments', 'tests')


def anchors(text: str) -> set[str]:
  """Returns the anchors that GitHub gives to the headings of a page."""
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in re.findall(r'^#+ (.+)$', text, re.M)
  }


def test_relative_links_resolve(page):
  links = re.findall(r'\]\(([^)\s]+)\)', pages.prose(page))
  for link in links:
    if link.startswith('https://'):
      continue
    path, _, anchor = link.partition('#')
    target = page.parent / path if path else page
    assert target.exists(), link
    assert not anchor or anchor in anchors(pages.prose(target)), link


def test_paths_in_code_are_there(page):
  for code in pages.inline_code(page):
    path = code.partition(':')[0]
    if path.split('/')[0] in _FOLDERS and re.fullmatch(r'[\w./-]+', path):
      assert (pages.ROOT / path).exists() or '/' not in path, code


def test_python_names_in_code_are_there(page):
  for code in pages.inline_code(page):
    if not re.fullmatch(r'advjax(\.\w+)+(\(.*\))?', code):
      continue
    names = code.partition('(')[0].split('.')
    place = importlib.import_module('advjax')
    for index, name in enumerate(names[1:], 2):
      if not hasattr(place, name):
        importlib.import_module('.'.join(names[:index]))
      place = getattr(place, name)
