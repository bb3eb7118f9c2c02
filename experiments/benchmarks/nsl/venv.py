"""A venv of its own for Neural Structured Learning, and jobs run in it."""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

logger = logging.getLogger('advjax')

PACKAGES = (
  'tensorflow-cpu==2.15.1',
  'numpy<2',
  'neural-structured-learning==1.4.0',
)
# TensorFlow 2.15 has wheels up to 3.11, and our side of it is written for 3.10.
_PYTHONS = ('3.11', '3.10')
_PEER = pathlib.Path(__file__).parent / 'peer' / 'main.py'
_VERSION = 'import sys; print("%d.%d" % sys.version_info[:2])'


def _environment() -> dict[str, str]:
  """The caller's, without what would lead Python out of the venv."""
  leaking = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'PIP_TARGET')
  return {k: v for k, v in os.environ.items() if k not in leaking}


def find_python(python: str | None) -> str:
  """Returns an interpreter that TensorFlow 2.15 installs for.

  Args:
    python: One that is asked for; None: this one, or the first of python3.11
      and python3.10 that there is.

  Returns:
    Its path.

  Raises:
    ValueError: if there is none.
  """
  candidates = [python] if python else [sys.executable]
  if not python:
    candidates += [f'python{version}' for version in _PYTHONS]
  found = []
  for name in candidates:
    path = shutil.which(name)
    if path is None:
      found.append(f"'{name}' is not there")
      continue
    result = subprocess.run(
      [path, '-I', '-c', _VERSION], capture_output=True, text=True
    )
    if result.stdout.strip() in _PYTHONS:
      return path
    found.append(f"'{name}' is {result.stdout.strip() or 'no Python'}")
  raise ValueError(
    'tensorflow-cpu 2.15.1 needs Python 3.10 or 3.11; '
    f'{", ".join(found)}; give one with --python'
  )


def prepare(venv: pathlib.Path, python: str | None) -> pathlib.Path:
  """Returns the Python of a venv with NSL, which is made if it is not there.

  Args:
    venv: Its folder.
    python: See `find_python`.

  Returns:
    The path of the venv's interpreter.

  Raises:
    ValueError: if the folder holds something else, if there is no Python
      that will do, or if the packages cannot be installed. A venv that was
      not there before is removed then.
  """
  interpreter = venv / 'bin' / 'python'
  if venv.exists() and not (venv / 'pyvenv.cfg').is_file():
    raise ValueError(f"--venv: '{venv}' is there and is no venv")
  if interpreter.is_file() and _has_packages(interpreter):
    return interpreter
  was_there = venv.exists()
  base = str(interpreter) if was_there else find_python(python)
  logger.info("installing %s in '%s', some minutes", PACKAGES[2], venv)
  try:
    if not was_there:
      _check(
        subprocess.run(
          [base, '-m', 'venv', str(venv)],
          capture_output=True,
          text=True,
          env=_environment(),
        ),
        'making the venv failed',
      )
    _check(
      subprocess.run(
        [str(interpreter), '-m', 'pip', 'install', '--quiet', *PACKAGES],
        capture_output=True,
        text=True,
        env=_environment(),
      ),
      'installing its packages failed (it needs the network to PyPI)',
    )
  except BaseException:
    if not was_there:
      shutil.rmtree(venv, ignore_errors=True)
    raise
  return interpreter


def _has_packages(interpreter: pathlib.Path) -> bool:
  result = subprocess.run(
    [str(interpreter), '-c', 'import neural_structured_learning'],
    capture_output=True,
    env=_environment(),
  )
  return result.returncode == 0


def _check(result: subprocess.CompletedProcess[str], what: str) -> None:
  if result.returncode:
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('ERROR')] or lines[-3:]
    raise ValueError(f'--venv: {what}: {" / ".join(errors)}')


def run_job(
  interpreter: pathlib.Path,
  job: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Runs a job of `peer/main.py` and returns the arrays it leaves.

  Args:
    interpreter: From `prepare`.
    job: JSON; `task` says what to do.
    arrays: What the task starts from.

  Returns:
    Its results by name.

  Raises:
    RuntimeError: if it fails, with the end of what it says.
  """
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / 'job.json').write_text(json.dumps(job))
    np.savez(folder / 'arrays.npz', **dict[str, Any](arrays))
    result = subprocess.run(
      [str(interpreter), str(_PEER), name],
      capture_output=True,
      text=True,
      env=_environment(),
    )
    if result.returncode:
      tail = '\n'.join(result.stderr.splitlines()[-20:])
      raise RuntimeError(f"NSL's side failed at {job['task']!r}:\n{tail}")
    with np.load(folder / 'out.npz') as file:
      return dict(file)
