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
from collections.abc import Callable, Mapping
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
  """One of the benchmarks, with the flags of this program that it takes too."""

  title: str
  module: str
  file: str  # The JSON that it writes to its workdir.
  table: Callable[[Mapping[str, Any]], str]
  flags: tuple[str, ...] = ()
  arguments: tuple[str, ...] = ()  # Of the command, beside these flags.


def tutorial_table(result: Mapping[str, Any]) -> str:
  """Returns what training took in the main job."""
  rows = [{'name': n, **member} for n, member in result['members'].items()]
  return harness.table(
    rows,
    ('network', 'name', ''),
    ('s of training', 'train_seconds', '.1f'),
    ('ms per step', 'step_milliseconds', '.2f'),
  )


def _part(title: str, module: Any, *options: tuple[str, ...]) -> Part:
  """A part that is a module here, with its own FILE and table."""
  return Part(title, module.__name__, module.FILE, module.table, *options)


_TUTORIAL = "NSL's tutorial on the embedded digits, from start to report"
_START = 'From the start of Python to the first step of the main job'
PARTS = {
  'training': _part(
    'Training steps', training, ('data_dir', 'nsl_venv', 'torch_venv')
  ),
  'attacks': _part('Attacks', attacks, ('torch_venv', 'foolbox_jax_venv')),
  'autoattack': _part(
    'AutoAttack', autoattack, ('torch_venv',), ('--norms=linf',)
  ),
  'startup': _part(_START, startup),
  'tutorial': Part(
    _TUTORIAL,
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


def run_part(name: str, workdir: pathlib.Path) -> None:
  """Runs a part in a process of its own; raises where it fails."""
  part, given = PARTS[name], flags.FLAGS.flag_values_dict()
  logger.info('%s', part.title)
  taken = (*part.flags, 'platform', 'devices')
  start = time.perf_counter()
  result = subprocess.run(
    [
      *(sys.executable, '-m', part.module, f'--workdir={workdir / name}'),
      *part.arguments,
      *(f'--{flag}={given[flag]}' for flag in taken if given[flag] is not None),
    ]
  )
  if result.returncode:
    raise ValueError(
      f'--parts: {name!r} ended with exit code {result.returncode}; what the '
      'others left stays, and --parts runs some of them again'
    )
  seconds = time.perf_counter() - start
  write_json(workdir / name / 'seconds.json', {'seconds': seconds})


def main() -> None:
  names = harness.chosen('parts', PARTS)
  platform = flags.FLAGS.platform
  if not platform:  # Found out without taking the devices from the parts.
    code = 'import jax; print(jax.default_backend())'
    platform = subprocess.check_output([sys.executable, '-c', code], text=True)
  if platform.strip() != 'cpu':
    names = [
      name
      for name in names
      if not any(flag.endswith('_venv') for flag in PARTS[name].flags)
    ]
  workdir = harness.make_workdir()
  for name in names:
    run_part(name, workdir)
  text = page(workdir)
  (workdir / 'performance.md').write_text(text)
  print(f'\n{text}\nwritten: {workdir / "performance.md"}')


if __name__ == '__main__':
  harness.define_flags(data_dir=True)
  flags.DEFINE_list('parts', list(PARTS), 'Which to run.')
  harness.define_venv_flags('nsl', 'torch', 'foolbox_jax')
  cli.run(main)
