"""Say where the time of a training step goes, operation by operation.

  python -m experiments.benchmarks.operations --objective=nsl --batch_size=32

from the project's folder, with the Python of .venv. One CPU device, NSL's
network, the compiled loop that `train` runs, under JAX's profiler: for each
operation of the optimized HLO what it computes, its shape, and milliseconds per
step; of its events the fastest fifth counts, which other programs disturb
least. Operations of one kind are then added up, beside the step as a whole and
its floor.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from advjax import cli, data
from advjax.config import check_range, choose
from advjax.devices import replicate, select_devices
from advjax.training.setup import device_inputs
from experiments.benchmarks import floor
from experiments.benchmarks.tables import markdown
from experiments.benchmarks.training import sides
from experiments.benchmarks.training.work import least_work
from experiments.benchmarks.turns import spread

_OPERATION = re.compile(
  r'%?(?P<name>[\w.-]+) = (?P<shape>\S+) [\w-]+\(.*op_name="(?P<path>[^"]*)"'
)
# The last part of an operation's path, and the kind that it belongs to.
KINDS = {
  'dot_general': 'matrix products',
  'transpose': 'matrix products',
  'concatenate': 'patches',
  'slice': 'patches',
  'select_n': 'gradients of pools, ReLUs and patches',
  'pad': 'gradients of pools, ReLUs and patches',
  'psum': 'messages',
}
_LAYER = re.compile(r'(Conv|Dense|BatchNorm)_\d+')


class Operation(NamedTuple):
  """An operation of the optimized program.

  Attributes:
    shape: Of its result.
    layer: Of the network, or ''.
    backward: Whether it belongs to a gradient.
    last: The JAX operation that it comes from, or the last of them.
  """

  shape: str
  layer: str
  backward: bool
  last: str

  @property
  def kind(self) -> str:
    """One of the values of KINDS, or 'the rest'."""
    return KINDS.get(self.last, 'the rest')


def read_operations(hlo: str) -> dict[str, Operation]:
  """Finds the operations of a program, by their names.

  Args:
    hlo: Optimized HLO as text.

  Returns:
    What is known of each.

  Example:
    >>> line = (
    ...   '%dot.1 = f32[2] dot(%a), metadata={op_name="Conv_0/dot_general"}'
    ... )
    >>> read_operations(line)['dot.1'].layer
    'Conv_0'
  """
  found = {}
  for match in _OPERATION.finditer(hlo):
    layer = _LAYER.search(match['path'])
    found[match['name']] = Operation(
      match['shape'].partition('{')[0],
      layer[0] if layer else '',
      'transpose(' in match['path'],
      match['path'].rpartition('/')[2],
    )
  return found


def milliseconds_per_step(
  events: Iterable[tuple[str, float]],
  operations: Mapping[str, Operation],
  num_steps: int,
) -> dict[str, float]:
  """Returns what each operation takes in a step.

  Args:
    events: Names and nanoseconds, over num_steps steps.
    operations: Those that count.
    num_steps: How many steps were traced.

  Returns:
    By name; events of one operation count as its fastest fifth.

  Example:
    >>> operations = {'dot': Operation('f32[2]', '', False, 'dot_general')}
    >>> milliseconds_per_step([('dot', 1e6), ('x', 5.0)], operations, 2)
    {'dot': 0.5}
  """
  taken = collections.defaultdict(list)
  for name, nanoseconds in events:
    if name in operations:
      taken[name].append(nanoseconds)
  return {
    name: sorted(times)[len(times) // 5] * len(times) / num_steps / 1e6
    for name, times in taken.items()
  }


def trace(run: Any, rounds: int) -> list[tuple[str, float]]:
  """Runs something under the profiler; names and nanoseconds of all events."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(rounds):
        run()
    (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    return [
      (event.name, event.duration_ns)
      for plane in planes
      for line in plane.lines
      for event in line.events
    ]


def tables(
  taken: Mapping[str, float], operations: Mapping[str, Operation], top: int
) -> str:
  """Returns the slowest operations, and the sums of their kinds, as tables."""
  slowest = sorted(taken, key=lambda name: -taken[name])
  cells = []
  for name in slowest[:top]:
    each = operations[name]
    where = f'{"backward" if each.backward else "forward"} {each.layer}'
    cells.append([name, each.shape, where, each.last, f'{taken[name]:.3f}'])
  header = ['operation', 'result', 'where', 'computes', 'ms per step']
  kinds: dict[str, float] = collections.defaultdict(float)
  for name, milliseconds in taken.items():
    kinds[operations[name].kind] += milliseconds
  sums = [
    [kind, f'{milliseconds:.2f}']
    for kind, milliseconds in sorted(kinds.items(), key=lambda item: -item[1])
  ]
  return f'{markdown(header, cells)}\n\n{markdown(["kind", "ms"], sums)}'


def main() -> None:
  flag = flags.FLAGS
  choose('--objective:', flag.objective, sides.OBJECTIVES)
  check_range('batch_size', flag.batch_size, 1, 700, integer=True)
  check_range('top', flag.top, 1, integer=True)
  dataset = data.load({'name': 'digits'})
  devices = select_devices('cpu', 1)
  training = sides.our_training(
    flag.objective, flag.batch_size, dataset, devices
  )
  steps = min(20, training.plan.steps_per_epoch - 1)
  run = sides.our_steps(training, steps)
  whole = spread([run() for _ in range(9)][2:]).low
  program: Any = training.train_steps.func
  compiled = program.lower(
    *training.train_steps.args,
    replicate(training.init_state(), training.devices),
    *device_inputs(training),
    np.int32(steps),
  ).compile()
  operations = read_operations(compiled.as_text())
  rounds = 5
  taken = milliseconds_per_step(
    trace(run, rounds), operations, rounds * (steps + 2)
  )
  print(tables(taken, operations, flag.top))
  work = least_work(flag.objective, flag.batch_size, sides.ATTACK_STEPS)
  least = work.seconds(floor.measure_rates(devices))
  print(
    f'\na step: {1e3 * whole:.2f} ms, its operations: '
    f'{sum(taken.values()):.2f} ms, the floor: {1e3 * least:.2f} ms'
  )


if __name__ == '__main__':
  flags.DEFINE_string('objective', 'standard', 'standard, nsl or pgd.')
  flags.DEFINE_integer('batch_size', 32, 'Images of a step.')
  flags.DEFINE_integer('top', 16, 'So many operations are listed.')
  cli.run(main)
