"""Compare training steps with Keras, NSL and PyTorch, and with the roofline.

  python -m experiments.benchmarks.training --workdir=runs/training_steps \\
    --data_dir=DIR

from the project's folder, with the Python of .venv; DIR holds data sets of
TensorFlow Datasets, including mnist. Every library runs in its own venv,
created by the first call (some minutes), in one process that persists over
rounds; network, initial weights, MNIST images, batch size and number of CPU
cores are the same. All libraries alternate, round by round: advjax runs the
compiled loop of `train`, Keras and NSL model.fit after its first batch, PyTorch
a plain loop over images in memory. The table has medians and quartiles, and the
floor, the roofline bound: operations over the measured rate of matrix products,
or bytes over that of copies, whichever takes longer.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax import cli, data
from advjax.config import check_range
from advjax.training.setup import Run
from experiments.benchmarks import harness, roofline, runs
from experiments.benchmarks.harness import OURS, Row, Side, TimedRun, spread
from experiments.benchmarks.peers import RunJob

logger = logging.getLogger('advjax')

FILE = 'training_steps.json'
FLOOR = 'floor'
# By peer and objective, the variants: a name for the table, and what the side
# has to be told. --nocompiled omits torch.compile.
VARIANTS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
  'nsl': {
    'standard': {
      'Keras': {'steps_per_execution': 1},
      'Keras, 32 steps per execution': {'steps_per_execution': 32},
    },
    'nsl': {'NSL': {'steps_per_execution': 1}},
    'pgd': {},
  },
  'torch': {
    'standard': {'PyTorch': {}, 'PyTorch, compiled': {'compile': True}},
    'nsl': {'PyTorch, written out': {}},
    'pgd': {
      'PyTorch, torchattacks': {'attack': 'torchattacks'},
      'PyTorch, written out': {},
      'PyTorch, written out, compiled': {'compile': True},
    },
  },
}


def their_steps(
  run_job: RunJob, job: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> TimedRun:
  """Prepares a side, and returns what takes steps there."""
  run_job({**job, 'task': 'prepare'}, arrays)
  return lambda: float(run_job({**job, 'task': 'steps'}, {})['seconds'])


def _sides(
  training: Run,
  objective: str,
  run_jobs: Mapping[str, RunJob],
  steps: int,
  compiled: bool,
) -> dict[str, Side]:
  """Ours and the peers' variants of an objective."""
  train, batch_size = training.train_split, training.config.batch_size
  arrays = runs.by_name(training.init_state().params)
  arrays |= {'train_images': train.images, 'train_labels': train.labels}
  job: dict[str, Any] = {
    'objective': objective,
    'batch_size': batch_size,
    'num_steps': steps,
    'multiplier': 0.2,
    'step_size': runs.NSL_STEP_SIZE,
    'norm': 'infinity',
    'compile': False,
    'attack': '',
  }
  if objective == 'pgd':
    job |= {
      'epsilon': runs.EPSILON,
      'step_size': 2.5 * runs.EPSILON / runs.ATTACK_STEPS,
      'attack_steps': runs.ATTACK_STEPS,
    }
  sides: dict[str, Side] = {
    OURS: lambda: runs.seconds_per_step(training, steps)
  }
  for peer, run_job in run_jobs.items():
    for name, options in VARIANTS[peer][objective].items():
      if compiled or not options.get('compile'):
        own = job | options | {'name': f'{name}/{objective}/{batch_size}'}
        sides[name] = functools.partial(their_steps, run_job, own, arrays)
  return sides


def measure(
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  run_jobs: Mapping[str, RunJob],
  objectives: Sequence[str],
  batch_sizes: Sequence[int],
  *,
  steps: int,
  rounds: int,
  compiled: bool = True,
) -> dict[str, Any]:
  """Measures everything."""
  found = {}
  for objective in objectives:
    for size in batch_sizes:
      training = runs.tutorial(objective, size, dataset, devices)
      sides = _sides(training, objective, run_jobs, steps, compiled)
      found[objective, size] = harness.in_turns(sides, rounds)
      logger.info('%s, batches of %d: measured', objective, size)
  # At the end, when no other side is busy any more with its start.
  rates = roofline.measure_rates(devices)
  rows: list[dict[str, Any]] = []
  for (objective, size), times in found.items():
    case = {'objective': objective, 'batch_size': size}
    rows += harness.compare(times, size, **case)
    work = roofline.least_work(objective, size)
    least = work.seconds(rates)
    floor = {
      'name': FLOOR,
      'milliseconds': 1e3 * least,
      'images_per_second': size / least,
      'times_as_fast': least / spread(times.seconds[OURS]).median,
      'bound': work.bound(rates),
    }
    rows.append(case | floor | work._asdict())
  return {'rows': rows, 'rates': rates._asdict(), 'steps': steps}


def table(result: Row) -> str:
  """Returns the rows of a result as a table in Markdown."""
  return harness.table(
    result['rows'],
    ('objective', 'objective', ''),
    ('batch', 'batch_size', 'd'),
    *harness.SIDE_COLUMNS,
  )


def main() -> None:
  flag = flags.FLAGS
  objectives = harness.chosen('objectives', runs.OBJECTIVES)
  peers = harness.chosen('peers', VARIANTS)
  batch_sizes = harness.integers('batch_sizes', 1, 1024)
  most = 60000 // max(batch_sizes)
  check_range('steps', flag.steps, 1, most, integer=True)
  dataset = data.load(
    {'name': 'tfds', 'builder': 'mnist', 'data_dir': flag.data_dir}
  )
  devices = cli.devices_from_flags()
  workdir = harness.make_workdir()
  with harness.start_peers(peers, devices) as run_jobs:
    result = measure(
      *(dataset, devices, run_jobs, objectives, batch_sizes),
      steps=flag.steps,
      rounds=flag.rounds,
      compiled=flag.compiled,
    )
  print(f'\n{table(result)}')
  harness.save(workdir / FILE, result, devices)


if __name__ == '__main__':
  harness.define_flags(rounds=7, use=list(VARIANTS))
  harness.define_data_dir()
  flags.DEFINE_list('objectives', list(runs.OBJECTIVES), 'Which.')
  flags.DEFINE_list('batch_sizes', ['32', '128'], 'Which.')
  flags.DEFINE_list('peers', list(VARIANTS), 'Libraries to compare with.')
  flags.DEFINE_integer('steps', 32, 'Steps of each in a round.')
  flags.DEFINE_bool('compiled', True, 'torch.compile as well.')
  cli.run(main)
