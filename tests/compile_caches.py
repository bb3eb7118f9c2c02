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

# As on a machine where nothing is configured.
for name in list(os.environ):
  if name.startswith('JAX_') and 'CACHE' in name:
    del os.environ[name]
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax

SETTINGS = dict(jax.config.values)

import advjax
import advjax.compile_cache
from advjax.compile_cache import count_compilations

UNCHANGED = dict(jax.config.values) == SETTINGS


def compile_two():
  """Compiles two programs, or reads them; returns how many were compiled."""
  advjax.compile_cache.turn_on()
  with count_compilations() as compilations:
    for factor in (2.0, 3.0):
      doubled = jax.pmap(lambda x, factor=factor: factor * x)(jax.numpy.ones(1))
      assert float(doubled[0]) == factor
  return compilations.count


def entries():
  """Returns the names and sizes of the programs that are kept."""
  found = advjax.compile_cache.default_folder().glob('*-cache')
  return {path.name: path.stat().st_size for path in found}


def prepare(case):
  """Sets a case up in its process."""
  if case == 'damaged':  # As a killed process leaves programs.
    folder = advjax.compile_cache.default_folder()
    for name, size in entries().items():
      os.truncate(folder / name, size // 2)
  elif case == 'own':
    jax.config.update('jax_compilation_cache_dir', os.environ['OWN_FOLDER'])
  elif case == 'full':  # A write fails after so many bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def run(case, cache):
  """Compiles in a child, whose cache folder is `cache`."""
  os.environ['XDG_CACHE_HOME'] = str(cache)
  with tempfile.TemporaryFile('w+') as stderr:
    reader, writer = os.pipe()
    if not os.fork():
      os.dup2(stderr.fileno(), 2)
      logging.basicConfig(format='%(message)s')
      prepare(case)
      result = {'compiled': compile_two()}
      result['folder'] = jax.config.jax_compilation_cache_dir
      os.write(writer, json.dumps(result).encode())
      os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
      result = json.loads(file.read() or '{}')
    os.wait()
    stderr.seek(0)
    return {**result, 'stderr': stderr.read(), 'entries': entries()}


def main():
  root = pathlib.Path(sys.argv[1])
  (root / 'a_file').touch()
  os.environ['OWN_FOLDER'] = str(root / 'own')
  folders = {
    **dict.fromkeys(['first', 'second', 'damaged', 'healed'], 'cache'),
    'own': 'unused',
    'unwritable': 'a_file',
    'full': 'full',
  }
  results = {case: run(case, root / name) for case, name in folders.items()}
  results['unchanged'] = UNCHANGED
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
