"""Reads command lines as the mains of experiments/ do, up to the first effect.

Run as a program: takes a JSON list of argument lists, experiment first, and
prints a list of [exit code, output]. A process of its own, for what mains call
is replaced here. All commands share it: imports and what JAX compiles take
longer than the checks. Flags are global, so those of one command are taken away
before the next.
"""

import contextlib
import io
import json
import runpy
import sys
import traceback

import jax
from absl import flags

from advjax import cli, data
from advjax.jobs import workdir
from advjax.training import checkpoint
from tests import stand_ins


class Checked(BaseException):
  """Everything before the first effect went well."""


def stop(*_: object, **__: object) -> None:
  raise Checked


def check(experiment: str, *arguments: str) -> int:
  """Returns the exit code: 0 if the command is good, else as the main's."""
  cli.devices_from_flags = (
    stop if experiment == 'benchmark' else lambda: jax.devices()[:1]
  )
  sys.argv = [f'experiments/{experiment}.py', *arguments]
  try:
    runpy.run_path(sys.argv[0], run_name='__main__')
  except Checked:
    return 0
  except SystemExit as end:
    return int(end.code or 0)
  except BaseException:
    traceback.print_exc()
    return 1
  return 0 if '--help' in arguments else 3


def main() -> None:
  # Before the mains import these names.
  data.load = stand_ins.load  # No command depends on what a machine has.
  # train, compare, sweep: all configs are checked.
  workdir.open_workdir = workdir.prepare_workdir = stop
  checkpoint.checkpoint_directory = stop  # evaluate: so are the attacks.
  common = set(flags.FLAGS)
  results = []
  for command in json.load(sys.stdin):
    with (
      io.StringIO() as output,
      contextlib.redirect_stdout(output),
      contextlib.redirect_stderr(output),
    ):
      code = check(*command)
      results.append([code, output.getvalue()])
    for name in set(flags.FLAGS) - common:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
  print(json.dumps(results))


if __name__ == '__main__':
  main()
