"""Run all benchmarks sequentially and print all speed-ups.

  python -m experiments.benchmarks --workdir=runs/performance --data_dir=DIR

from the project's folder, with the Python of .venv, on an otherwise idle
machine: about an hour on two CPU cores. DIR holds data sets of TensorFlow
Datasets, including mnist. Each part is a separate program that can be run
alone, with its own flags, and writes its results to the workdir; --parts reruns
some of them. On accelerators, the comparisons with other libraries are skipped,
since these run on the CPU.

It finally prints performance.md: machine, versions, and all tables.
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
from advjax.files import write_json
from experiments.benchmarks import (
  attacks,
  autoattack,
  harness,
  objectives,
  scaling,
  startup,
  training,
)

logger = logging.getLogger('advjax')

_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


class Part(NamedTuple):
  """One of the benchmarks."""

  title: str
  module: str
  file: str  # The JSON that it writes to its workdir.
  table: Callable[[Mapping[str, Any]], str]
  arguments: tuple[str, ...] = ()  # Of the command, beside --workdir.
  flags: tuple[str, ...] = ()  # Which of this program's flags it takes too.
  has_peers: bool = False  # Whether other libraries, on the CPU, are in it.


def tutorial_table(result: Mapping[str, Any]) -> str:
  """Returns what training took in the main job."""
  rows = [{'name': n, **member} for n, member in result['members'].items()]
  return harness.table(
    rows,
    ('network', 'name', ''),
    ('s of training', 'train_seconds', '.1f'),
    ('ms per step', 'step_milliseconds', '.2f'),
  )


def _part(title: str, module: Any, **others: Any) -> Part:
  """A part that is a module here, with its own FILE and table."""
  return Part(title, module.__name__, module.FILE, module.table, **others)


PARTS = {
  'training': _part(
    'Training steps',
    training,
    flags=('data_dir', 'nsl_venv', 'torch_venv'),
    has_peers=True,
  ),
  'attacks': _part(
    'Attacks', attacks, flags=('torch_venv', 'foolbox_jax_venv'), has_peers=True
  ),
  'autoattack': _part(
    'AutoAttack',
    autoattack,
    arguments=('--norms=linf',),
    flags=('torch_venv',),
    has_peers=True,
  ),
  'startup': _part(
    'From the start of Python to the first step of the main job', startup
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
    objectives.FILE,
    objectives.table,
  ),
  'scaling': _part('Scaling', scaling),
}


def command(
  part: Part, workdir: pathlib.Path, given: Mapping[str, Any]
) -> list[str]:
  """Returns what runs a part."""
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
  code = 'import jax; print(jax.default_backend())'
  result = subprocess.run(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
  )
  return result.stdout.strip()


def page(workdir: pathlib.Path) -> str:
  """Returns all tables that parts have left the numbers of, in Markdown."""
  tables = []
  for name, part in PARTS.items():
    path = workdir / name / part.file
    if not path.is_file():
      continue
    result = json.loads(path.read_text())
    where = harness.environment_line(result['environment'])
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
  names = harness.chosen('parts', PARTS)
  if platform(flags.FLAGS.platform) != 'cpu':
    names = [name for name in names if not PARTS[name].has_peers]
  workdir = harness.make_workdir()
  run_parts(names, workdir, flags.FLAGS.flag_values_dict())
  text = page(workdir)
  (workdir / 'performance.md').write_text(text)
  print(f'\n{text}\nwritten: {workdir / "performance.md"}')


if __name__ == '__main__':
  harness.define_flags()
  flags.DEFINE_list('parts', list(PARTS), 'Which to run.')
  harness.define_data_dir()
  for peer in ('nsl', 'torch', 'foolbox_jax'):
    harness.define_venv_flag(peer)
  cli.run(main)
