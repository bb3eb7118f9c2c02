"""Runs `train` in several processes; a program, for it forks.

Reads a JSON list of groups of jobs, {name, processes, devices, flags, fault},
and writes {name: {codes, stderr, seconds}}. The jobs of a group run at the same
time. Each process works in a folder of its own, NAME/INDEX or that of the job
`resumes`, as on machines that share no file system. With a fault [process,
signal] this process sends itself the signal in training. Without flags, a job
only communicates, and processes end by their fault: a signal, or the error
'bug' or 'input'. Only those `started` are started, where a job says so. One
import serves all.
"""

import io
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import traceback

# ruff: noqa: F401  What a run imports when it needs it.
import jax
import jinja2
import numpy as np
import orbax.checkpoint
import scipy.stats
import tensorboardX
from matplotlib.figure import Figure

from advjax import cli, commands
from advjax.config import check_range
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits
from advjax.processes.collectives import from_main, sum_over_processes


def send_in_training(signum):
  """Sends this process a signal once process 0 has logged some metrics."""
  metrics = pathlib.Path('../0/run/metrics.jsonl')
  size = metrics.stat().st_size if metrics.exists() else 0

  def wait():
    while not metrics.exists() or metrics.stat().st_size == size:
      time.sleep(0.002)
    os.kill(os.getpid(), signum)

  threading.Thread(target=wait, daemon=True).start()


def communicate(fault):
  """Maps a network, then adds up numbers until something happens."""
  devices = cli.devices_from_flags()  # Before JAX starts.
  assert sum_over_processes(1) == jax.process_count()
  weights = np.arange(12, dtype=np.float32).reshape(4, 3)
  network = jax.tree_util.Partial(
    lambda w, x: x.reshape(len(x), -1) @ w,
    jax.device_put(weights, jax.local_devices()[0]),
  )
  images = np.arange(40, dtype=np.float32).reshape(10, 2, 2, 1)
  batching = Batching(2, tuple(devices))
  np.save('logits.npy', compute_logits(network, images, batching=batching))
  np.save('expected.npy', images.reshape(10, 4) @ weights)

  if fault == 'input':
    from_main(lambda: check_range('seed', -1, 0, integer=True))
  elif fault == 'bug':
    raise RuntimeError('a bug')
  elif fault is not None:
    os.kill(os.getpid(), fault)
  while True:
    sum_over_processes(1)


def child(job, index, folder, port):
  """Is one process of a job; returns its exit code."""
  folder.mkdir(parents=True, exist_ok=True)
  os.chdir(folder)
  place = f'{index}/{job["processes"]}'
  os.environ['ADVJAX_PROCESS'] = os.environ['ADVJAX_LOCAL_PROCESS'] = place
  os.environ['JAX_COORDINATOR_ADDRESS'] = f'127.0.0.1:{port}'
  os.environ['ADVJAX_JOIN_SECONDS'] = str(job.get('wait_seconds', 60))
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  process, fault = job.get('fault') or (None, None)
  fault = fault if process in (index, 'all') else None
  sys.argv = [
    'experiments/train.py',
    '--platform=cpu',
    f'--devices={job["devices"]}',
  ]
  main = commands.train
  if 'flags' in job:
    cli.define_config_flags()
    sys.argv += job['flags']
    if fault:
      send_in_training(fault)
  else:
    main = lambda: communicate(fault)  # noqa: E731
  try:
    cli.run(main, processes='together')
  except SystemExit as end:
    return end.code
  except BaseException:
    traceback.print_exc()
    return 99
  return 0


def run(root, job):
  """Runs a job to its end, a look at a time; one that hangs is killed."""
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    port = listening.getsockname()[1]
  began, left, logs = time.monotonic(), {}, []
  for index in job.get('started', range(job['processes'])):
    logs.append(root / f'{job["name"]}.{index}.log')
    pid = os.fork()
    if pid:
      left[pid] = index
      continue
    descriptor = os.open(logs[-1], os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    folder = root / job.get('resumes', job['name']) / str(index)
    code = child(job, index, folder, port)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  codes = {}
  while left:
    yield
    for pid in list(left):
      ended, status = os.waitpid(pid, os.WNOHANG)
      if ended:
        codes[left.pop(pid)] = os.waitstatus_to_exitcode(status)
    # A frozen process is alone in the end.
    frozen = len(left) == 1 < len(logs) and signal.SIGSTOP in job.get(
      'fault', []
    )
    if frozen or time.monotonic() - began > 120:
      for pid in left:
        os.kill(pid, signal.SIGKILL)
  return {
    'codes': [codes[index] for index in sorted(codes)],
    'stderr': [log.read_text() for log in logs],
    'seconds': time.monotonic() - began,
  }


def main():
  # One picture for all: they take most of the time of a report.
  picture = io.BytesIO()
  Figure(figsize=(1, 1), dpi=10).savefig(picture)
  Figure.savefig = lambda _, file, **__: file.write(picture.getvalue())
  root, results = pathlib.Path(sys.argv[1]), {}
  for jobs in json.load(sys.stdin):
    left = {job['name']: run(root, job) for job in jobs}
    while left:
      for name, looks in list(left.items()):
        try:
          next(looks)
        except StopIteration as end:
          results[name] = end.value
          del left[name]
      time.sleep(0.02)
  json.dump(results, sys.stdout)


if __name__ == '__main__':
  main()
