"""The command and the environment of a program, as reports hold them."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax

from advjax.processes.topology import find_place

_PACKAGES = ('advjax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy')


def environment(devices: Sequence[jax.Device]) -> dict[str, Any]:
  """Returns where results were computed: versions, devices and the date."""
  versions = {}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      from advjax import __version__  # From a checkout, not installed.

      versions[package] = __version__
  return {
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'python': platform.python_version(),
    'devices': devices[0].device_kind,
    'num_devices': len(devices),
    'num_processes': jax.process_count(),
    **versions,
  }


def command_line() -> str:
  """Returns the command that started this program, as one can type it."""
  main = sys.modules['__main__']
  spec = getattr(main, '__spec__', None)
  name = '' if spec is None else spec.name.removesuffix('.__main__')
  if name.startswith('experiments.benchmarks.'):
    program = ['python', '-m', name]
  elif name.startswith('experiments.'):
    program = ['./launch.sh', name.removeprefix('experiments.')]
  elif 'advjax' in (name, pathlib.Path(sys.argv[0]).name):
    program = ['advjax']
  else:
    program = [sys.argv[0]]
  if program[0] in ('./launch.sh', 'advjax'):
    place = find_place()
    if place.launcher == '--processes':
      program.insert(1, f'--processes={place.num_processes}')
  return shlex.join([*program, *sys.argv[1:]])
