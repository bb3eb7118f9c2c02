"""Measure the training time to a given robust accuracy, over seeds.

  .venv/bin/python -m experiments.benchmarks.time_to_robust \\
    --config=configs/cifar10_fast.py --workdir=runs/time_to_robust \\
    --platform=gpu --devices=1

from the project's folder. Training is timed from the first step to the last.
Compilation, one warm-up step, the transfer of the images and the attacks are
timed separately; there is no checkpointing, monitoring or logging in the timed
region. Only the final state is evaluated.

Every network is attacked in float32, whatever the dtype of its training, so
that robustness is not due to rounding. --attacks are those of `evaluate`;
pgd-50-10 maximises the cross-entropy in 50 steps of --step_size from 10 random
starts, and returns a misclassified image if there is any, else the one of
highest loss. An image counts as robust if both the clean and the adversarial
image are classified correctly. --target refers to the first of the attacks.

The table is printed, and all results are written to time_to_robust.json.
"""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_dict, config_flags

from advjax import cli, data
from advjax.attacks.specs import Attack
from advjax.config import MAX_SEED, check_range, seed_configs
from advjax.devices import Batching
from advjax.environment import command_line
from advjax.evaluation.logits import compute_logits
from advjax.evaluation.models import parse_attacks
from advjax.evaluation.robustness import attack_and_predict
from advjax.fractions import parse_number
from advjax.jobs.workdir import prepare_workdir
from advjax.training.setup import Run, create_run
from advjax.types import LogitsFn
from experiments.benchmarks import harness, runs
from experiments.benchmarks.roofline import step_work

logger = logging.getLogger('advjax')

FILE = 'time_to_robust.json'


def attack(
  network: LogitsFn,
  attacks: Mapping[str, Attack],
  test: data.Split,
  epsilon: float,
  batching: Batching,
) -> dict[str, float]:
  """Measures accuracy, clean and under each attack."""
  images, labels = np.asarray(data.to_float(test.images)), test.labels
  correct = compute_logits(network, images, batching).argmax(-1) == labels
  row = {'clean': float(correct.mean())}
  for name, attacked in attacks.items():
    start = time.perf_counter()
    found = attack_and_predict(
      *(network, {'itself': network}, attacked, images, labels, [epsilon]),
      batching,
      norm=attacked.norm,
    )
    # An attack may lead a misclassified image back to its class.
    robust = correct & (found.predictions['itself'][0] == labels)
    row[name] = float(robust.mean())
    row[f'{name}_seconds'] = time.perf_counter() - start
  return row


def measure(
  trainings: Sequence[Run], attacks: Mapping[str, Attack], test: data.Split
) -> list[dict[str, Any]]:
  """Trains all networks, then attacks them."""
  # First all are trained: the peak of memory is then that of training.
  found = []
  for training in trainings:
    found.append(runs.train_timed(training))
    if len(found) > 1:  # The program is that of the first.
      found[-1].costs['compile_seconds'] = None
    seconds = found[-1].costs['train_seconds']
    logger.info('seed %d: trained in %.2f s', training.config.seed, seconds)
  flops = step_work(trainings[0]).flops
  rows: list[dict[str, Any]] = []
  for training, trained in zip(trainings, found, strict=True):
    seed, evaluation = training.config.seed, training.config.evaluation
    network = runs.float32_network(training, trained)
    batching = Batching(evaluation.batch_size, training.devices)
    accuracies = attack(network, attacks, test, evaluation.epsilon, batching)
    row = {'seed': seed, **trained.costs, 'flops_per_step': flops}
    rate = flops / row['step_milliseconds'] / 1e9
    rows.append({**row, 'teraflops_per_second': rate, **accuracies})
    shown = {name: accuracies[name] for name in ('clean', *attacks)}
    logger.info('seed %d: %s', seed, shown)
  return rows


def table(
  rows: Sequence[Mapping[str, Any]], attacks: Sequence[str], target: float
) -> str:
  """Returns costs and accuracies by seed, their mean and standard deviation."""
  columns: list[tuple[str, str, str]] = [
    ('s', 'train_seconds', '.2f'),
    ('ms per step', 'step_milliseconds', '.3f'),
    ('images/s', 'images_per_second', ',.0f'),
    ('TFLOP/s', 'teraflops_per_second', '.2f'),
    ('peak MiB', 'peak_mib', ',.0f'),
    ('compiling, s', 'compile_seconds', '.1f'),
    *((name, name, '.2%') for name in ('clean', *attacks)),
  ]
  shown = []
  for row in rows:
    reached = 'yes' if row[attacks[0]] >= target else 'no'
    shown.append({**row, 'seed': str(row['seed']), 'reached': reached})
  if len(rows) > 1:
    for name, summary in (
      ('mean', statistics.fmean),
      ('std', statistics.stdev),
    ):
      line: dict[str, Any] = {'seed': name}
      for _, key, _ in columns:
        values = [row[key] for row in rows]
        line[key] = None if None in values else summary(values)
      shown.append(line)
  for line in shown:
    line.update({key: 'n/a' for key, value in line.items() if value is None})
  title = f'{100 * target:g} % reached'
  return harness.table(
    shown, ('seed', 'seed', ''), *columns, (title, 'reached', '')
  )


def read_seeds(
  config: config_dict.ConfigDict, seeds: Sequence[int]
) -> list[config_dict.ConfigDict]:
  """Returns the config of each seed, if the config has no seeds of its own."""
  if config.seeds:
    raise ValueError(f'seeds = {config.seeds}; allowed: (), with --seeds')
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.seeds = tuple(seeds)
  return list(seed_configs(own).values())


def main() -> None:
  flag = flags.FLAGS
  config = flag.config
  runs.check_trainable(config)
  configs = read_seeds(config, harness.integers('seeds', 0, MAX_SEED))
  check_range('--target', flag.target, 0.0, 1.0)
  evaluation = config.evaluation
  attacks = parse_attacks(
    flag.attacks,
    norm=evaluation.norm,
    bounds=evaluation.bounds,
    step_size=parse_number(flag.step_size, '--step_size'),
  )
  dataset = data.load(config.dataset)
  test = dataset.test
  if flag.num_images is not None:
    harness.check_counts('num_images', high=len(test.labels))
    test = data.Split(*(x[: flag.num_images] for x in test))
  devices = cli.devices_from_flags()
  trainings = [create_run(own, dataset, devices) for own in configs]
  workdir = prepare_workdir(flag.workdir, config)
  rows = measure(trainings, attacks, test)
  print(table(rows, list(attacks), flag.target))
  first = next(iter(attacks))
  result = {
    'rows': rows,
    'target': flag.target,
    'reached': [row[first] >= flag.target for row in rows],
    'attacks': {
      name: each.settings(evaluation.epsilon) for name, each in attacks.items()
    },
    'epsilon': evaluation.epsilon,
    'num_images': len(test.labels),
    'command': command_line(),
  }
  harness.save(workdir / FILE, result, devices)


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
    'config', None, 'configs/FILE.py[:variant]', lock_config=True
  )
  harness.define_flags()
  flags.DEFINE_list('seeds', ['0', '1', '2'], 'Of the runs.')
  flags.DEFINE_float('target', 0.45, 'Accuracy under the first attack.')
  flags.DEFINE_list('attacks', ['pgd-50-10', 'autoattack'], 'As of evaluate.')
  flags.DEFINE_string('step_size', '2/255', 'Of bim, mifgsm and pgd.')
  flags.DEFINE_integer(
    'num_images', None, 'Attack so many test images, the first; default: all.'
  )
  cli.run(main)
