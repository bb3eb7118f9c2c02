"""What a step, a sweep and an attack cost, against what they are given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import advjax
from advjax import data
from advjax.attacks.specs import parse_attack
from advjax.devices import replicate
from advjax.models.logits import eval_logits_fn
from advjax.training.setup import create_run, device_inputs
from advjax.training.vmapped import choose_groups
from experiments.benchmarks import floor, sweep
from experiments.benchmarks.training import sides
from experiments.benchmarks.training.work import least_work
from experiments.benchmarks.turns import in_turns, spread, timed

# Images in a round of training steps, at least.
_IMAGES_IN_A_ROUND = 1024
_SWEEP_STEPS = 12

Rows = list[dict[str, Any]]


def _rows(
  runs: Mapping[tuple[str, int], Callable[[], float]], rounds: int, given: str
) -> Rows:
  """Takes runs in turns; `(series, given) -> seconds` as rows."""
  by_name = {f'{series}/{value}': (series, value) for series, value in runs}
  seconds = in_turns({name: runs[key] for name, key in by_name.items()}, rounds)
  rows = []
  for name, (series, value) in by_name.items():
    median, low, high = spread(seconds[name])
    row = {'series': series, given: value, 'seconds': median}
    rows.append(row | {'quartiles': [low, high]})
  return rows


def by_batch_size(
  batch_sizes: Sequence[int],
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  rounds: int,
) -> Rows:
  """Seconds of a training step of each objective against the batch size.

  Args:
    batch_sizes: Which.
    dataset: The embedded digits, or larger ones.
    devices: All of which share a batch.
    rounds: Of which the median is.

  Returns:
    Rows with `series`, `batch_size`, `seconds` and `floor_seconds`.
  """
  rates = floor.measure_rates(devices)
  runs = {}
  for objective in sides.OBJECTIVES:
    for size in batch_sizes:
      training = sides.our_training(objective, size, dataset, devices)
      steps = max(1, min(_IMAGES_IN_A_ROUND, len(training.rows)) // size - 1)
      runs[objective, size] = sides.our_steps(training, steps)
  rows = _rows(runs, rounds, 'batch_size')
  for row in rows:
    work = least_work(row['series'], row['batch_size'], sides.ATTACK_STEPS)
    row['floor_seconds'] = work.seconds(rates)
  return rows


def by_devices(
  counts: Sequence[int],
  batch_size: int,
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  rounds: int,
) -> Rows:
  """Seconds of a training step against the number of devices.

  Args:
    counts: Numbers of devices.
    batch_size: Images of a step, over all of them.
    dataset: What to train on.
    devices: At least the most of the counts.
    rounds: Of which the median is.

  Returns:
    Rows with `series`, `devices` and `seconds`.
  """
  runs = {}
  for objective in sides.OBJECTIVES:
    for count in counts:
      training = sides.our_training(
        objective, batch_size, dataset, devices[:count]
      )
      steps = max(1, _IMAGES_IN_A_ROUND // batch_size)
      runs[objective, count] = sides.our_steps(training, steps)
  return _rows(runs, rounds, 'devices')


def by_members(
  counts: Sequence[int],
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  rounds: int,
) -> Rows:
  """Seconds of a step of all members of a sweep, at once and in turn.

  Args:
    counts: Numbers of members.
    dataset: What to train on.
    devices: The devices.
    rounds: Of which the median is.

  Returns:
    Rows with `series`, `members`, `seconds` and `compile_seconds`.
  """
  at_once = 'map' if devices[0].platform == 'cpu' else 'vmap'
  rows = []
  for count in counts:
    configs = sweep.member_configs(count)
    teams, _ = choose_groups(count, len(devices), configs[0].batch_size)
    ways = {'in turn': 1, at_once: teams} if count > 1 else {'in turn': 1}
    trainings = {
      way: [
        create_run(config, dataset, devices, num_groups=number)
        for config in configs
      ]
      for way, number in ways.items()
    }
    found: dict[str, list[sweep.Round]] = {way: [] for way in ways}
    for _ in range(rounds):
      for way in ways:
        found[way].append(sweep.run_way(way, trainings[way], _SWEEP_STEPS))
    for way, times in found.items():
      steps = spread([each.stepping / _SWEEP_STEPS for each in times])
      compiling = spread([each.compiling for each in times])
      rows.append(
        {
          'series': 'in turn' if way == 'in turn' else 'at once',
          'members': count,
          'seconds': steps.median,
          'quartiles': [steps.low, steps.high],
          'compile_seconds': compiling.median,
        }
      )
  return rows


def by_images(
  counts: Sequence[int],
  dataset: data.Dataset,
  devices: Sequence[jax.Device],
  rounds: int,
  attacks: Sequence[str] = ('pgd-40', 'autoattack'),
) -> Rows:
  """Seconds of an evaluation against the number of images.

  The network is trained for an epoch, so that AutoAttack has something to do.

  Args:
    counts: Numbers of test images, which start again where there are fewer.
    dataset: Whose test images.
    devices: The devices.
    rounds: Of which the median is.
    attacks: Attacks of a radius, and 'autoattack'.

  Returns:
    Rows with `series`, `images` and `seconds`.
  """
  training = sides.our_training('pgd', 32, dataset, devices)
  state = training.init_state()
  steps = device_inputs(training)
  state, _ = training.train_steps(
    replicate(state, training.devices),
    *steps,
    np.int32(training.plan.steps_per_epoch),
  )
  network = eval_logits_fn(
    training.model,
    *jax.tree.map(np.asarray, (state.params, state.model_state)),
  )
  images = np.asarray(data.to_float(dataset.test.images))
  labels = dataset.test.labels
  runs = {}
  for name in attacks:
    for count in counts:
      rows = np.arange(count) % len(labels)
      runs[name, count] = _evaluation(
        name, network, images[rows], labels[rows], devices
      )
  return _rows(runs, rounds, 'images')


def _evaluation(
  name: str,
  network: Any,
  images: np.ndarray,
  labels: np.ndarray,
  devices: Sequence[jax.Device],
) -> Callable[[], float]:
  key = jax.random.key(0)
  common: dict[str, Any] = {'key': key, 'devices': devices}

  def run() -> Any:
    if name == 'autoattack':
      return advjax.autoattack(
        network, images, labels, sides.EPSILON, **common
      ).robust
    attack = {name: parse_attack(name)}
    return advjax.robust_accuracy(
      network, images, labels, attack, sides.EPSILON, **common
    ).worst_case

  return lambda: timed(run)[1]
