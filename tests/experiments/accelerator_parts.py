"""Parts that measure nothing, in the place of those of the benchmark."""

import os
import pathlib
import sys
import time

from experiments.benchmarks.accelerator import child

RATES = {
  'bfloat16': 2e14,
  'float32': 1e13,
  'float32_default': 5e13,
  'bytes': 1e12,
}
HEADER = {'date': '2026-11-30', 'command': 'a command', 'minutes': 1}
SETTINGS = {
  **{'module': 'tests.experiments.accelerator_parts', 'platform': 'gpu'},
  **{'kind': None, 'rates': None},
}
BEFORE = {'rows': [{'name': 'before', 'step_milliseconds': 2.5}]}


def machine(settings, folder):
  if settings['platform'] is None:
    raise ValueError('there is no accelerator')
  yield {
    **{'device': 'a card', 'platform': 'gpu', 'num_devices': 1},
    **{'memory_gib': 80.0, 'driver': '580.1', 'cpu_cores': 16},
    **{'python': '3.12.3', 'versions': {'jax': '0.11.2', 'torch': None}},
  }
  yield {'rates': RATES}


def steps_nsl(settings, folder):
  assert settings['rates'] == RATES
  yield {'rows': [{'name': 'a network', 'step_milliseconds': 1.5}]}


def fails(settings, folder):
  yield BEFORE
  raise ValueError('no such kernel\nand more')


def crashes(settings, folder):
  os.abort()
  yield BEFORE


def hangs(settings, folder):
  yield BEFORE
  (folder / 'pid').write_text(str(os.getpid()))
  time.sleep(120)


def run_parts(estimates, workdir, **settings):
  """Runs parts by name, which are said to take so many seconds."""
  # Parts start faster without these.
  from advjax.processes.signals import stop_on_signals
  from experiments.benchmarks.accelerator import __main__ as program

  scratch = workdir / 'scratch'
  scratch.mkdir()
  parts = {n: program.Part('', each, {}, 1) for n, each in estimates.items()}
  settings, deadline = SETTINGS | settings, time.monotonic() + 200
  with stop_on_signals() as stop:
    run = program.Run(workdir, scratch, settings, deadline, stop)
    program.run_parts(parts, run, HEADER)


if __name__ == '__main__':
  if sys.argv[1] == 'run':
    run_parts({'machine': 20, 'hangs': 99}, pathlib.Path(sys.argv[2]))
  else:
    child.run(lambda name, *given: globals()[name](*given))
