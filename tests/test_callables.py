"""What 'module:function' finds, and what it says where it finds nothing."""

import re
import sys
import types

import pytest

from advjax.callables import cache_while_alive, import_function


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder of the user's own on the path; its modules leave with it."""
  monkeypatch.syspath_prepend(tmp_path)
  before = set(sys.modules)
  yield tmp_path
  for name in set(sys.modules) - before:
    del sys.modules[name]


def test_a_function_of_a_module_or_of_a_class_in_a_package(folder):
  package = folder / 'own_package'
  package.mkdir()
  (package / 'losses.py').write_text(
    'def loss(x):\n  return 2 * x\n\nclass Kept:\n  loss = loss\n'
  )
  assert import_function('loss', 'own_package.losses:loss')(3) == 6
  assert import_function('loss', 'own_package.losses:Kept.loss')(3) == 6


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', "'module:function' such as"),
    ('own_module', "'module:function' such as"),
    ('own_module:', "'module:function' such as"),
    ('own_module.py:loss', 'own_module.py from .*FOLDER.*is not a package'),
    ('./own_module.py:loss', "'module:function' such as"),
    ('.own_module:loss', "'module:function' such as"),
    ('not_there:loss', "not_there from .*FOLDER.*No module named 'not_there'"),
    ('own_module:los', "that exists; .*'own_module' has no attribute 'los'"),
    ('own_needy:loss', "own_needy from .*No module named 'not_installed'"),
  ],
)
def test_what_is_not_found_is_named_with_what_was_tried(folder, text, message):
  (folder / 'own_module.py').write_text('loss = len\n')
  (folder / 'own_needy.py').write_text('import not_installed\n')
  expected = re.escape(f'model.loss = {text!r}; allowed: ')
  expected += '.*' + message.replace('FOLDER', re.escape(str(folder)))
  with pytest.raises(ValueError, match=expected):
    import_function('model.loss', text)


def test_a_module_that_shadows_the_users_is_named_with_its_file(folder):
  (folder / 'types.py').write_text('alp = len\n')
  with pytest.raises(ValueError, match=re.escape(types.__file__)):
    import_function('loss', 'types:alp')


def test_an_error_of_the_module_itself_is_raised_as_it_is(folder):
  # Importing it must not look like a name that was not found.
  (folder / 'own_broken.py').write_text('def loss(:\n')
  with pytest.raises(SyntaxError, match='own_broken'):
    import_function('loss', 'own_broken:loss')
  (folder / 'own_late.py').write_text('import math\nmath.no\n')
  with pytest.raises(AttributeError, match='math'):
    import_function('loss', 'own_late:loss')


def test_a_cache_drops_what_was_not_used_for_longest():
  made = []
  find = cache_while_alive(made.append)
  for number in range(1000):
    find(number)
    find('often')
  find(0)
  assert made.count('often') == 1
  assert made.count(0) == 2
