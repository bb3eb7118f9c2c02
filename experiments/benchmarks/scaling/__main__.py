"""Measure cost against batch size, devices, members and images, and draw it.

  python -m experiments.benchmarks.scaling --workdir=runs/scaling

from the project's folder, with the Python of .venv. The embedded digits and
NSL's network. On a CPU there are as many virtual devices as --devices says;
more of them than cores show what they cost, not what they gain. What is
compared takes turns; medians, and quartiles as a band. It writes scaling.json
and scaling.png.
"""

import os
import pathlib
from typing import Any

from absl import flags

from advjax import cli, data
from advjax.config import check_range, choose
from advjax.environment import environment
from advjax.files import write_json
from experiments.benchmarks.scaling import figure, measure

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for scaling.json and scaling.png.', required=True
)
_AXES = flags.DEFINE_list('axes', list(figure.PANELS), 'Which of the four.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['8', '32', '128', '512'], '')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Cut over devices.')
_MEMBERS = flags.DEFINE_list(
  'members', ['1', '4', '16', '64', '256'], 'Of a sweep.'
)
_IMAGES = flags.DEFINE_list('images', ['64', '256', '1024'], 'Test images.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of which the median is.')


def _integers(flag: Any) -> list[int]:
  for text in flag.value:
    if not text.isdigit() or int(text) < 1:
      raise ValueError(f'--{flag.name}: {text!r}; allowed: integers >= 1')
  return [int(text) for text in flag.value]


def main() -> None:
  axes = [choose('--axes:', name, figure.PANELS) for name in _AXES.value]
  batch_sizes, members, images = map(
    _integers, (_BATCH_SIZES, _MEMBERS, _IMAGES)
  )
  check_range('rounds', _ROUNDS.value, 1, integer=True)
  dataset = data.load({'name': 'digits'})
  most = len(dataset.train.labels) // 2  # Two steps at least.
  for size in (*batch_sizes, _BATCH_SIZE.value):
    check_range('batch_sizes', size, 1, most, integer=True)
  devices = cli.devices_from_flags()
  counts = [n for n in (1, 2, 4, 8, 16) if n <= len(devices)]
  rounds = _ROUNDS.value
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  # More virtual devices than cores are for the second axis alone.
  cores = len(os.sched_getaffinity(0))
  own = devices[: cores if devices[0].platform == 'cpu' else 1]
  measures = {
    'batch_size': lambda: measure.by_batch_size(
      batch_sizes, dataset, own, rounds
    ),
    'devices': lambda: measure.by_devices(
      counts, _BATCH_SIZE.value, dataset, devices, rounds
    ),
    'members': lambda: measure.by_members(members, dataset, own, rounds),
    'images': lambda: measure.by_images(images, dataset, own, rounds),
  }
  results: dict[str, Any] = {}
  for axis in axes:
    results[axis] = measures[axis]()
    for row in results[axis]:
      print(
        f'{row["series"]:12} {axis} {row[axis]:5} {row["seconds"]:9.4f} s',
        flush=True,
      )
    # The last axis takes minutes: what is there is kept.
    figure.draw(results).savefig(workdir / 'scaling.png', dpi=110)
    write_json(
      workdir / 'scaling.json',
      {**results, 'environment': environment(devices)},
    )
  print(f'written: {workdir}')


if __name__ == '__main__':
  cli.run(main)
