"""A library's side of a comparison, as a process that takes jobs."""

import contextlib
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments.benchmarks.peers.venv import Peer, environment

# (job, arrays) -> arrays. `job['task']` says what to do.
RunJob = Callable[
  [Mapping[str, Any], Mapping[str, np.ndarray]], dict[str, np.ndarray]
]

_SIDES = pathlib.Path(__file__).parent / 'sides'


@contextlib.contextmanager
def started(peer: Peer, interpreter: pathlib.Path) -> Iterator[RunJob]:
  """Starts a peer's side, which keeps what it has prepared from job to job.

  Args:
    peer: The peer.
    interpreter: From `venv.prepare`.

  Yields:
    `(job, arrays) -> arrays`: does a job there and returns what it leaves. It
    raises RuntimeError where the job fails, with the end of what the side
    says; nothing more can be asked of it then.
  """
  with (
    tempfile.TemporaryDirectory() as name,
    open(pathlib.Path(name) / 'stderr', 'w+', encoding='utf-8') as said,
    subprocess.Popen(
      [str(interpreter), str(peer.main)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=said,
      bufsize=0,
      env=environment() | {'PYTHONPATH': str(_SIDES)},
    ) as process,
  ):
    folder = pathlib.Path(name)

    def run_job(
      job: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
      (folder / 'job.json').write_text(json.dumps(job))
      np.savez(folder / 'arrays.npz', **dict[str, Any](arrays))
      assert process.stdin and process.stdout
      with contextlib.suppress(BrokenPipeError):  # It ended: told below.
        process.stdin.write(f'{folder}\n'.encode())
      if process.stdout.readline() != b'done\n':
        process.wait()
        said.seek(0)
        tail = '\n'.join(said.read().splitlines()[-20:])
        raise RuntimeError(
          f'the side of {peer.name} failed at {job["task"]!r}:\n{tail}'
        )
      with np.load(folder / 'out.npz') as file:
        return dict(file)

    try:
      yield run_job
    finally:
      process.kill()


def run_job(
  peer: Peer,
  interpreter: pathlib.Path,
  job: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Runs a job of a peer's side in a process of its own.

  Args:
    peer: The peer.
    interpreter: From `venv.prepare`.
    job: JSON; `task` says what to do.
    arrays: What the task starts from.

  Returns:
    Its results by name.

  Raises:
    RuntimeError: if it fails, with the end of what it says.
  """
  with started(peer, interpreter) as run:
    return run(job, arrays)
