"""Run all benchmarks, one after the other, and print every ratio.

  python -m experiments.benchmarks --workdir=runs/performance --data_dir=DIR

from the project's folder, with the Python of .venv, on a machine that has
nothing else to do: about an hour on two CPU cores. DIR holds sets of TensorFlow
Datasets, with mnist. Each part is a program of its own, which can be run alone
with flags of its own; it leaves its numbers in the workdir, and --parts runs
some of them again. Where the devices are no CPUs, the parts that compare with
other libraries are left out, for these run on the CPU here.

The last thing printed is performance.md: machine, versions, and all tables.
"""

import datetime
import json
import logging
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from advjax import cli
from advjax.config import choose
from advjax.files import write_json
from experiments.benchmarks.attacks import rows as attack_rows
from experiments.benchmarks.autoattack import rows as autoattack_rows
from experiments.benchmarks.tables import markdown
from experiments.benchmarks.training import rows as training_rows
from experiments.benchmarks.turns import spread

logger = logging.getLogger('advjax')

_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


class Part(NamedTuple):
  """One of the benchmarks.

  Attributes:
    title: Of its table.
    module: What runs it.
    file: The JSON that it leaves in its workdir.
    table: Makes Markdown of that.
    arguments: Of the command, beside --workdir.
    flags: Which of this program's flags it takes too.
    has_peers: Whether other libraries, on the CPU, are in it.
  """

  title: str
  module: str
  file: str
  table: Callable[[Mapping[str, Any]], str]
  arguments: tuple[str, ...] = ()
  flags: tuple[str, ...] = ()
  has_peers: bool = False


def objectives_table(result: Mapping[str, Any]) -> str:
  """Every objective and attack with our layers, and times as fast as Flax's."""
  header = ['', 'ms per step', 'images/s', "Flax's layers: times as long"]
  header += ['s to compile', 'MiB beside arguments']
  cells = []
  for name, row in result['rows'].items():
    ours = row['advjax']
    step = ours.get('milliseconds_per_step')
    cells.append(
      [
        name,
        None if step is None else f'{step:.2f}',
        f'{ours["images_per_second"]:.0f}',
        f'{row["ratio"]:.2f}',
        f'{ours["compile_seconds"]:.1f}',
        f'{ours["temporary_mib"]:.1f}',
      ]
    )
  return markdown(header, cells)


def startup_table(result: Mapping[str, Any]) -> str:
  """Seconds from Python's start to the first step of the main job."""
  cells = []
  for name, starts in result['rounds'].items():
    seconds = spread([start['seconds'] for start in starts])
    spent = spread([start['processor_seconds'] for start in starts])
    cells.append(
      [
        name,
        f'{seconds.median:.2f}',
        f'{seconds.low:.2f} to {seconds.high:.2f}',
        f'{spent.median:.2f}',
      ]
    )
  return markdown(['cache', 's', 'quartiles', 'processor s'], cells)


def tutorial_table(result: Mapping[str, Any]) -> str:
  """What training took in the main job."""
  cells = [
    [
      name,
      f'{member["train_seconds"]:.1f}',
      f'{member["step_milliseconds"]:.2f}',
    ]
    for name, member in result['members'].items()
  ]
  return markdown(['network', 's of training', 'ms per step'], cells)


def scaling_table(result: Mapping[str, Any]) -> str:
  """Seconds against what was given, all axes below each other."""
  cells = [
    [axis, row['series'], row[axis], f'{row["seconds"]:.4f}']
    for axis, rows in result.items()
    if axis != 'environment'
    for row in rows
  ]
  return markdown(['axis', '', 'given', 's'], cells)


PARTS = {
  'training': Part(
    'Training steps',
    'experiments.benchmarks.training',
    'training_steps.json',
    lambda result: training_rows.table(result['rows']),
    flags=('data_dir', 'nsl_venv', 'torch_venv'),
    has_peers=True,
  ),
  'attacks': Part(
    'Attacks',
    'experiments.benchmarks.attacks',
    'attacks.json',
    lambda result: attack_rows.table(result['rows']),
    flags=('torch_venv', 'foolbox_jax_venv'),
    has_peers=True,
  ),
  'autoattack': Part(
    'AutoAttack',
    'experiments.benchmarks.autoattack',
    'autoattack_benchmark.json',
    lambda result: autoattack_rows.attacks_table(result['attacks']),
    arguments=('--norms=linf',),
    flags=('torch_venv',),
    has_peers=True,
  ),
  'startup': Part(
    'From the start of Python to the first step of the main job',
    'experiments.benchmarks.startup',
    'startup.json',
    startup_table,
  ),
  'tutorial': Part(
    "NSL's tutorial on the embedded digits, from start to report",
    'experiments.compare',
    'report.json',
    tutorial_table,
    arguments=(f'--config={_CONFIGS / "nsl_digits.py"}',),
  ),
  'objectives': Part(
    'Every objective',
    'experiments.benchmark',
    'benchmark.json',
    objectives_table,
  ),
  'scaling': Part(
    'Scaling',
    'experiments.benchmarks.scaling',
    'scaling.json',
    scaling_table,
  ),
}

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder for performance.md, and a folder of each part.',
  required=True,
)
_PARTS = flags.DEFINE_list('parts', list(PARTS), 'Which to run.')
flags.DEFINE_string(
  'data_dir', None, 'Sets of TensorFlow Datasets, with mnist.'
)
flags.DEFINE_string('nsl_venv', None, "NSL's; see the parts.")
flags.DEFINE_string('torch_venv', None, "PyTorch's; see the parts.")
flags.DEFINE_string('foolbox_jax_venv', None, "foolbox's; see the parts.")


def command(
  part: Part, workdir: pathlib.Path, given: Mapping[str, Any]
) -> list[str]:
  """Returns what runs a part.

  Args:
    part: The part.
    workdir: Its folder.
    given: Flags of this program and their values, None where not given.

  Returns:
    The command.
  """
  taken = (*part.flags, 'platform', 'devices')
  return [
    *(sys.executable, '-m', part.module, f'--workdir={workdir}'),
    *part.arguments,
    *(f'--{name}={given[name]}' for name in taken if given[name] is not None),
  ]


def platform(asked: str | None) -> str:
  """Returns where the parts will run, without taking the devices from them."""
  if asked:
    return asked
  command = [sys.executable, '-c', 'import jax; print(jax.default_backend())']
  result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
  return result.stdout.strip()


def page(workdir: pathlib.Path) -> str:
  """Returns all tables as a page in Markdown.

  Args:
    workdir: Where the parts have left their numbers, now or before.

  Returns:
    The text.
  """
  tables = []
  for name, part in PARTS.items():
    path = workdir / name / part.file
    if not path.is_file():
      continue
    result = json.loads(path.read_text())
    where = ', '.join(f'{k} {v}' for k, v in result['environment'].items())
    taken = json.loads((path.parent / 'seconds.json').read_text())['seconds']
    tables.append(
      f'## {part.title}\n\n{where}; {taken:.0f} s\n\n{part.table(result)}\n'
    )
  date = datetime.datetime.now(datetime.UTC).date()
  return '\n'.join([f'{date}\n', *tables])


def run_parts(
  names: Sequence[str], workdir: pathlib.Path, given: Mapping[str, Any]
) -> None:
  """Runs parts, each in a process of its own; raises where one fails."""
  for name in names:
    logger.info('%s', PARTS[name].title)
    start = time.perf_counter()
    result = subprocess.run(command(PARTS[name], workdir / name, given))
    if result.returncode:
      raise ValueError(
        f'--parts: {name!r} ended with exit code {result.returncode}; what '
        'the others left stays, and --parts runs some of them again'
      )
    seconds = time.perf_counter() - start
    write_json(workdir / name / 'seconds.json', {'seconds': seconds})


def main() -> None:
  names = [choose('--parts:', name, PARTS) for name in _PARTS.value]
  if platform(flags.FLAGS.platform) != 'cpu':
    names = [name for name in names if not PARTS[name].has_peers]
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  run_parts(names, workdir, flags.FLAGS.flag_values_dict())
  text = page(workdir)
  (workdir / 'performance.md').write_text(text)
  print(f'\n{text}\nwritten: {workdir / "performance.md"}')


if __name__ == '__main__':
  cli.run(main)
