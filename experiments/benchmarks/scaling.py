"""Measure and plot time over batch size, devices, simultaneous runs and images.

  python -m experiments.benchmarks.scaling --workdir=runs/scaling

from the project's folder, with the Python of .venv. The embedded digits and
NSL's network. On a CPU there are --devices virtual devices; with more devices
than cores, the overhead is measured, not the speed-up. Variants alternate; the
plots show medians, and quartiles as a band. It writes scaling.json and
scaling.png.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure

import advjax
from advjax import cli, data
from advjax.attacks.specs import parse_attack
from advjax.reporting.figures.charts import model_colors
from advjax.training.setup import create_run
from experiments.benchmarks import harness, roofline, runs, sweep
from experiments.benchmarks.harness import Side, TimedRun, spread, timed

FILE = 'scaling.json'
# By axis: the title, the label of x.
PANELS = {
  'batch_size': ('training step', 'images in a batch'),
  'devices': ('training step of 128 images', 'devices'),
  'members': ('step of all runs of a sweep', 'runs'),
  'images': ('evaluation', 'test images'),
}
# Images in a round of training steps, at least.
_IMAGES_IN_A_ROUND = 1024
_SWEEP_STEPS = 12

Rows = list[dict[str, Any]]
Devices = Sequence[jax.Device]


def _row(axis: str, value: int, series: str, seconds: Sequence[float]) -> dict:
  low, median, high = spread(seconds)
  row = {'series': series, axis: value, 'seconds': median}
  return row | {'quartiles': [low, high]}


def _in_turns(
  axis: str, sides: Mapping[tuple[str, int], Side], rounds: int
) -> Rows:
  """Takes `(series, value) -> side` in turns; a row for each."""
  named = {f'{series}/{value}': side for (series, value), side in sides.items()}
  taken = harness.in_turns(named, rounds).seconds
  return [
    _row(axis, value, series, taken[f'{series}/{value}'])
    for series, value in sides
  ]


def by_steps(
  axis: str,
  cases: Mapping[int, tuple[int, Devices]],
  dataset: data.Dataset,
  rounds: int,
) -> Rows:
  """Seconds of a training step of each objective, by batch size and devices."""

  def side(objective: str, size: int, devices: Devices) -> TimedRun:
    training = runs.tutorial(objective, size, dataset, devices)
    images = min(_IMAGES_IN_A_ROUND, len(training.rows))
    return runs.seconds_per_step(training, max(1, images // size - 1))

  sides: dict[tuple[str, int], Side] = {
    (name, value): functools.partial(side, name, *case)
    for name in runs.OBJECTIVES
    for value, case in cases.items()
  }
  return _in_turns(axis, sides, rounds)


def by_batch_size(
  sizes: Sequence[int], dataset: data.Dataset, devices: Devices, rounds: int
) -> Rows:
  """Seconds of a training step of each objective, and of its floor."""
  rates = roofline.measure_rates(devices)
  cases = {size: (size, devices) for size in sizes}
  rows = by_steps('batch_size', cases, dataset, rounds)
  for row in rows:
    work = roofline.least_work(row['series'], row['batch_size'])
    row['floor_seconds'] = work.seconds(rates)
  return rows


def by_members(
  counts: Sequence[int], dataset: data.Dataset, devices: Devices, rounds: int
) -> Rows:
  """Seconds of a step of all runs of a sweep, at once and in turn."""
  at_once = 'map' if devices[0].platform == 'cpu' else 'vmap'
  rows = []
  for count in counts:
    ways = ['in turn', at_once] if count > 1 else ['in turn']
    taken = sweep.measure(
      count, ways, dataset, devices, steps=_SWEEP_STEPS, rounds=rounds
    )
    for way, found in taken.items():
      series = 'in turn' if way == 'in turn' else 'at once'
      compiling, stepping = zip(*found, strict=True)
      row = _row('members', count, series, [s / _SWEEP_STEPS for s in stepping])
      rows.append(row | {'compile_seconds': spread(compiling)[1]})
  return rows


def by_images(
  counts: Sequence[int], dataset: data.Dataset, devices: Devices, rounds: int
) -> Rows:
  """Seconds of PGD-40 and AutoAttack by number of test images.

  The network is trained for an epoch, so that AutoAttack has something to do;
  images start again where there are fewer.
  """
  config = runs.tutorial_config('pgd')
  config.num_epochs = 1
  training = create_run(config, dataset, devices)
  network = runs.float32_network(training, runs.train_timed(training))
  images = np.asarray(data.to_float(dataset.test.images))
  options: dict[str, Any] = {'key': jax.random.key(0), 'devices': devices}

  def side(name: str, count: int) -> TimedRun:
    rows = np.arange(count) % len(images)
    batch = images[rows], dataset.test.labels[rows]

    def run() -> Any:
      given = network, *batch
      if name == 'autoattack':
        return advjax.autoattack(*given, runs.EPSILON, **options).robust
      attack = {name: parse_attack(name)}
      found = advjax.robust_accuracy(*given, attack, runs.EPSILON, **options)
      return found.worst_case

    return lambda: timed(run)[1]

  sides: dict[tuple[str, int], Side] = {
    (name, count): functools.partial(side, name, count)
    for name in ('pgd-40', 'autoattack')
    for count in counts
  }
  return _in_turns('images', sides, rounds)


def draw(results: Mapping[str, Rows]) -> Figure:
  """Draws seconds against what was given, a panel for each axis."""
  figure = Figure(figsize=(3.4 * len(results), 3.2), layout='constrained')
  panels = figure.subplots(1, len(results), squeeze=False)[0]
  for ax, (axis, rows) in zip(panels, results.items(), strict=True):
    title, label = PANELS[axis]
    names = dict.fromkeys(row['series'] for row in rows)
    for series, color in model_colors(names).items():
      own = [row for row in rows if row['series'] == series]
      x = [row[axis] for row in own]
      seconds = [row['seconds'] for row in own]
      ax.plot(x, seconds, 'o-', ms=3, c=color, label=series)
      low, high = zip(*(row['quartiles'] for row in own), strict=True)
      ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
      if 'floor_seconds' in own[0]:
        ax.plot(x, [row['floor_seconds'] for row in own], ':', c=color)
    ax.set(title=title, xlabel=label, xscale='log', yscale='log')
    ax.set_ylabel('seconds')
    ticks = sorted({row[axis] for row in rows})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize='small')
  return figure


def table(result: harness.Row) -> str:
  """Returns seconds against what was given, all axes below each other."""
  rows = [
    {**row, 'axis': axis, 'given': row[axis]}
    for axis in PANELS
    for row in result.get(axis, ())
  ]
  return harness.table(
    rows,
    ('axis', 'axis', ''),
    ('', 'series', ''),
    ('value', 'given', 'd'),
    ('s', 'seconds', '.4f'),
  )


def main() -> None:
  flag = flags.FLAGS
  axes = harness.chosen('axes', PANELS)
  dataset = data.load({'name': 'digits'})
  most = len(dataset.train.labels) // 2  # Two steps at least.
  sizes = harness.integers('batch_sizes', 1, most)
  harness.check_counts('batch_size', high=most)
  members, images = harness.integers('members'), harness.integers('images')
  devices = cli.devices_from_flags()
  by_count = {
    count: (flag.batch_size, devices[:count])
    for count in (1, 2, 4, 8, 16)
    if count <= len(devices)
  }
  workdir, rounds = harness.make_workdir(), flag.rounds
  # More virtual devices than cores are for the second axis alone.
  cores = len(os.sched_getaffinity(0))
  own = devices[: cores if devices[0].platform == 'cpu' else 1]
  measures: dict[str, Callable[[], Rows]] = {
    'batch_size': lambda: by_batch_size(sizes, dataset, own, rounds),
    'devices': lambda: by_steps('devices', by_count, dataset, rounds),
    'members': lambda: by_members(members, dataset, own, rounds),
    'images': lambda: by_images(images, dataset, own, rounds),
  }
  results: dict[str, Rows] = {}
  for axis in axes:
    results[axis] = measures[axis]()
    print(table({axis: results[axis]}), flush=True)
    # The last axis takes minutes: what is there is kept.
    draw(results).savefig(workdir / 'scaling.png', dpi=110)
    harness.save(workdir / FILE, results, devices)


if __name__ == '__main__':
  harness.define_flags(rounds=5)
  flags.DEFINE_list('axes', list(PANELS), 'Which of the four.')
  flags.DEFINE_list('batch_sizes', ['8', '32', '128', '512'], 'Of a step.')
  flags.DEFINE_integer('batch_size', 128, 'Cut over devices.')
  flags.DEFINE_list('members', ['1', '4', '16', '64', '256'], 'Of a sweep.')
  flags.DEFINE_list('images', ['64', '256', '1024'], 'Test images.')
  cli.run(main)
