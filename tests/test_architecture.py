"""The packages and the arrows between them, read from the source.

docs/architecture.md draws them.
"""

import ast
import collections
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'advjax'
# Each imports from those before it alone.
ORDER = (
  *('_extras', 'types', 'norms', 'losses', 'callables', '_arguments'),
  *('attacks', 'explain'),
  *('fractions', 'files', 'processes', 'results', 'config'),
  *('devices', 'environment', 'compile_cache', 'variants'),
  *('data', 'augmentation', 'models', 'training', 'fields', 'sweeps'),
  *('evaluation', 'reporting', 'tutorials', 'jobs', 'cli', 'commands'),
  '__main__',
)
# Besides: what these do not import, though it comes before them.
APART = {
  'explain': {'attacks'},
  'evaluation': {'training', 'models', 'sweeps'},
  'reporting': {'training', 'models', 'config', 'devices'},
}
# The only way upwards, which is taken when a name is asked for: `train` and
# `compare` of `advjax.training` are jobs.
LAZY = ('training/__init__.py', 'jobs')


def imported(tree):
  """Yields the modules of the package that a module imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module == 'advjax':
      yield from (f'advjax.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module


@pytest.fixture(scope='module')
def trees():
  """Path in the package -> syntax tree."""
  return {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in PACKAGE.rglob('*.py')
  }


def test_every_package_has_its_place(trees):
  packages = {path.split('/')[0].removesuffix('.py') for path in trees}
  assert packages - {'__init__'} == set(ORDER)


def test_imports_point_one_way(trees):
  found = collections.defaultdict(set)
  for path, tree in trees.items():
    own = path.split('/')[0].removesuffix('.py')
    for name in imported(tree):
      package, *parts = name.split('.')
      if package != 'advjax' or not parts or (path, parts[0]) == LAZY:
        continue
      if parts[0] not in (own, '__version__'):
        found[own].add(parts[0])
  del found['__init__']  # The public face: attacks and their evaluation.
  assert {'norms', 'losses'} <= found['attacks']
  wrong = [
    (own, other)
    for own, others in found.items()
    for other in others
    if ORDER.index(other) > ORDER.index(own) or other in APART.get(own, ())
  ]
  assert not wrong


def test_attacks_need_jax_and_numpy_alone(trees):
  for path, tree in trees.items():
    if path.split('/')[0].removesuffix('.py') in ORDER[:8]:
      tops = {name.split('.')[0] for name in imported(tree)}
      assert tops <= {'advjax', 'jax', 'numpy', *sys.stdlib_module_names}, path


@pytest.mark.parametrize('function', ['pmap', 'shard_map'])
def test_one_file_maps_over_devices(trees, function):
  users = {
    path
    for path, tree in trees.items()
    for node in ast.walk(tree)
    if (isinstance(node, ast.Attribute) and node.attr == function)
    or (
      isinstance(node, ast.ImportFrom)
      and any(alias.name == function for alias in node.names)
    )
  }
  assert users == {'devices.py'}


def test_no_private_interface_of_jax(trees):
  for path, tree in trees.items():
    assert not any('jax._src' in name for name in imported(tree)), path
