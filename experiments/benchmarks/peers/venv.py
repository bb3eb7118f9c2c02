"""A venv of its own for a library to compare with."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

from advjax.files import user_cache_folder

logger = logging.getLogger('advjax')

_VERSION = 'import sys; print("%d.%d" % sys.version_info[:2])'


class Peer(NamedTuple):
  """A library to compare with.

  Attributes:
    name: For messages.
    folder: Of its venv in the user's cache folder, if no other is named.
    module: What its side of the comparison imports.
    packages: What pip installs.
    bare_packages: What pip installs besides, without what it asks for.
    pythons: Versions of Python that all of it has wheels for, best first.
    main: Its side, a program that calls `sides/serve.py`.
  """

  name: str
  folder: str
  module: str
  packages: tuple[str, ...]
  pythons: tuple[str, ...]
  main: pathlib.Path
  bare_packages: tuple[str, ...] = ()


def environment() -> dict[str, str]:
  """The caller's, without what would lead Python out of a venv."""
  leaking = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'PIP_TARGET')
  return {k: v for k, v in os.environ.items() if k not in leaking}


def find_python(peer: Peer, python: str | None) -> str:
  """Returns an interpreter that a peer's packages install for.

  Args:
    peer: The peer.
    python: One that is asked for; None: this one, or the first of the peer's
      that there is.

  Returns:
    Its path.

  Raises:
    ValueError: if there is none.
  """
  candidates = [python] if python else [sys.executable]
  if not python:
    candidates += [f'python{version}' for version in peer.pythons]
  found = []
  for name in candidates:
    path = shutil.which(name)
    if path is None:
      found.append(f"'{name}' is not there")
      continue
    result = subprocess.run(
      [path, '-I', '-c', _VERSION], capture_output=True, text=True
    )
    if result.stdout.strip() in peer.pythons:
      return path
    found.append(f"'{name}' is {result.stdout.strip() or 'no Python'}")
  *others, last = peer.pythons
  allowed = f'{", ".join(others)} or {last}' if others else last
  raise ValueError(
    f'{peer.packages[0]} needs Python {allowed}; {", ".join(found)}; give one '
    'with --python'
  )


def prepare(peer: Peer, folder: str | None, python: str | None) -> pathlib.Path:
  """Returns the Python of a peer's venv, which is made if it is not there.

  Args:
    peer: The peer.
    folder: Where its venv is or goes; None: `peer.folder` in the user's cache
      folder.
    python: See `find_python`.

  Returns:
    The path of the venv's interpreter.

  Raises:
    ValueError: if the folder holds something else, if there is no Python
      that will do, or if the packages cannot be installed. A venv that was
      not there before is removed then.
  """
  default = user_cache_folder() / peer.folder
  venv = pathlib.Path(folder).absolute() if folder else default
  interpreter = venv / 'bin' / 'python'
  if venv.exists() and not (venv / 'pyvenv.cfg').is_file():
    raise ValueError(f"--venv: '{venv}' is there and is no venv")
  if interpreter.is_file() and _has_packages(interpreter, peer):
    return interpreter
  was_there = venv.exists()
  base = str(interpreter) if was_there else find_python(peer, python)
  logger.info("installing %s in '%s', some minutes", peer.name, venv)
  install = [str(interpreter), '-m', 'pip', 'install', '--quiet']
  failed = 'installing its packages failed (it needs the network to PyPI)'
  try:
    if not was_there:
      _run([base, '-m', 'venv', str(venv)], 'making the venv failed')
    _run([*install, *peer.packages], failed)
    if peer.bare_packages:
      _run([*install, '--no-deps', *peer.bare_packages], failed)
  except BaseException:
    if not was_there:
      shutil.rmtree(venv, ignore_errors=True)
    raise
  return interpreter


def _has_packages(interpreter: pathlib.Path, peer: Peer) -> bool:
  result = subprocess.run(
    [str(interpreter), '-c', f'import {peer.module}'],
    capture_output=True,
    env=environment(),
  )
  return result.returncode == 0


def _run(command: list[str], what: str) -> None:
  result = subprocess.run(
    command, capture_output=True, text=True, env=environment()
  )
  if result.returncode:
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('ERROR')] or lines[-3:]
    raise ValueError(f'--venv: {what}: {" / ".join(errors)}')
