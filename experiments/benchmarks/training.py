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
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from advjax import cli, data
from experiments.benchmarks import harness, roofline, runs
from experiments.benchmarks.harness import OURS, Row, Side
from experiments.benchmarks.peers import RunJob

logger = logging.getLogger('advjax')

FILE = 'training_steps.json'
# By peer and objective, the variants: a name for the table, and options of the
# job. --nocompiled omits torch.compile.
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
      'PyTorch, torchattacks': {'library': 'torchattacks'},
      'PyTorch, written out': {},
      'PyTorch, written out, compiled': {'compile': True},
    },
  },
}
_JOB = {
  'network': 'cnn',
  'multiplier': 0.2,
  'norm': 'infinity',
  'step_size': runs.NSL_STEP_SIZE,
  'compile': False,
  'device': 'cpu',
  'channels_last': False,
  'dtype': 'float32',
  'tf32': False,
}
_PGD = {
  'epsilon': runs.EPSILON,
  'attack_steps': runs.ATTACK_STEPS,
  'step_size': 2.5 * runs.EPSILON / runs.ATTACK_STEPS,
  'random_start': True,
}


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
  """Measures all variants of objectives, and the floors at the end."""
  found = {}
  for objective, size in itertools.product(objectives, batch_sizes):
    training = runs.tutorial(objective, size, dataset, devices)
    arrays = runs.by_name(training.init_state().params)
    arrays['train_images'] = dataset.train.images
    arrays['train_labels'] = dataset.train.labels
    job = {**_JOB, 'objective': objective, 'batch_size': size}
    job |= {'num_steps': steps, **(_PGD if objective == 'pgd' else {})}
    sides: dict[str, Side] = {
      OURS: functools.partial(runs.seconds_per_step, training, steps)
    }
    for peer, run_job in run_jobs.items():
      for name, options in VARIANTS[peer][objective].items():
        if compiled or not options.get('compile'):
          own = job | options | {'name': f'{name}/{objective}/{size}'}
          sides[name] = harness.peer_side(run_job, own, arrays)
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
      'name': 'floor',
      'milliseconds': 1e3 * least,
      'images_per_second': size / least,
      'times_as_fast': least / harness.spread(times.seconds[OURS])[1],
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
  harness.check_counts('steps', high=60000 // max(batch_sizes))
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
  harness.define_flags(rounds=7, use=list(VARIANTS), data_dir=True)
  flags.DEFINE_list('objectives', list(runs.OBJECTIVES), 'Which.')
  flags.DEFINE_list('batch_sizes', ['32', '128'], 'Which.')
  flags.DEFINE_list('peers', list(VARIANTS), 'Libraries to compare with.')
  flags.DEFINE_integer('steps', 32, 'Steps of each in a round.')
  flags.DEFINE_bool('compiled', True, 'torch.compile as well.')
  cli.run(main)
