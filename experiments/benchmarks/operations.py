"""Profile a training step by operation.

  python -m experiments.benchmarks.operations --objective=nsl --batch_size=32

from the project's folder, with the Python of .venv. One CPU device, NSL's
network, the compiled loop of `train`, under JAX's profiler: for each operation
of the optimized HLO its kind, its shape, and milliseconds per step, from the
fastest fifth of its events, which are least affected by other programs. A
second table has the sum per kind, the total step and its roofline.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from absl import flags

from advjax import cli, data
from advjax.config import choose
from advjax.devices import select_devices
from experiments.benchmarks import harness, roofline, runs

_OPERATION = re.compile(
  r'%?(?P<name>[\w.-]+) = (?P<shape>\S+) [\w-]+\(.*op_name="(?P<path>[^"]*)"'
)
# The last part of an operation's path, and the kind that it belongs to.
KINDS = {
  'dot_general': 'matrix products',
  'transpose': 'matrix products',
  'concatenate': 'patches (im2col)',
  'slice': 'patches (im2col)',
  'select_n': 'gradients of pooling, ReLUs and patches',
  'pad': 'gradients of pooling, ReLUs and patches',
  'psum': 'collectives',
}
_LAYER = re.compile(r'(Conv|Dense|BatchNorm)_\d+')


def read_operations(hlo: str) -> dict[str, dict[str, str]]:
  """Finds the operations of a program in optimized HLO, by their names.

  Of each: the shape of its result, the JAX operation that it comes from (or the
  last of them) and where it belongs to, a gradient or not and a layer.
  """
  found = {}
  for match in _OPERATION.finditer(hlo):
    path = match['path']
    direction = 'backward' if 'transpose(' in path else 'forward'
    layer = _LAYER.search(path)
    found[match['name']] = {
      'shape': match['shape'].partition('{')[0],
      'where': f'{direction} {layer[0] if layer else ""}',
      'last': path.rpartition('/')[2],
    }
  return found


def milliseconds_per_step(
  run: Callable[[], Any],
  rounds: int,
  operations: Collection[str],
  num_steps: int,
) -> dict[str, float]:
  """Returns what each operation takes in a step, under the profiler."""
  taken = collections.defaultdict(list)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(rounds):
        run()
    (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
      for line in plane.lines:
        for event in line.events:
          if event.name in operations:
            taken[event.name].append(event.duration_ns)
  return {
    name: sorted(times)[len(times) // 5] * len(times) / num_steps / 1e6
    for name, times in taken.items()
  }


def tables(
  taken: Mapping[str, float],
  operations: Mapping[str, Mapping[str, str]],
  top: int,
) -> str:
  """Returns the slowest operations, and the sums of their kinds, as tables."""
  kinds: dict[str, float] = collections.defaultdict(float)
  rows = []
  for name, milliseconds in sorted(taken.items(), key=lambda x: -x[1]):
    row = {**operations[name], 'name': name, 'milliseconds': milliseconds}
    rows.append(row)
    kinds[KINDS.get(operations[name]['last'], 'others')] += milliseconds
  slowest = harness.table(
    rows[:top],
    ('operation', 'name', ''),
    ('result', 'shape', ''),
    ('where', 'where', ''),
    ('computes', 'last', ''),
    ('ms per step', 'milliseconds', '.3f'),
  )
  sums = sorted(kinds.items(), key=lambda item: -item[1])
  text = harness.markdown(['kind', 'ms'], [[k, f'{ms:.2f}'] for k, ms in sums])
  return f'{slowest}\n\n{text}'


def main() -> None:
  flag = flags.FLAGS
  choose('--objective', flag.objective, runs.OBJECTIVES)
  harness.check_counts('batch_size', high=700)
  harness.check_counts('top')
  dataset = data.load({'name': 'digits'})
  devices = select_devices('cpu', 1)
  training = runs.tutorial(flag.objective, flag.batch_size, dataset, devices)
  steps = min(20, training.plan.steps_per_epoch - 1)
  run = runs.seconds_per_step(training, steps)
  whole, _, _ = harness.spread([run() for _ in range(9)][2:])
  program: Any = training.train_steps.func
  compiled = program.lower(*runs.step_arguments(training, steps)).compile()
  operations = read_operations(compiled.as_text())
  taken = milliseconds_per_step(run, 5, operations, 5 * (steps + 2))
  print(tables(taken, operations, flag.top))
  work = roofline.least_work(flag.objective, flag.batch_size)
  least = work.seconds(roofline.measure_rates(devices))
  print(
    f'\na step: {1e3 * whole:.2f} ms, its operations: '
    f'{sum(taken.values()):.2f} ms, the roofline: {1e3 * least:.2f} ms'
  )


if __name__ == '__main__':
  flags.DEFINE_string('objective', 'standard', 'standard, nsl or pgd.')
  flags.DEFINE_integer('batch_size', 32, 'Images of a step.')
  flags.DEFINE_integer('top', 16, 'So many operations are listed.')
  cli.run(main)
