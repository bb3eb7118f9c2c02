"""The tutorial trained by NSL and by us, seed by seed in turns, and the table.

Both sides get the same uint8 images, one network, Adam of Keras and batches of
the same size; each side's networks start from weights of their own.
"""

import logging
import pathlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from advjax import data
from advjax.attacks.specs import parse_attack
from advjax.config import member_config
from advjax.devices import replicate
from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.logits import predict
from advjax.jobs.workdir import prepare_workdir
from advjax.models.logits import eval_logits_fn
from advjax.training.loop import train
from advjax.training.setup import create_run, device_inputs
from advjax.types import LogitsFn
from experiments.benchmarks.peers.process import RunJob
from experiments.benchmarks.tables import markdown, mean_and_std

logger = logging.getLogger('advjax')

MEMBERS = ('base', 'adversarial')
LIBRARIES = ('NSL', 'advjax')

_ACCURACIES = {
  'base_clean': 'base: clean',
  'base_white_box': 'base: white box',
  'adversarial_clean': 'adversarial: clean',
  'transfer': 'adversarial: transfer from base',
  'adversarial_white_box': 'adversarial: white box',
}
_TIMES = {
  'seconds': 's',
  'seconds_with_compile': 's, with compiling',
  'milliseconds_per_step': 'ms per step',
}


def nsl_job(
  config: config_dict.ConfigDict, task: str, member: str = 'adversarial'
) -> dict[str, Any]:
  """Returns a job of NSL's side with the numbers of our config."""
  ours = member_config(config, 'adversarial')
  return {
    'task': task,
    'seed': member_config(config, member).seed,
    'member': member,
    'num_epochs': ours.num_epochs,
    'batch_size': ours.batch_size,
    'multiplier': ours.hparams.multiplier,
    # The tutorial tests with the step that it trains with.
    'step_size': ours.hparams.step_size,
    'norm': ours.objective.norm,
  }


def train_ours(
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
) -> tuple[dict[str, float], LogitsFn]:
  """Trains one member as `train` does, and returns its times and network.

  Args:
    config: The config of one training run.
    dataset: What to train on.
    devices: The devices.

  Returns:
    The times, and the trained network in evaluation mode.
  """
  jax.clear_caches()  # Each run compiles for itself, as each run of NSL traces.
  training = create_run(config, dataset, devices)
  start = time.perf_counter()
  arguments = device_inputs(training)
  state = replicate(training.init_state(), training.devices)
  jax.block_until_ready(training.train_steps(state, *arguments, np.int32(0)))
  compile_seconds = time.perf_counter() - start
  with tempfile.TemporaryDirectory() as folder:
    path = prepare_workdir(pathlib.Path(folder) / 'run', config)
    result = train(training, path)
  num_steps = config.num_epochs * training.plan.steps_per_epoch
  times = {
    'seconds': result.train_seconds,
    'seconds_with_compile': result.train_seconds + compile_seconds,
    'milliseconds_per_step': 1e3 * result.train_seconds / num_steps,
  }
  network = eval_logits_fn(training.model, result.params, result.model_state)
  return times, network


def evaluate_ours(
  networks: Mapping[str, LogitsFn],
  test: data.Split,
  epsilon: float,
  devices: Sequence[jax.Device],
) -> dict[str, np.ndarray]:
  """Returns which images each network gets right, as NSL's side names them."""
  images = np.asarray(data.to_float(test.images))
  options: dict[str, Any] = {'batch_size': 256, 'devices': devices}
  right = {
    f'{name}/clean': predict(network, images, **options) == test.labels
    for name, network in networks.items()
  }
  for source, network in networks.items():
    found = attack_and_predict(
      network,
      networks,
      parse_attack('fgsm'),
      images,
      test.labels,
      [epsilon],
      key=jax.random.key(0),
      **options,
    )
    for name, predictions in found.predictions.items():
      right[f'{name}/from_{source}'] = predictions[0] == test.labels
  return right


def accuracies(right: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Returns the tutorial's numbers, transfer and white box apart.

  Args:
    right: For 'network/images', whether each image is classified correctly.

  Returns:
    Fractions.

  Example:
    >>> import numpy as np
    >>> right = {
    ...   f'{network}/{images}': np.array([True, network == 'base'])
    ...   for network in ('base', 'adversarial')
    ...   for images in ('clean', 'from_base', 'from_adversarial')
    ... }
    >>> accuracies(right)['transfer'], accuracies(right)['base_white_box']
    (0.5, 1.0)
  """
  return {
    'base_clean': float(right['base/clean'].mean()),
    'base_white_box': float(right['base/from_base'].mean()),
    'adversarial_clean': float(right['adversarial/clean'].mean()),
    'transfer': float(right['adversarial/from_base'].mean()),
    'adversarial_white_box': float(
      right['adversarial/from_adversarial'].mean()
    ),
  }


def run_training(
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
  seeds: Sequence[int],
  run_job: RunJob,
  devices: Sequence[jax.Device],
) -> list[dict[str, Any]]:
  """Trains and tests both sides with every seed.

  Args:
    config: Of a comparison of `base` and `adversarial`.
    dataset: What to train and test on.
    seeds: Of the runs.
    run_job: Runs a job of NSL's side.
    devices: Our devices.

  Returns:
    One row per library and seed, NSL's first.
  """
  split, test = dataset.train, dataset.test
  arrays = {'train_images': split.images, 'train_labels': split.labels}
  rows = []
  for seed in seeds:
    config.seed = seed
    theirs: dict[str, Any] = {}
    times: dict[str, dict[str, Any]] = {name: {} for name in LIBRARIES}
    networks = {}
    for member in MEMBERS:
      logger.info('seed %d, %s: NSL', seed, member)
      theirs[member] = run_job(nsl_job(config, 'train', member), arrays)
      times['NSL'][member] = {
        name: float(theirs[member][name]) for name in _TIMES
      }
      logger.info('seed %d, %s: advjax', seed, member)
      times['advjax'][member], networks[member] = train_ours(
        member_config(config, member), dataset, devices
      )
    weights = {
      f'{member}/{name.removeprefix("weights/")}': value
      for member, out in theirs.items()
      for name, value in out.items()
      if name.startswith('weights/')
    }
    found = {
      'NSL': run_job(
        nsl_job(config, 'evaluate'),
        {**weights, 'test_images': test.images, 'test_labels': test.labels},
      ),
      'advjax': evaluate_ours(
        networks, test, config.evaluation.epsilon, devices
      ),
    }
    rows += [
      {
        'library': name,
        'seed': seed,
        **accuracies(found[name]),
        'times': times[name],
      }
      for name in LIBRARIES
    ]
  return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns what the rows say of time: our seconds over NSL's, seed by seed.

  Args:
    rows: From `run_training`.

  Returns:
    For every member and time, the ratio of every seed and their mean.
  """
  by_key = {(row['library'], row['seed']): row['times'] for row in rows}
  seeds = sorted({row['seed'] for row in rows})
  ratios: dict[str, Any] = {}
  for member in MEMBERS:
    for name in _TIMES:
      values = [
        by_key['advjax', seed][member][name] / by_key['NSL', seed][member][name]
        for seed in seeds
      ]
      ratios.setdefault(member, {})[name] = {
        'seeds': values,
        'mean': statistics.fmean(values),
      }
  return ratios


def training_tables(rows: Sequence[Mapping[str, Any]], epsilon: float) -> str:
  """Returns accuracies and times as two tables in Markdown, and the ratio.

  Args:
    rows: From `run_training`.
    epsilon: Of FGSM.

  Returns:
    The text.
  """
  accuracy_rows: list[list[Any]] = []
  time_rows: list[list[Any]] = []
  for row in rows:
    name = f'{row["library"]}, seed {row["seed"]}'
    accuracy_rows.append([name, *(f'{row[key]:.4f}' for key in _ACCURACIES)])
    time_rows.append(
      [
        name,
        *(f'{row["times"][m][t]:.2f}' for m in MEMBERS for t in _TIMES),
      ]
    )
  for library in LIBRARIES:
    own = [row for row in rows if row['library'] == library]
    accuracy_rows.append(
      [
        f'{library}, mean ± std',
        *(mean_and_std([row[key] for row in own]) for key in _ACCURACIES),
      ]
    )
    time_rows.append(
      [
        f'{library}, mean ± std',
        *(
          mean_and_std([row['times'][m][t] for row in own], 2)
          for m in MEMBERS
          for t in _TIMES
        ),
      ]
    )
  ratios = summarize(rows)['adversarial']
  return '\n'.join(
    [
      f'Accuracy on the test images; attacks: FGSM {epsilon:g}, clipped to '
      '[0, 1].\n',
      markdown(['', *_ACCURACIES.values()], accuracy_rows),
      '\nTraining.\n',
      markdown(
        ['', *(f'{m}: {_TIMES[t]}' for m in MEMBERS for t in _TIMES)],
        time_rows,
      ),
      '\nSeconds of training with the adversarial objective, advjax / NSL: '
      f'{ratios["seconds"]["mean"]:.3f} '
      f'({ratios["seconds_with_compile"]["mean"]:.3f} with compiling).',
    ]
  )
