"""Measure the seconds of training that a robust network takes, over seeds.

  .venv/bin/python -m experiments.benchmarks.time_to_robust \\
    --config=configs/cifar10_fast.py --workdir=runs/time_to_robust \\
    --platform=gpu --devices=1

from the project's folder. The clock runs from the first step to the last.
Compiling, a step to warm up and bringing the images to the devices stand apart,
and so does attacking: nothing is saved, watched or logged in between. The last
state counts, no other is looked at.

Every trained network is computed in float32 when it is attacked, whatever it
was trained in: rounding must not be what resists. --attacks are those of
`evaluate`; pgd-50-10 is 50 steps of --step_size up the cross-entropy from 10
random starts, of which a misclassified image is kept, else the one of highest
loss. An image counts that is classified correctly, clean and attacked. The
first of the attacks is what --target is about.

The table is printed, and all numbers written to time_to_robust.json.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_dict, config_flags

from advjax import cli, data
from advjax.attacks.specs import AnyAttack
from advjax.config import check_range, seed_configs
from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.logits import predict
from advjax.evaluation.members import parse_attacks
from advjax.files import write_json
from advjax.fractions import parse_number
from advjax.jobs.workdir import prepare_workdir
from advjax.reporting.report import command_line, environment
from advjax.training.setup import Run, create_run
from advjax.types import LogitsFn
from experiments.benchmarks.roofline import step_work
from experiments.benchmarks.time_to_robust import table, timed

logger = logging.getLogger('advjax')


def attack(
  network: LogitsFn,
  attacks: Mapping[str, AnyAttack],
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  *,
  batch_size: int,
  devices: Sequence[jax.Device],
) -> dict[str, float]:
  """Measures accuracy, clean and under each attack.

  Args:
    network: Images to logits.
    attacks: From `parse_attacks`.
    images: float32 `[N, ...]` in the pixel range.
    labels: int `[N]`.
    epsilon: Radius.
    batch_size: Images per device and call.
    devices: The devices.

  Returns:
    Fractions of the images, by 'clean' and the attack; and the seconds that
    each attack took.
  """
  options: dict[str, Any] = {'batch_size': batch_size, 'devices': devices}
  right = predict(network, images, **options) == labels
  row = {'clean': float(right.mean())}
  for name, attacked in attacks.items():
    start = time.perf_counter()
    found = attack_and_predict(
      network,
      {'itself': network},
      attacked,
      images,
      labels,
      [epsilon],
      key=jax.random.key(0),
      norm=attacked.norm,
      **options,
    )
    stands = right & (found.predictions['itself'][0] == labels)
    row[name] = float(stands.mean())
    row[f'{name}_seconds'] = time.perf_counter() - start
  return row


def measure(
  trainings: Sequence[Run],
  attacks: Mapping[str, AnyAttack],
  test: data.Split,
) -> list[dict[str, Any]]:
  """Trains all networks, then attacks them.

  Args:
    trainings: Runs that differ in their seed.
    attacks: From `parse_attacks`.
    test: The images to attack.

  Returns:
    A row for each: its seed, costs and accuracies.
  """
  # First all are trained: the peak of memory is then that of training.
  runs = []
  for training in trainings:
    runs.append(timed.train_timed(training))
    if len(runs) > 1:  # The program is that of the first.
      runs[-1].costs['compile_seconds'] = None
    seconds = runs[-1].costs['train_seconds']
    logger.info('seed %d: trained in %.2f s', training.config.seed, seconds)
  flops = step_work(trainings[0]).flops
  images = np.asarray(data.to_float(test.images))
  rows: list[dict[str, Any]] = []
  for training, trained in zip(trainings, runs, strict=True):
    evaluation = training.config.evaluation
    found = attack(
      timed.float32_network(training, trained),
      attacks,
      images,
      test.labels,
      evaluation.epsilon,
      batch_size=evaluation.batch_size,
      devices=training.devices,
    )
    milliseconds = trained.costs['step_milliseconds']
    row = {
      'seed': training.config.seed,
      **trained.costs,
      'flops_per_step': flops,
      'teraflops_per_second': flops / milliseconds / 1e9,
      **found,
    }
    rows.append(row)
    shown = {name: found[name] for name in ('clean', *attacks)}
    logger.info('seed %d: %s', row['seed'], shown)
  return rows


def read_seeds(
  config: config_dict.ConfigDict, texts: Sequence[str]
) -> list[config_dict.ConfigDict]:
  """Returns the config of each seed.

  Args:
    config: A config whose own `seeds` are empty.
    texts: The seeds.

  Returns:
    Copies of the config.

  Raises:
    ValueError: if they are no integers >= 0, or one is there twice.
  """
  if config.seeds:
    raise ValueError(f'seeds = {config.seeds}; allowed: (), with --seeds')
  if not texts or not all(text.isdecimal() for text in texts):
    raise ValueError(f'--seeds: {texts}; allowed: integers >= 0')
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.seeds = tuple(int(text) for text in texts)
  return list(seed_configs(own).values())


def main() -> None:
  flag = flags.FLAGS
  config = flag.config
  timed.check_trainable(config)
  configs = read_seeds(config, flag.seeds)
  check_range('target', flag.target, 0.0, 1.0)
  step_size = parse_number(flag.step_size)
  evaluation = config.evaluation
  attacks = parse_attacks(
    flag.attacks,
    norm=evaluation.norm,
    bounds=evaluation.bounds,
    step_size=step_size,
  )
  dataset = data.load(config.dataset)
  test = dataset.test
  if flag.num_images is not None:
    most = len(test.labels)
    check_range('num_images', flag.num_images, 1, most, integer=True)
    test = data.Split(
      test.images[: flag.num_images], test.labels[: flag.num_images]
    )
  devices = cli.devices_from_flags()
  trainings = [create_run(own, dataset, devices) for own in configs]
  workdir = prepare_workdir(flag.workdir, config)
  rows = measure(trainings, attacks, test)
  print(table.markdown(rows, list(attacks), flag.target))
  first = next(iter(attacks))
  write_json(
    workdir / 'time_to_robust.json',
    {
      'rows': rows,
      'target': flag.target,
      'reached': [row[first] >= flag.target for row in rows],
      'attacks': {
        name: each.settings(evaluation.epsilon)
        for name, each in attacks.items()
      },
      'epsilon': evaluation.epsilon,
      'num_images': len(test.labels),
      'command': command_line(),
      'environment': environment(devices),
    },
  )
  print(f'\nwritten: {workdir}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
    'config', None, 'configs/FILE.py[:variant]', lock_config=True
  )
  flags.DEFINE_string('workdir', None, 'Folder for the json.', required=True)
  flags.register_validator('workdir', lambda path: path != '', 'is empty')
  flags.DEFINE_list('seeds', ['0', '1', '2'], 'Of the runs.')
  flags.DEFINE_float('target', 0.45, 'Accuracy under the first attack.')
  flags.DEFINE_list('attacks', ['pgd-50-10', 'autoattack'], 'As of evaluate.')
  flags.DEFINE_string('step_size', '2/255', 'Of bim, mifgsm and pgd.')
  flags.DEFINE_integer(
    'num_images', None, 'Attack so many test images, the first; default: all.'
  )
  cli.run(main)
