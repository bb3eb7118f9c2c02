"""Trains tiny runs in several processes; a program, for it forks.

Reads a JSON list of groups of jobs, {name, folder, processes, devices, attack,
fault}, and writes {name: {codes, stderr, seconds}}. The jobs of a group run at
once, as they mostly wait. Each process has a folder of its own, as on machines
that share no file system, and works in it; without `attack` it trains alone. A
fault is [process, signal, steps]: this process sends itself the signal once it
has taken so many steps; without a signal (null) it meets an error of its own.
One import serves all.
"""

import json
import os
import pathlib
import signal
import socket
import sys
import time
import traceback

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401  What a run imports when it needs it.

from advjax import cli, data
from advjax.files import write_json
from advjax.processes.collectives import from_main
from advjax.training import loop
from advjax.training.setup import create_training
from advjax.training.workdir import prepare_workdir
from experiments import compare
from tests.training import runs


def plain(leaf):
  """Makes JSON of arrays."""
  return leaf.tolist() if isinstance(leaf, np.ndarray) else leaf


def write_run(workdir, report, found, *_, **__):
  """Without pages and pictures: they are the slow part."""
  (pair,) = (pair for pair in found.images if pair[1] == 'apgd-ce')
  whole = {
    'autoattack': [each.to_json() for each in found.autoattack[pair]],
    'flags': found.predictions[pair],
  }
  write_json(workdir / 'report.json', report | jax.tree.map(plain, whole))
  images = {'/'.join(pair): each for pair, each in found.images.items()}
  np.savez(workdir / 'images.npz', **images)
  return 'the table'


def fail_at(signum, steps):
  """Lets this process fail once it has taken so many steps."""
  taken, add_chunk = 0, loop.add_chunk

  def add(record, metrics, seconds):
    nonlocal taken
    add_chunk(record, metrics, seconds)
    taken += len(metrics['loss'])
    if taken >= steps > taken - len(metrics['loss']):
      if signum is None:
        raise RuntimeError('an error of its own')
      os.kill(os.getpid(), signum)

  loop.add_chunk = add


def train(attack):
  """Trains in the folder `run`."""
  devices, folder = cli.devices_from_flags(), pathlib.Path('run')
  config = runs.config(
    evaluation__attacks=('pgd-3', 'apgd-ce'),
    evaluation__epsilons=(0.05, 0.1),
    monitor__every_epochs=runs.config().num_epochs,  # Less to compile.
  )
  if attack:
    compare.run_members(
      {'model': [config]},
      {'model': folder},
      config,
      folder,
      devices,
      title='several',
    )
  else:
    training = create_training(config, runs.dataset(), devices)
    loop.train(training, from_main(lambda: prepare_workdir(folder, config)))


def child(job, index, port):
  """Is one process of a job; returns its exit code."""
  folder = pathlib.Path(job['folder']) / str(index)
  folder.mkdir(parents=True, exist_ok=True)
  os.chdir(folder)
  place = f'{index}/{job["processes"]}'
  os.environ['ADVJAX_PROCESS'] = os.environ['ADVJAX_LOCAL_PROCESS'] = place
  os.environ['JAX_COORDINATOR_ADDRESS'] = f'127.0.0.1:{port}'
  process, signum, steps = job.get('fault') or (None, 0, 0)
  if process == index:
    fail_at(signum, steps)
  jax.config.update('jax_platforms', 'cpu')
  # Compiled fast rather than well: nothing runs for long.
  jax.config.update('jax_disable_most_optimizations', True)
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  data.load = lambda config: runs.dataset()
  compare.write_run = write_run
  argv = ['several', '--platform=cpu', f'--devices={job["devices"]}']
  try:
    cli.run(lambda: train(job['attack']), argv, processes='together')
  except SystemExit as end:
    return end.code
  except BaseException:
    traceback.print_exc()
    return 99
  return 0


def start(job, index, port):
  """Forks a process of a job, with its stderr and stdout in a file."""
  log = pathlib.Path(job['folder']) / f'{job["name"]}.{index}.log'
  log.parent.mkdir(parents=True, exist_ok=True)
  pid = os.fork()
  if pid:
    return pid, log
  descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(descriptor, 1)
  os.dup2(descriptor, 2)
  code = child(job, index, port)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def run(job):
  """Runs a job to its end, a look at a time; one that hangs is killed."""
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    port = listening.getsockname()[1]
  began = time.monotonic()
  left = {index: start(job, index, port) for index in range(job['processes'])}
  logs = {index: log for index, (_, log) in left.items()}
  codes, seconds = {}, {}
  while left:
    for index, (pid, _) in list(left.items()):
      ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
      if not ended:
        continue
      if os.WIFSTOPPED(status):
        continue
      codes[index] = os.waitstatus_to_exitcode(status)
      seconds[index] = time.monotonic() - began
      del left[index]
    stopped = (job.get('fault') or [None, 0])[:2] == [*left, signal.SIGSTOP]
    if stopped or time.monotonic() - began > 150:
      for pid, _ in left.values():
        os.kill(pid, signal.SIGKILL)
    yield
  # What the last words of a process are may come after it.
  until = time.monotonic() + 0.5
  while time.monotonic() < until:
    yield
  return {
    'codes': [codes[index] for index in sorted(codes)],
    'seconds': [seconds[index] for index in sorted(seconds)],
    'stderr': [logs[index].read_text() for index in sorted(logs)],
  }


def run_at_once(jobs):
  """Runs jobs side by side; returns their results by name."""
  left, results = {job['name']: run(job) for job in jobs}, {}
  while left:
    for name, looks in list(left.items()):
      try:
        next(looks)
      except StopIteration as end:
        results[name] = end.value
        del left[name]
    time.sleep(0.02)
  return results


def main():
  results = {}
  for jobs in json.load(sys.stdin):
    results |= run_at_once(jobs)
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
