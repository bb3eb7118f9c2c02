"""Libraries to compare with: each has a venv, and a process that takes jobs."""

import contextlib
import json
import logging
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.files import expand, user_cache_folder

logger = logging.getLogger('advjax')

_VERSION = 'import sys; print("%d.%d" % sys.version_info[:2])'
_SIDES = pathlib.Path(__file__).parent / 'sides'

# (job, arrays) -> arrays. `job['task']` says what to do.
RunJob = Callable[
  [Mapping[str, Any], Mapping[str, np.ndarray]], dict[str, np.ndarray]
]


class PeerError(RuntimeError):
  """A peer's job failed, or exceeded its time limit."""


class Peer(NamedTuple):
  """A library to compare with."""

  name: str
  folder: str  # Of its venv in the user's cache folder, if no other is named.
  module: str  # What its side of the comparison imports.
  packages: tuple[str, ...]  # What pip installs.
  pythons: tuple[str, ...]  # Versions that have wheels for it, best first.
  main: pathlib.Path  # Its side, a program that calls `sides/serve.py`.
  bare_packages: tuple[str, ...] = ()  # Installed without what they ask for.


_PYTHONS = ('3.14', '3.13', '3.12', '3.11')
PEERS = {
  # From PyPI, PyTorch for Linux comes with CUDA, some gigabytes. Where these
  # are too many, make a venv with the CPU build and name it by --torch_venv.
  'torch': Peer(
    name='PyTorch',
    folder='torch_venv',
    module='torch, torchattacks, foolbox',
    packages=(
      *('torch==2.13.0', 'numpy>=2.0'),
      *('tqdm>=4.66', 'requests>=2.32', 'foolbox==3.3.4'),
    ),
    pythons=(*_PYTHONS, '3.10'),
    main=_SIDES / 'pytorch.py',
    # It asks for a version of requests from 2021.
    bare_packages=('torchattacks==3.5.1',),
  ),
  'nsl': Peer(
    name='neural-structured-learning',
    folder='nsl_venv',
    module='neural_structured_learning',
    packages=(
      *('tensorflow-cpu==2.15.1', 'numpy<2'),
      'neural-structured-learning==1.4.0',
    ),
    # TensorFlow 2.15 has wheels up to 3.11, and its side is written for 3.10.
    pythons=('3.11', '3.10'),
    main=_SIDES / 'nsl.py',
  ),
  'foolbox_jax': Peer(
    name='foolbox on JAX',
    folder='foolbox_jax_venv',
    module='foolbox, jax',
    # The jax that we run on.
    packages=(f'jax[cpu]=={jax.__version__}', 'foolbox==3.3.4'),
    pythons=_PYTHONS,
    main=_SIDES / 'foolbox_jax.py',
  ),
}


def outside_environment() -> dict[str, str]:
  """The environment, without what would lead Python out of a venv."""
  leaking = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'PIP_TARGET')
  return {k: v for k, v in os.environ.items() if k not in leaking}


def find_python(peer: Peer, python: str | None) -> str:
  """Returns an interpreter of a version that a peer's packages install for.

  Without the one that is asked for: this one, or the first that there is.
  """
  own = [sys.executable, *(f'python{version}' for version in peer.pythons)]
  found = []
  for name in [python] if python else own:
    path = shutil.which(name)
    if path is None:
      found.append(f'{name!r} is not there')
      continue
    command = [path, '-I', '-c', _VERSION]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.stdout.strip() in peer.pythons:
      return path
    found.append(f'{name!r} is {result.stdout.strip() or "no Python"}')
  raise ValueError(
    f'--python = {python!r}; allowed: Python {" or ".join(peer.pythons)}, for '
    f'{peer.packages[0]}; {", ".join(found)}'
  )


def prepare(peer: Peer, folder: str | None, python: str | None) -> pathlib.Path:
  """Returns the Python of a peer's venv, which is made if it is not there.

  The folder is by default `peer.folder` in the user's cache folder; `python` is
  that of `find_python`. Where the folder holds something else, or packages
  cannot be installed, ValueError; a venv that was not there before is removed.
  """
  default = user_cache_folder() / peer.folder
  venv = expand(folder).absolute() if folder else default
  interpreter = venv / 'bin' / 'python'
  was_there = venv.exists()
  if was_there and not (venv / 'pyvenv.cfg').is_file():
    raise ValueError(f"folder = '{venv}'; allowed: a venv, or a new folder")

  def run(what: str, *command: Any) -> None:
    environment = outside_environment()
    result = subprocess.run(
      command, capture_output=True, text=True, env=environment
    )
    if result.returncode:
      lines = [line for line in result.stderr.splitlines() if line.strip()]
      errors = [x for x in lines if x.startswith('ERROR')] or lines[-3:]
      raise ValueError(f'{what}: {" / ".join(errors)}')

  if interpreter.is_file():
    with contextlib.suppress(ValueError):
      run('', interpreter, '-c', f'import {peer.module}')
      return interpreter
  base = str(interpreter) if was_there else find_python(peer, python)
  logger.info("installing %s in '%s', some minutes", peer.name, venv)
  install = (interpreter, '-m', 'pip', 'install', '--quiet')
  failed = 'installing packages failed (it needs the network to PyPI)'
  try:
    if not was_there:
      run('making the venv failed', base, '-m', 'venv', venv)
    run(failed, *install, *peer.packages)
    if peer.bare_packages:
      run(failed, *install, '--no-deps', *peer.bare_packages)
  except BaseException:
    if not was_there:
      shutil.rmtree(venv, ignore_errors=True)
    raise
  return interpreter


@contextlib.contextmanager
def started(
  peer: Peer, interpreter: pathlib.Path, timeout: float = 3600.0
) -> Iterator[RunJob]:
  """Starts a peer's side, which keeps what it has prepared from job to job.

  Yields `(job, arrays) -> arrays`, which does a job there. It raises PeerError
  where the job fails, with the end of what the side says, or takes more than
  `timeout` seconds; no later job can be done then.
  """
  with (
    tempfile.TemporaryDirectory() as name,
    open(pathlib.Path(name) / 'stderr', 'w+', encoding='utf-8') as stderr,
    subprocess.Popen(
      [str(interpreter), str(peer.main)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=stderr,
      bufsize=0,
      env=outside_environment() | {'PYTHONPATH': str(_SIDES)},
    ) as process,
  ):
    folder = pathlib.Path(name)

    def run_job(
      job: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
      (folder / 'job.json').write_text(json.dumps(job))
      np.savez(folder / 'arrays.npz', **dict[str, Any](arrays))
      assert process.stdin and process.stdout
      with contextlib.suppress(BrokenPipeError):  # It ended: see below.
        process.stdin.write(f'{folder}\n'.encode())
      if not select.select([process.stdout], [], [], timeout)[0]:
        process.kill()
        raise PeerError(
          f'{peer.name} took more than {timeout:g} s for {job["task"]!r}'
        )
      if process.stdout.readline() != b'done\n':
        process.wait()
        stderr.seek(0)
        tail = '\n'.join(stderr.read().splitlines()[-20:])
        raise PeerError(f'{peer.name} failed at {job["task"]!r}:\n{tail}')
      with np.load(folder / 'out.npz') as file:
        return dict(file)

    try:
      yield run_job
    finally:
      process.kill()
