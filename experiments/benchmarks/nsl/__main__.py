"""Compare with Neural Structured Learning: number by number, then in training.

  python -m experiments.benchmarks.nsl --workdir=runs/nsl --data_dir=DIR

from the project's folder, with the Python of .venv. NSL runs on TensorFlow
2.15 in a venv of its own, which the first call makes (some minutes; --venv
names another place). DIR holds sets of TensorFlow Datasets, with mnist.

Parity: the same weights and the same 32 images in both. For every option of
NSL the perturbation, both losses, the gradients of all weights and BatchNorm's
statistics are compared, in float32 and in float64, and the program exits with
1 where one differs by more than 1e-5 of its array's largest magnitude.

Training: the tutorial with both, seed by seed in turns, with accuracies, times
and the ratio of the times.

No test runs this, since TensorFlow is not among the project's dependencies;
tests cover what is pure: cases, differences and tables.
"""

import contextlib
import logging
import pathlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax import cli, data
from advjax.config import check_range
from advjax.environment import environment
from advjax.files import write_json
from experiments.benchmarks.nsl import (
  cases as nsl_cases,
)
from experiments.benchmarks.nsl import (
  parity as nsl_parity,
)
from experiments.benchmarks.nsl import (
  rows as nsl_rows,
)
from experiments.benchmarks.nsl import (
  training as nsl_training,
)
from experiments.benchmarks.nsl.verdicts import TOLERANCE, failures
from experiments.benchmarks.peers import process, venv
from experiments.benchmarks.peers.nsl import PEER
from experiments.benchmarks.peers.process import RunJob

logger = logging.getLogger('advjax')

_CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'nsl_mnist.py'
_NUM_IMAGES = 32
_NUM_DRAWS = 2000

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder for nsl_parity.json and nsl_training.json.',
  required=True,
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Sets of TensorFlow Datasets, with mnist.'
)
_NPZ = flags.DEFINE_string(
  'npz', None, 'An npz data set of 28 x 28 x 1 images, instead of mnist.'
)
_VENV = flags.DEFINE_string(
  'venv', None, "NSL's venv; default: nsl_venv in the user's cache folder."
)
_PYTHON = flags.DEFINE_string(
  'python', None, 'Python 3.10 or 3.11, to make the venv with.'
)
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of the training.')
_NUM_EPOCHS = flags.DEFINE_integer('num_epochs', 5, 'Epochs of the training.')
_NUM_TRAIN = flags.DEFINE_integer(
  'num_train', None, 'Train on so many images only, for a trial.'
)
_CASES = flags.DEFINE_string(
  'cases', '', 'Compare only the options whose name contains this.'
)
_PARITY_ONLY = flags.DEFINE_bool('parity_only', False, 'Leave training out.')
_TRAIN_ONLY = flags.DEFINE_bool('train_only', False, 'Leave parity out.')
flags.mark_flags_as_mutual_exclusive(['data_dir', 'npz'])
flags.mark_bool_flags_as_mutual_exclusive(['parity_only', 'train_only'])


def compare(
  dataset: data.Dataset, run_job: RunJob, only: str
) -> dict[str, Any]:
  """Compares all options in both dtypes.

  Args:
    dataset: Whose first test images are the batch.
    run_job: Runs a job of NSL's side.
    only: A part of the names of the cases to compare.

  Returns:
    The content of nsl_parity.json.

  Raises:
    ValueError: if there is no such case.
  """
  cases = [
    case
    for case in nsl_cases.adversarial_cases() + nsl_cases.virtual_cases()
    if only in case.name
  ]
  decays = [item for item in nsl_cases.decays() if only in item['name']]
  if not cases and not decays:
    raise ValueError(f'--cases={only}: no option has this in its name')
  images = np.asarray(data.to_float(dataset.test.images[:_NUM_IMAGES]))
  start = nsl_parity.make_arrays(images, dataset.test.labels[:_NUM_IMAGES])
  rows: list[dict[str, Any]] = []
  exact: dict[str, Any] = {}
  for dtype in nsl_rows.DTYPES:
    arrays = nsl_parity.cast(start, dtype)
    with contextlib.ExitStack() as stack:
      if dtype == 'float64':
        # Op by op, to compile less: what users run is float32, and compiled.
        stack.enter_context(jax.disable_jit())
        stack.enter_context(jax.enable_x64(True))
      for case in cases:
        if case.start:
          arrays[case.start] = nsl_parity.random_start(case, arrays)
      job = {
        'task': 'parity',
        'dtype': dtype,
        'cases': [nsl_cases.job_of(case) for case in cases],
        'decays': decays,
        'steps': nsl_rows.DECAY_STEPS,
        'num_draws': _NUM_DRAWS,
      }
      logger.info('parity in %s: NSL', dtype)
      theirs = run_job(job, arrays)
      exact = exact or theirs
      for case in cases:
        row = nsl_rows.compare_case(case, arrays, theirs, dtype, exact)
        logger.info('%s', nsl_rows.summary(row))
        rows.append(row)
  return {
    'tolerance': TOLERANCE,
    'versions': str(theirs['versions']),
    'rows': rows + [nsl_rows.compare_decay(item, theirs) for item in decays],
    'random_init': nsl_rows.compare_draws(theirs, _NUM_DRAWS),
    'environment': environment(jax.devices()),
  }


def _load() -> data.Dataset:
  if _NPZ.value:
    dataset = data.load({'name': 'npz', 'path': _NPZ.value})
  else:
    dataset = data.load(
      {'name': 'tfds', 'builder': 'mnist', 'data_dir': _DATA_DIR.value}
    )
  shape = dataset.train.images.shape[1:]
  if shape != (28, 28, 1) or dataset.num_classes != 10:
    raise ValueError(
      f'{dataset.name}: images of shape {shape} in {dataset.num_classes} '
      'classes; allowed: (28, 28, 1) in 10, as the tutorial has them'
    )
  if _NUM_TRAIN.value is None:
    return dataset
  most = len(dataset.train.labels)
  check_range('num_train', _NUM_TRAIN.value, 1, most, integer=True)
  train = data.Split(*(x[: _NUM_TRAIN.value] for x in dataset.train))
  return dataset._replace(train=train)


def _seeds() -> list[int]:
  try:
    seeds = [int(seed) for seed in _SEEDS.value]
  except ValueError:
    seeds = []
  if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
    raise ValueError(
      f'--seeds={",".join(_SEEDS.value)}; allowed: integers >= 0, each once'
    )
  return seeds


def _train(
  dataset: data.Dataset,
  seeds: Sequence[int],
  run_job: RunJob,
  devices: Sequence[jax.Device],
) -> dict[str, Any]:
  config = runpy.run_path(str(_CONFIG))['get_config']()
  config.num_epochs = _NUM_EPOCHS.value
  config.monitor.every_epochs = _NUM_EPOCHS.value
  rows = nsl_training.run_training(config, dataset, seeds, run_job, devices)
  print(nsl_training.training_tables(rows, config.evaluation.epsilon))
  return {
    'rows': rows,
    'ours_over_nsl': nsl_training.summarize(rows),
    'num_train': len(dataset.train.labels),
    'num_test': len(dataset.test.labels),
    'num_epochs': config.num_epochs,
    'environment': environment(devices),
  }


def main() -> None:
  check_range('num_epochs', _NUM_EPOCHS.value, 1, integer=True)
  seeds = _seeds()
  workdir = pathlib.Path(_WORKDIR.value)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"--workdir: '{workdir}' is a file; give a folder")
  dataset = _load()
  devices = cli.devices_from_flags()
  if devices[0].platform != 'cpu' and not _PARITY_ONLY.value:
    raise ValueError(
      f'--platform: the devices are {devices[0].platform}, but NSL runs on '
      "TensorFlow's CPU build here: times would say nothing; give "
      '--platform=cpu, or --parity_only'
    )
  interpreter = venv.prepare(PEER, _VENV.value, _PYTHON.value)

  def run_job(
    job: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
  ) -> dict[str, Any]:
    return process.run_job(PEER, interpreter, job, arrays)

  workdir.mkdir(parents=True, exist_ok=True)
  failed = []
  if not _TRAIN_ONLY.value:
    result = compare(dataset, run_job, _CASES.value)
    write_json(workdir / 'nsl_parity.json', result)
    print(nsl_rows.table(result['rows'], result['random_init']))
    failed = failures(result['rows'], result['random_init'])
    print('\n'.join(failed) or '\nEverything judged is within 1e-5.')
  if not _PARITY_ONLY.value:
    result = _train(dataset, seeds, run_job, devices)
    write_json(workdir / 'nsl_training.json', result)
  print(f'written: {workdir}')
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  cli.run(main)
