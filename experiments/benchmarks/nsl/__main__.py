"""Compare with Neural Structured Learning: number by number, then in training.

  python -m experiments.benchmarks.nsl --workdir=runs/nsl --data_dir=DIR

from the project's folder, with the Python of .venv. NSL runs on TensorFlow
2.15 in a venv of its own, which the first call makes (some minutes; --nsl_venv
names another place). DIR holds sets of TensorFlow Datasets, with mnist.

Parity: the same weights and the same 32 images in both. For every option of
NSL the perturbation, both losses, the gradients of all weights and BatchNorm's
statistics are compared, in float32 and in float64, and the program exits with
1 where one differs by more than 1e-5 of its array's largest magnitude.

Run: the tutorial with both, seed by seed in turns, with accuracies, times
and the ratio of the times.

No test runs this, since TensorFlow is not among the project's dependencies;
tests cover what is pure: cases, differences and tables.
"""

import logging
import pathlib
import runpy
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax import cli, data
from advjax.config import MAX_SEED
from experiments.benchmarks import harness, peers
from experiments.benchmarks.nsl import cases as nsl_cases
from experiments.benchmarks.nsl import comparison, parity, training
from experiments.benchmarks.peers import RunJob

logger = logging.getLogger('advjax')

_CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'nsl_mnist.py'
_NUM_IMAGES = 32
_NUM_DRAWS = 2000


def compare(
  dataset: data.Dataset, run_job: RunJob, only: str
) -> dict[str, Any]:
  """Compares all options in both dtypes."""
  every = nsl_cases.adversarial_cases() + nsl_cases.virtual_cases()
  cases = [case for case in every if only in case.name]
  decays = [item for item in nsl_cases.decays() if only in item['name']]
  if not cases and not decays:
    names = ', '.join(case.name for case in every)
    raise ValueError(f'--cases = {only!r}; allowed: a part of one of {names}')
  images = np.asarray(data.to_float(dataset.test.images[:_NUM_IMAGES]))
  start = parity.make_arrays(images, dataset.test.labels[:_NUM_IMAGES])
  rows: list[dict[str, Any]] = []
  exact: dict[str, Any] = {}
  for dtype in comparison.DTYPES:
    arrays, wide = parity.cast(start, dtype), dtype == 'float64'
    # Op by op, to compile less: what users run is float32, and compiled.
    with jax.disable_jit(wide), jax.enable_x64(wide):
      for case in cases:
        if case.start:
          arrays[case.start] = parity.random_start(case, arrays)
      job = {
        'task': 'parity',
        'dtype': dtype,
        'cases': [nsl_cases.job_of(case) for case in cases],
        'decays': decays,
        'steps': comparison.DECAY_STEPS,
        'num_draws': _NUM_DRAWS,
      }
      logger.info('parity in %s: NSL', dtype)
      theirs = run_job(job, arrays)
      exact = exact or theirs
      for case in cases:
        row = comparison.compare_case(case, arrays, theirs, dtype, exact)
        logger.info('%s', comparison.summary(row))
        rows.append(row)
  return {
    'tolerance': comparison.TOLERANCE,
    'versions': str(theirs['versions']),
    'rows': rows + [comparison.compare_decay(item, theirs) for item in decays],
    'random_init': comparison.compare_draws(theirs, _NUM_DRAWS),
  }


def _load() -> data.Dataset:
  flag = flags.FLAGS
  mnist = {'name': 'tfds', 'builder': 'mnist', 'data_dir': flag.data_dir}
  own = {'name': 'npz', 'path': flag.npz}
  dataset = data.load(own if flag.npz else mnist)
  shape = dataset.train.images.shape[1:]
  if shape != (28, 28, 1) or dataset.num_classes != 10:
    raise ValueError(
      f'{dataset.name}: images of shape {shape} in {dataset.num_classes} '
      'classes; allowed: (28, 28, 1) in 10, as the tutorial has them'
    )
  if flag.num_train is None:
    return dataset
  harness.check_counts('num_train', high=len(dataset.train.labels))
  train = data.Split(*(x[: flag.num_train] for x in dataset.train))
  return dataset._replace(train=train)


def main() -> None:
  flag = flags.FLAGS
  harness.check_counts('num_epochs')
  seeds = harness.integers('seeds', 0, MAX_SEED)
  dataset = _load()
  devices = cli.devices_from_flags()
  if devices[0].platform != 'cpu' and not flag.parity_only:
    raise ValueError(
      f"--platform = '{devices[0].platform}'; allowed: cpu, where NSL runs, "
      'or --parity_only'
    )
  workdir = harness.make_workdir()
  peer = peers.PEERS['nsl']
  interpreter = peers.prepare(peer, flag.nsl_venv, flag.python)

  def run_job(
    job: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    # Each in a process of its own, as a user's job is.
    with peers.started(peer, interpreter, flag.timeout) as run:
      return run(job, arrays)

  failed = []
  if not flag.train_only:
    result = compare(dataset, run_job, flag.cases)
    print(comparison.table(result['rows'], result['random_init']))
    failed = comparison.failures(result['rows'], result['random_init'])
    print('\n'.join(failed) or '\nEverything is within 1e-5.')
    harness.save(workdir / 'nsl_parity.json', result, devices)
  if not flag.parity_only:
    config = runpy.run_path(str(_CONFIG))['get_config']()
    config.num_epochs = config.monitor.every_epochs = flag.num_epochs
    rows = training.run_training(config, dataset, seeds, run_job, devices)
    print(training.tables(rows, config.evaluation.epsilon))
    result = {'rows': rows, 'ours_over_nsl': training.summarize(rows)}
    result['num_train'] = len(dataset.train.labels)
    result['num_test'] = len(dataset.test.labels)
    result['num_epochs'] = flag.num_epochs
    harness.save(workdir / 'nsl_training.json', result, devices)
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  harness.define_flags(use=['nsl'], data_dir=True)
  flags.DEFINE_string('npz', None, 'Images of 28 x 28 x 1, instead of mnist.')
  flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of the training.')
  flags.DEFINE_integer('num_epochs', 5, 'Epochs of the training.')
  flags.DEFINE_integer('num_train', None, 'Training images, for a trial.')
  flags.DEFINE_string('cases', '', 'Only options whose name contains this.')
  flags.DEFINE_bool('parity_only', False, 'Leave training out.')
  flags.DEFINE_bool('train_only', False, 'Leave parity out.')
  flags.mark_flags_as_mutual_exclusive(['data_dir', 'npz'])
  flags.mark_bool_flags_as_mutual_exclusive(['parity_only', 'train_only'])
  cli.run(main)
