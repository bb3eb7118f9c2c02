"""The tutorial trained by NSL and by us, seed by seed in turns, and the table.

Both sides get the same uint8 images, one network, Adam of Keras and batches of
the same size; each side's networks start from weights of their own.
"""

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from advjax import data
from advjax.attacks.specs import parse_attack
from advjax.config import member_config
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.robustness import attack_and_predict
from advjax.training.setup import create_run
from advjax.types import LogitsFn
from experiments.benchmarks import harness, runs
from experiments.benchmarks.peers import RunJob

logger = logging.getLogger('advjax')

MEMBERS = ('base', 'adversarial')
LIBRARIES = ('NSL', 'advjax')

# By title, the network and the images.
_ACCURACIES = {
  'base: clean': 'base/clean',
  'base: white box': 'base/from_base',
  'adversarial: clean': 'adversarial/clean',
  'adversarial: transfer from base': 'adversarial/from_base',
  'adversarial: white box': 'adversarial/from_adversarial',
}
_TIMES = {
  'seconds': 's',
  'seconds_with_compile': 's, with compiling',
  'milliseconds_per_step': 'ms per step',
}


def _nsl_job(
  config: config_dict.ConfigDict, task: str, member: str = 'adversarial'
) -> dict[str, Any]:
  """A job of NSL's side with the numbers of our config."""
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


def _evaluate(
  networks: Mapping[str, LogitsFn],
  test: data.Split,
  epsilon: float,
  devices: Sequence[jax.Device],
) -> dict[str, np.ndarray]:
  """Which images are classified correctly, as NSL's side names them."""
  images = np.asarray(data.to_float(test.images))
  batching, fgsm = Batching(256, devices), parse_attack('fgsm')
  correct = {}
  for source, network in networks.items():
    predictions = compute_logits(network, images, batching).argmax(-1)
    correct[f'{source}/clean'] = predictions == test.labels
    found = attack_and_predict(
      network, networks, fgsm, images, test.labels, [epsilon], batching
    )
    for name, each in found.predictions.items():
      correct[f'{name}/from_{source}'] = each[0] == test.labels
  return correct


def run_training(
  config: config_dict.ConfigDict,
  dataset: data.Dataset,
  seeds: Sequence[int],
  run_job: RunJob,
  devices: Sequence[jax.Device],
) -> list[dict[str, Any]]:
  """Trains and tests both sides with every seed."""
  split, test = dataset.train, dataset.test
  arrays = {'train_images': split.images, 'train_labels': split.labels}
  rows = []
  for seed in seeds:
    config.seed = seed
    times: dict[str, dict[str, Any]] = {name: {} for name in LIBRARIES}
    networks = {}
    shown = {'test_images': test.images, 'test_labels': test.labels}
    for member in MEMBERS:
      logger.info('seed %d, %s: NSL', seed, member)
      theirs = run_job(_nsl_job(config, 'train', member), arrays)
      times['NSL'][member] = {name: float(theirs[name]) for name in _TIMES}
      for name, value in theirs.items():
        if name.startswith('weights/'):
          shown[f'{member}/{name.removeprefix("weights/")}'] = value
      logger.info('seed %d, %s: advjax', seed, member)
      # Each run compiles for itself, as each run of NSL traces.
      jax.clear_caches()
      training = create_run(member_config(config, member), dataset, devices)
      trained = runs.train_timed(training)
      costs = trained.costs
      whole = costs['train_seconds'] + costs['compile_seconds']
      times['advjax'][member] = {
        'seconds': costs['train_seconds'],
        'seconds_with_compile': whole,
        'milliseconds_per_step': costs['step_milliseconds'],
      }
      networks[member] = runs.float32_network(training, trained)
    epsilon = config.evaluation.epsilon
    correct = {
      'NSL': run_job(_nsl_job(config, 'evaluate'), shown),
      'advjax': _evaluate(networks, test, epsilon, devices),
    }
    for name in LIBRARIES:
      accuracies = {
        title: float(correct[name][key].mean())
        for title, key in _ACCURACIES.items()
      }
      row = {'library': name, 'seed': seed, 'accuracies': accuracies}
      rows.append(row | {'times': times[name]})
  return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns our seconds over NSL's by member and time, and their means."""
  theirs, ours = (
    [row['times'] for row in rows if row['library'] == name]
    for name in LIBRARIES
  )
  ratios: dict[str, Any] = {member: {} for member in MEMBERS}
  for member, of_member in ratios.items():
    for name in _TIMES:
      values = [
        own[member][name] / other[member][name]
        for own, other in zip(ours, theirs, strict=True)
      ]
      of_member[name] = {'seeds': values, 'mean': statistics.fmean(values)}
  return ratios


def tables(rows: Sequence[Mapping[str, Any]], epsilon: float) -> str:
  """Returns accuracies and times as two tables in Markdown, and the ratio."""
  ratios = summarize(rows)['adversarial']
  times = [
    {
      f'{member}: {title}': row['times'][member][key]
      for member in MEMBERS
      for key, title in _TIMES.items()
    }
    for row in rows
  ]
  accuracies = [row['accuracies'] for row in rows]
  return (
    f'Accuracy on the test images; attacks: FGSM {epsilon:g}, clipped to '
    f'[0, 1].\n\n{_with_means(rows, accuracies, ".4f")}'
    f'\n\nTraining.\n\n{_with_means(rows, times, ".2f")}\n\n'
    'Seconds of training with the adversarial objective, advjax / NSL: '
    f'{ratios["seconds"]["mean"]:.3f} '
    f'({ratios["seconds_with_compile"]["mean"]:.3f} with compiling).'
  )


def _with_means(
  rows: Sequence[Mapping[str, Any]],
  values: Sequence[Mapping[str, float]],
  form: str,
) -> str:
  """Writes a line per library and seed, and the means of libraries."""
  lines = [
    [
      f'{row["library"]}, seed {row["seed"]}',
      *(harness.cell(value, form) for value in own.values()),
    ]
    for row, own in zip(rows, values, strict=True)
  ]
  for library in LIBRARIES:
    own = [
      value.values()
      for row, value in zip(rows, values, strict=True)
      if row['library'] == library
    ]
    columns = zip(*own, strict=True)
    cells = [harness.mean_and_std(column, form) for column in columns]
    lines.append([f'{library}, mean ± std', *cells])
  return harness.markdown(['', *values[0]], lines)
