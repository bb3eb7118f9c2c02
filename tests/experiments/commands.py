"""Runs command lines of the experiments, each in a fork of one process.

Reads a JSON list of [experiment, argument, ...] and a folder; writes a list
of {code, stdout, stderr}. One import serves them all.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable

# ruff: noqa: F401  What runs import, some of it when they need it.
import jinja2
import orbax.checkpoint
import sklearn.datasets
import tensorboardX

from advjax.jobs import evaluate, train


def run(experiment: str, *arguments: str) -> int:
  """Runs `python -m experiments.EXPERIMENT` here; returns its exit code."""
  sys.argv = [f'experiments/{experiment}.py', *arguments]
  try:
    runpy.run_module(f'experiments.{experiment}', run_name='__main__')
  except SystemExit as end:
    if end.code is None or isinstance(end.code, int):
      return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


def start(
  command: list[str],
  stderr: int,
  stdout: int | None = None,
  prepare: Callable[[], None] = lambda: None,
) -> int:
  """Starts a command in a fork, prepared there; returns its process id."""
  child = os.fork()
  if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY) if stdout is None else stdout, 1)
    os.dup2(stderr, 2)
    prepare()
    code = run(*command)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return child


def main() -> None:
  results = []
  for command in json.load(sys.stdin):
    with (
      tempfile.TemporaryFile('w+') as stdout,
      tempfile.TemporaryFile('w+') as stderr,
    ):
      child = start(command, stderr.fileno(), stdout.fileno())
      code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
      result = {'code': code}
      for name, stream in (('stdout', stdout), ('stderr', stderr)):
        stream.seek(0)
        result[name] = stream.read()
    results.append(result)
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
