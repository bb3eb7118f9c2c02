"""Measure how long the main job takes from Python's start to its first step.

  python experiments/benchmarks/startup.py --workdir=runs/startup

Runs the command of `./launch.sh` in fresh processes, in turns with an empty
cache of compiled programs and with the one that the run before has filled, and
ends each where it says that training starts. Medians of the seconds, and of
the processor's seconds, which a busy machine disturbs less; startup.json in the
workdir holds every round.
"""

import logging
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import jax
from absl import flags

from advjax import cli
from advjax.config import check_range
from advjax.environment import environment
from advjax.files import write_json

logger = logging.getLogger('advjax')

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of which the median is.')
_ROOT = pathlib.Path(__file__).parents[2]
_SIGN = 'training starts'

Start = dict[str, float]


def time_start(cache: pathlib.Path) -> Start:
  """Starts the main job, and ends it where its training starts.

  Args:
    cache: The user's cache folder for it.

  Returns:
    `seconds` since its process was made, and `processor_seconds` of it.

  Raises:
    ValueError: if it ends before, with what it said.
  """
  said = ''
  spent = _processor_seconds()
  # The user's settings of JAX's cache would win.
  own = {
    name: value for name, value in os.environ.items() if 'CACHE' not in name
  }
  with tempfile.TemporaryDirectory() as workdir:
    start = time.perf_counter()
    job = subprocess.Popen(
      [
        *(sys.executable, '-P', '-m', 'experiments.compare'),
        f'--config={_ROOT / "configs" / "nsl_digits.py"}',
        f'--workdir={workdir}',
      ],
      env=own | {'PYTHONPATH': str(_ROOT), 'XDG_CACHE_HOME': str(cache)},
      stderr=subprocess.PIPE,
      text=True,
    )
    with job:
      assert job.stderr is not None
      for line in job.stderr:
        said += line
        if _SIGN in line:
          seconds = time.perf_counter() - start
          job.kill()
          break
      else:
        raise ValueError(f'the main job ended before training: {said}')
  return {
    'seconds': seconds,
    'processor_seconds': _processor_seconds() - spent,
  }


def _processor_seconds() -> float:
  """Returns what all ended children took, user and system."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> dict[str, list[Start]]:
  """Returns each round's starts, with an empty cache and with a filled one."""
  found: dict[str, list[Start]] = {'empty': [], 'filled': []}
  for index in range(rounds):
    with tempfile.TemporaryDirectory() as cache:
      for name, starts in found.items():
        starts.append(time_start(pathlib.Path(cache)))
        logger.info(
          'round %d, %s: %.2f s', index + 1, name, starts[-1]['seconds']
        )
  return found


def table(found: Mapping[str, Sequence[Start]]) -> str:
  """Returns medians and spreads, a line per kind of cache."""
  lines = [f'{"cache":8}  {"s to training (all)":24}  processor s']
  for name, starts in found.items():
    seconds = [start['seconds'] for start in starts]
    spread = f'({min(seconds):.2f} to {max(seconds):.2f})'
    middle = statistics.median(start['processor_seconds'] for start in starts)
    lines.append(
      f'{name:8}  {statistics.median(seconds):6.2f} {spread:17}  {middle:6.2f}'
    )
  return '\n'.join(lines)


def main() -> None:
  check_range('rounds', _ROUNDS.value, 1, integer=True)
  workdir = pathlib.Path(flags.FLAGS.workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  found = measure(_ROUNDS.value)
  write_json(
    workdir / 'startup.json',
    {'rounds': found, 'environment': environment(jax.devices())},
  )
  print(table(found))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder that the results go to.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)
