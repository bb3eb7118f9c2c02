"""Compiles with the cache in all kinds of folders; a program, for it forks.

Writes {case: {stderr, compiled, folder, entries}} for the cases in `main`, of
which each runs in a process of its own, and those of a folder in turn; and
whether importing advjax changed a setting of JAX. One import serves all.
"""

# ruff: noqa: E402

import json
import logging
import os
import pathlib
import resource
import sys
import tempfile

import jax

SETTINGS = dict(jax.config.values)

import advjax
import advjax.compile_cache
from advjax.training.compilations import count_compilations

UNCHANGED = dict(jax.config.values) == SETTINGS


def compile_two() -> int:
  """Compiles two programs, or reads them; returns how many were compiled."""
  advjax.compile_cache.turn_on()
  with count_compilations() as compilations:
    for factor in (2.0, 3.0):
      doubled = jax.pmap(lambda x, factor=factor: factor * x)(jax.numpy.ones(1))
      assert float(doubled[0]) == factor
  return compilations.count


def entries() -> dict[str, int]:
  """Returns the names and sizes of the programs that are kept."""
  found = advjax.compile_cache.default_folder().glob('*-cache')
  return {path.name: path.stat().st_size for path in found}


def as_it_is() -> None:
  """No setting."""


def cut_all() -> None:
  """Leaves half of every program, as a killed process does."""
  for path in advjax.compile_cache.default_folder().glob('*-cache'):
    os.truncate(path, path.stat().st_size // 2)


def set_folder() -> None:
  jax.config.update('jax_compilation_cache_dir', os.environ['OWN_FOLDER'])


def limit_files() -> None:
  """Lets a write fail after 1000 bytes, as a full disk does."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def run(cache: pathlib.Path, prepare) -> dict:
  """Compiles in a child, whose cache folder is `cache`."""
  os.environ['XDG_CACHE_HOME'] = str(cache)
  with tempfile.TemporaryFile('w+') as stderr:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
      os.dup2(stderr.fileno(), 2)
      logging.basicConfig(format='%(message)s')
      prepare()
      result = {
        'compiled': compile_two(),
        'folder': jax.config.jax_compilation_cache_dir,
      }
      os.write(writer, json.dumps(result).encode())
      os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
      result = json.loads(file.read() or '{}')
    os.waitpid(child, 0)
    stderr.seek(0)
    return {**result, 'stderr': stderr.read(), 'entries': entries()}


def main() -> None:
  root = pathlib.Path(sys.argv[1])
  (root / 'a_file').touch()
  os.environ['OWN_FOLDER'] = str(root / 'own')
  # The test suite has the cache off.
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update('jax_platforms', 'cpu')
  cases = {
    'first': ('cache', as_it_is),
    'second': ('cache', as_it_is),
    'damaged': ('cache', cut_all),
    'healed': ('cache', as_it_is),
    'own': ('unused', set_folder),
    'unwritable': ('a_file', as_it_is),
    'full': ('full', limit_files),
  }
  results = {
    name: run(root / folder, prepare)
    for name, (folder, prepare) in cases.items()
  }
  results['unchanged'] = UNCHANGED
  (root / 'results.json').write_text(json.dumps(results))


if __name__ == '__main__':
  main()
