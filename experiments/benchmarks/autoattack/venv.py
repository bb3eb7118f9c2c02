"""What the venv of torchattacks holds, and its side in it.

From PyPI, PyTorch for Linux comes with CUDA, some gigabytes. Where these are
too many, make a venv with the CPU build and name it with --venv.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from advjax.data.array_cache import default_root
from experiments.benchmarks import peer_venv
from experiments.benchmarks.peer_venv import Peer

PEER = Peer(
  name='torchattacks',
  module='torch, torchattacks',
  packages=('torch==2.13.0', 'numpy>=2.0', 'tqdm>=4.66', 'requests>=2.32'),
  # It asks for a version of requests from 2021.
  bare_packages=('torchattacks==3.5.1',),
  pythons=('3.14', '3.13', '3.12', '3.11', '3.10'),
  main=pathlib.Path(__file__).parent / 'peer' / 'main.py',
)


class Torch(NamedTuple):
  """The other side, ready to take jobs.

  Attributes:
    interpreter: The Python of its venv.
    threads: How many it may use.
  """

  interpreter: pathlib.Path
  threads: int

  def run(
    self, arrays: Mapping[str, np.ndarray], **job: Any
  ) -> dict[str, np.ndarray]:
    """Runs a job of `peer/main.py`; `task` says what to do."""
    job['threads'] = self.threads
    return peer_venv.run_job(PEER, self.interpreter, job, arrays)


def prepare(venv: str | None, python: str | None, threads: int) -> Torch:
  """Makes the venv where it is not there.

  Args:
    venv: Its folder; None: torch_venv in the user's cache folder.
    python: An interpreter to make it with; None: one that is found.
    threads: How many PyTorch may use.

  Returns:
    The other side.

  Raises:
    ValueError: see `peer_venv.prepare`.
  """
  folder = pathlib.Path(venv) if venv else default_root().parent / 'torch_venv'
  return Torch(peer_venv.prepare(PEER, folder.absolute(), python), threads)
