"""Reads command lines as the mains of experiments/ do, up to the first effect.

Run as a program: takes a JSON list of argument lists, experiment first, and
prints a list of [exit code, output]. Flags are global to a process and the
same in several mains, so that every command is read in a child of its own.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import jax
import sklearn.datasets  # noqa: F401 (this and more once, for all children)

import advjax.evaluation.members
import advjax.reporting.run
import advjax.training.setup  # noqa: F401
from advjax import cli, data
from advjax.training import checkpoint, workdir
from tests import stand_ins


class Checked(BaseException):
  """Everything before the first effect went well."""


def stop(*_: object, **__: object) -> None:
  raise Checked


def check(experiment: str, *arguments: str) -> int:
  """Returns the exit code: 0 if the command is good, else as the main's."""
  data.load = stand_ins.load  # No command depends on what a machine has.
  workdir.prepare_workdir = stop  # train, compare: all configs are checked.
  checkpoint.checkpoint_directory = stop  # evaluate: so are the attacks.
  cli.devices_from_flags = lambda: jax.devices()[:1]
  if experiment == 'benchmark':
    cli.devices_from_flags = stop
  sys.argv = [f'experiments/{experiment}.py', *arguments]
  try:
    runpy.run_module(f'experiments.{experiment}', run_name='__main__')
  except Checked:
    return 0
  except SystemExit as end:
    return int(end.code or 0)
  except BaseException:
    traceback.print_exc()
    return 1
  return 0 if '--help' in arguments else 3


def main() -> None:
  results = []
  for command in json.load(sys.stdin):
    with tempfile.TemporaryFile('w+') as output:
      child = os.fork()
      if not child:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = check(*command)
        sys.stdout.flush()
        os._exit(code)
      _, status = os.waitpid(child, 0)
      output.seek(0)
      results.append([os.waitstatus_to_exitcode(status), output.read()])
  print(json.dumps(results))


if __name__ == '__main__':
  main()
