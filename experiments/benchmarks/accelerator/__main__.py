"""Run all benchmarks of an accelerator within a few minutes.

  python -m experiments.benchmarks.accelerator --minutes=10 \\
    --data=cifar10.npz --workdir=DIR

from the project's folder, with any Python that has the training dependencies;
no venv or network access is needed. The npz holds CIFAR-10 (docs/datasets.md
describes it). A list of parts is measured on one device, in order of priority,
each in its own process. A part starts if its estimated time fits into the
remaining time, and is terminated at the end of that, or after three times its
estimate; failures are recorded. accelerator.json and accelerator.md in DIR are
rewritten after every part: a killed benchmark loses only the current part. Runs
and compiled programs are written to temporary folders and the user's cache.

A missing accelerator is an error, except with --platform=cpu, which runs every
part at a tiny size as a test.

Parts, first to last:
"""

import datetime
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags

from advjax import cli
from advjax.config import check_range
from advjax.environment import command_line
from advjax.files import expand, replacing, write_json
from advjax.processes.signals import StopRequest, stop_on_signals
from experiments.benchmarks import harness
from experiments.benchmarks.accelerator.page import page

logger = logging.getLogger('advjax')

_ROOT = pathlib.Path(__file__).parents[3]
_POLL_SECONDS = 0.2
# A part is ended after so many times its estimate.
_LIMIT_FACTOR = 3
# What a network reaches of the measured rate of matrix products, for estimates.
_TYPICAL_SHARES = {'bfloat16': 0.25, 'float32': 0.5}


class Part(NamedTuple):
  """One of the parts."""

  title: str
  seconds: float  # For starting and compiling on an accelerator.
  flops: Mapping[str, float]  # Operations by the rate that bounds them.
  tiny_seconds: float  # At its tiny size, on two CPU cores.
  env: Mapping[str, str] = {}


# Both sides are on the device at once.
_HALF = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.4'}

# Operations, with 1e9 in a forward pass of an image through PreAct ResNet-18
# and 1e10 through WRN-28-10: see docs/performance.md.
_CIFAR10 = 'CIFAR-10, linf 8/255'
_OF_CIFAR10 = {'bfloat16': 3.6e15, 'float32': 1e15}
_OF_SEEDS = {'bfloat16': 7.2e15, 'float32': 4e13}
PARTS = {
  'machine': Part('The machine and its rates', 25, {}, 10),
  'numerics': Part('Numerics against the CPU', 60, {}, 30),
  'cifar10': Part(f'{_CIFAR10}: training and PGD-50-10', 70, _OF_CIFAR10, 20),
  'cifar10_autoattack': Part(
    f'{_CIFAR10}: AutoAttack', 70, {'float32': 2.3e15}, 20
  ),
  'steps_nsl': Part('Training steps: NSL', 30, {'bfloat16': 1e13}, 15),
  'steps_resnet18': Part(
    'Training steps: PGD on a ResNet-18', 40, {'bfloat16': 6e14}, 15
  ),
  'steps_wide_resnet': Part(
    'Training steps: PGD on a WRN-28-10', 60, {'bfloat16': 4e15}, 15
  ),
  'attacks': Part('PGD by precision', 60, {'float32': 2e14}, 15),
  'torch': Part('Beside PyTorch', 70, {'bfloat16': 2e15}, 100, _HALF),
  'torch_compiled': Part(
    'Beside PyTorch with torch.compile', 150, {'bfloat16': 2e15}, 120, _HALF
  ),
  'sweeps': Part('Simultaneous runs', 70, {'float32': 1e14}, 15),
  'tutorial': Part("NSL's tutorial from start to report", 50, {}, 40),
  'tests': Part('Tests that are marked for accelerators', 100, {}, 20),
  'cifar10_seeds': Part(
    f'{_CIFAR10}: two more seeds, PGD-10', 60, _OF_SEEDS, 15
  ),
}


class Run(NamedTuple):
  """What all parts have in common."""

  workdir: pathlib.Path  # Of the results; all else is in `scratch`.
  scratch: pathlib.Path
  settings: dict[str, Any]  # Of a part's process, as JSON.
  deadline: float  # Of `time.monotonic`.
  stop: StopRequest


def run_part(name: str, part: Part, limit: float, run: Run) -> dict[str, Any]:
  """Runs a part in a process of its own, and ends it after `limit` seconds.

  Returns its results so far, `status` ('done', 'failed' or 'stopped'),
  `seconds`, and `reason` unless it is done.
  """
  settings = {**run.settings, 'seconds': limit, 'launcher': os.getpid()}
  write_json(run.scratch / 'settings.json', settings)
  paths = [str(_ROOT), os.environ.get('PYTHONPATH')]
  env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
  # JAX has the CPU beside the platform that the user has named.
  named = os.environ.get('JAX_PLATFORMS', '')
  if named and 'cpu' not in named.split(','):
    env['JAX_PLATFORMS'] = f'{named},cpu'
  start = time.monotonic()
  child = subprocess.Popen(
    [sys.executable, '-P', '-m', run.settings['module'], name, run.scratch],
    env={**env, **part.env},
    stdout=sys.stderr,
    start_new_session=True,
  )
  reason = None
  while child.poll() is None:
    time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - start
    if run.stop.signum is not None:
      reason = f'stopped by {signal.Signals(run.stop.signum).name}'
    elif seconds > limit:
      reason = f'ended after {seconds:.0f} s, its limit'
    if reason and child.poll() is None:
      # With all that it has started.
      os.killpg(child.pid, signal.SIGKILL)
      child.wait()
  found: dict[str, Any] = {}
  path = run.scratch / f'{name}.jsonl'
  for line in path.read_text().splitlines() if path.is_file() else []:
    try:
      found |= json.loads(line)
    except ValueError:  # Half a line, of one that was ended.
      break
  if child.returncode == -signal.SIGKILL and reason:
    status = 'stopped'
  elif child.returncode:
    status = 'failed'
    reason = found.pop('error', f'exit code {child.returncode}')
  else:
    status, reason = 'done', None
  seconds = time.monotonic() - start
  return {**found, 'status': status, 'seconds': seconds, 'reason': reason}


def run_parts(
  parts: Mapping[str, Part], run: Run, header: Mapping[str, Any]
) -> dict[str, Any]:
  """Runs parts while there is time, and writes what is known after each.

  Returns what accelerator.json holds, the header besides. The first part
  measures the rates; if it fails (there is no accelerator, say), ValueError.
  """
  results: dict[str, Any] = {
    name: {'title': part.title, 'status': 'not started'}
    for name, part in parts.items()
  }
  report = {**header, 'parts': results}
  for index, (name, part) in enumerate(parts.items()):
    if run.settings['platform'] == 'cpu':
      estimate = part.tiny_seconds
    else:
      estimate = part.seconds + sum(
        flops / (_TYPICAL_SHARES[rate] * run.settings['rates'][rate])
        for rate, flops in part.flops.items()
      )
    left = run.deadline - time.monotonic()
    entry = {'title': part.title, 'estimate_seconds': estimate}
    if estimate > left:
      reason = f'{left:.0f} s were left, it takes about {estimate:.0f} s'
      results[name] = {**entry, 'status': 'left out', 'reason': reason}
      continue
    results[name] = {**entry, 'status': 'under way'}
    write(run.workdir, report)
    logger.info('%s: about %.0f of %.0f s left', part.title, estimate, left)
    # Without the first one there is nothing; a cold machine is slow.
    limit = min(left, _LIMIT_FACTOR * estimate) if index else left
    found = results[name] = {**entry, **run_part(name, part, limit, run)}
    because = f' ({found["reason"]})' if found['reason'] else ''
    ended = f'{found["status"]} after {found["seconds"]:.0f} s{because}'
    logger.info('%s: %s', name, ended)
    write(run.workdir, report)
    if run.stop.signum is not None:
      break
    if index == 0:
      if found['status'] != 'done':
        raise ValueError(f'{name}: {found["reason"]}')
      run.settings['rates'] = found['rates']
      run.settings['kind'] = found['platform']
  write(run.workdir, report)
  return report


def write(workdir: pathlib.Path, report: Mapping[str, Any]) -> None:
  """Writes both files, each of which appears whole or not at all."""
  write_json(workdir / 'accelerator.json', report)
  try:
    text = page(report)
  except Exception:  # A table is no reason to lose what is measured next.
    logger.exception('accelerator.md is not up to date')
    return
  with replacing(workdir / 'accelerator.md') as file:
    file.write(text.encode())


def main() -> None:
  flag = flags.FLAGS
  check_range('--minutes', flag.minutes, 0.1)
  # The others need the first one.
  chosen = {'machine', *harness.chosen('parts', PARTS)}
  path = expand(flag.data)
  if not path.is_file():
    raise FileNotFoundError(
      f"--data: there is no file '{path}'; docs/datasets.md says how to make it"
    )
  if flag.devices not in (None, 1):
    raise ValueError(f'--devices = {flag.devices}; allowed: 1, it measures one')
  workdir = harness.make_workdir()
  date = datetime.datetime.now(datetime.UTC).date().isoformat()
  header = {'date': date, 'command': command_line(), 'minutes': flag.minutes}
  settings = {
    'module': 'experiments.benchmarks.accelerator.parts',
    'data': str(path.resolve()),
    'kind': None,  # The first part says what these are.
    'rates': None,
  }
  for name in ('platform', 'torch_python', 'keep_compiled'):
    settings[name] = getattr(flag, name)
  deadline = time.monotonic() + 60 * flag.minutes
  with tempfile.TemporaryDirectory() as scratch, stop_on_signals() as stop:
    run = Run(workdir, pathlib.Path(scratch), settings, deadline, stop)
    parts = {name: part for name, part in PARTS.items() if name in chosen}
    report = run_parts(parts, run, header)
  print(page(report))
  print(f'written: {workdir / "accelerator.md"}')
  if stop.signum is not None:
    sys.exit(128 + stop.signum)


if __name__ == '__main__':
  __doc__ = f'{__doc__}' + '\n'.join(
    f'  {name:19} {part.title}' for name, part in PARTS.items()
  )
  harness.define_flags()
  flags.DEFINE_float('minutes', 10.0, 'Time for all parts together.')
  flags.DEFINE_string('data', None, 'CIFAR-10 as npz.', required=True)
  flags.DEFINE_list('parts', list(PARTS), 'Which, in any order.')
  text = 'An interpreter with PyTorch.'
  flags.DEFINE_string('torch_python', sys.executable, text)
  text = "Whether compiled programs go to the user's cache."
  flags.DEFINE_bool('keep_compiled', True, text)
  cli.run(main)
