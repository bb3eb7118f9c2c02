"""Measure the start-up time of the default experiment, up to its first step.

  python -m experiments.benchmarks.startup --workdir=runs/startup

Runs the command of `./launch.sh` in fresh processes, alternating between an
empty compilation cache and one filled by the previous run, and ends each when
training starts. It prints medians of wall time and of CPU time, which a busy
machine affects less; startup.json in the workdir contains every round.
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

import jax
from absl import flags

from advjax import cli
from experiments.benchmarks import harness

logger = logging.getLogger('advjax')

FILE = 'startup.json'
_ROOT = pathlib.Path(__file__).parents[2]
_SIGN = 'training starts'


def time_start(cache: pathlib.Path) -> dict[str, float]:
  """Starts the default experiment, and ends it when its training starts."""
  output = ''
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  # The user's settings of JAX's cache would win.
  own = {k: value for k, value in os.environ.items() if 'CACHE' not in k}
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
        output += line
        if _SIGN in line:
          seconds = time.perf_counter() - start
          job.kill()
          break
      else:
        raise ValueError(f'compare ended before training: {output}')
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  user, system = (after[i] - before[i] for i in (0, 1))
  return {'seconds': seconds, 'processor_seconds': user + system}


def measure(rounds: int) -> dict[str, list[dict[str, float]]]:
  """Returns each round's starts, with an empty cache and with a filled one."""
  found: dict[str, list[dict[str, float]]] = {'empty': [], 'filled': []}
  for index in range(rounds):
    with tempfile.TemporaryDirectory() as cache:
      for name, starts in found.items():
        starts.append(time_start(pathlib.Path(cache)))
        seconds = starts[-1]['seconds']
        logger.info('round %d, %s: %.2f s', index + 1, name, seconds)
  return found


def table(result: harness.Row) -> str:
  """Returns medians and quartiles as a table, a row per kind of cache."""
  rows = []
  for name, starts in result['rounds'].items():
    low, seconds, high = harness.spread([each['seconds'] for each in starts])
    spent = statistics.median(each['processor_seconds'] for each in starts)
    row = {'cache': name, 'seconds': seconds, 'quartiles': [low, high]}
    rows.append(row | {'spent': spent})
  return harness.table(
    rows,
    ('cache', 'cache', ''),
    ('s', 'seconds', '.2f'),
    ('quartiles', 'quartiles', '.2f'),
    ('CPU s', 'spent', '.2f'),
  )


def main() -> None:
  workdir = harness.make_workdir()
  result = {'rounds': measure(flags.FLAGS.rounds)}
  print(table(result))
  harness.save(workdir / FILE, result, jax.devices())


if __name__ == '__main__':
  harness.define_flags(rounds=5)
  cli.run(main)
