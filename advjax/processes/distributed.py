"""Joins the processes of a run, and ends all of them where one fails.

A process that has lost another never hangs: a collective fails at once, or
JAX's heartbeat fails within a minute, on which JAX aborts the process. Both end
with a message and exit code 75.
"""

import ctypes
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax

from advjax.processes.topology import (
  COORDINATOR,
  LAUNCHER,
  Place,
  whole_number,
)

logger = logging.getLogger('advjax')

# The exit code of a process that has lost others of its run: not an error of
# its own, the same command resumes.
EXIT_LOST = 75
# How long to wait for the others at the start; for machines that start minutes
# apart.
JOIN_SECONDS = 'ADVJAX_JOIN_SECONDS'

_HEARTBEAT_SECONDS = 60
# How far apart processes may be that fail alike.
_SHUTDOWN_SECONDS = 5
# What a process may take for a checkpoint once its launcher is gone.
_CHECKPOINT_SECONDS = 90

# What JAX raises, as one of several kinds of errors, for a lost process.
_LOST = re.compile(
  r'Gloo|NCCL|[Cc]onnection (closed|reset)|UNAVAILABLE|[Cc]oordination service'
)
_AGAIN = 'Run the same command again: it resumes from the last full checkpoint'

# C has only a pointer to it.
_abort_handler: Callable | None = None


def join(place: Place, gpus: Sequence[int] | None = None) -> None:
  """Joins the processes of a run; to be called before any device is touched.

  A process that waits in vain for the others ends with code 75 after 110 s, or
  as many as ADVJAX_JOIN_SECONDS says. `gpus` are indices of visible ones.
  """
  if place.num_processes == 1:
    return
  method = 'deactivate' if COORDINATOR in os.environ else place.method
  # JAX finds the machine of process 0 by what Open MPI 4 sets, 5 no longer.
  needed = {'ompi': 'OMPI_MCA_orte_hnp_uri', 'slurm': 'SLURM_STEP_NODELIST'}
  unknown = method in needed and not os.environ.get(needed[method])
  if unknown or (method == 'deactivate' and COORDINATOR not in os.environ):
    raise ValueError(
      f'{COORDINATOR} = None; allowed: HOST:PORT of process 0, the same in all '
      'processes'
    )
  if method == 'slurm':
    # JAX would take the same port for all steps of a job.
    job, step = (
      whole_number(os.environ, f'SLURM_{name}_ID') for name in ('JOB', 'STEP')
    )
    os.environ.setdefault(
      'JAX_COORDINATOR_PORT', str(61440 + (job + 97 * step) % 4096)
    )
  seconds = os.environ.get(JOIN_SECONDS, '110')
  if not re.fullmatch(r'[1-9]\d{0,5}', seconds):
    raise ValueError(f'{JOIN_SECONDS} = {seconds!r}; allowed: an integer >= 1')
  # It would take SIGTERM for itself.
  jax.config.update('jax_enable_preemption_service', False)
  waiting = threading.Timer(
    15,
    logger.warning,
    ('%s (started by %s) waits for the others', place.name, place.launcher),
  )
  waiting.daemon = True
  waiting.start()
  _exit_on_abort(
    EXIT_LOST,
    f'error: {place.name} has waited {seconds} s ({JOIN_SECONDS}) for the '
    'others; see their messages, and whether their machines reach each other',
  )
  jax.distributed.initialize(
    num_processes=place.num_processes,
    process_id=place.process_id,
    local_device_ids=gpus,
    cluster_detection_method=method,
    initialization_timeout=int(seconds),
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
  )
  waiting.cancel()
  _exit_on_abort(
    EXIT_LOST,
    f'error: JAX has aborted {place.name}, which most likely has lost another '
    f'process: see its message above. {_AGAIN}',
  )


def _exit_on_abort(code: int, message: str) -> None:
  """Ends this process with a code and a message if JAX aborts it.

  Python's own handlers run in the main thread, which never comes to it.
  """
  global _abort_handler

  def end(signum: int) -> None:
    os.write(2, f'{message}\n'.encode())
    os._exit(code)

  c_signal = ctypes.CDLL(None).signal
  c_signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  c_signal.restype = ctypes.c_void_p
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
  c_signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
  _abort_handler = handler


def explain_loss(place: Place, error: BaseException) -> str | None:
  """Returns the message of an error that a lost process caused, else None."""
  # Gloo's are ValueErrors, others JAX's own.
  kinds = (ValueError, jax.errors.JaxRuntimeError)
  if not isinstance(error, kinds) or not _LOST.search(str(error)):
    return None
  return (
    f'error: {place.name} has lost another process: it has failed, was killed, '
    f'or its machine or network failed. {_AGAIN}. JAX says: '
    f'{str(error).splitlines()[0]}'
  )


def leave(place: Place, code: int, message: str) -> NoReturn:
  """Ends this process, and so all others; where all fail alike, one says it.

  Python's own way to exit would wait for the others, which wait for this one.
  """
  _exit_on_abort(code, message)
  together = threading.Event()

  def shut_down() -> None:
    jax.distributed.shutdown()  # Waits for the others.
    together.set()

  if code != EXIT_LOST:
    threading.Thread(target=shut_down, daemon=True).start()
    together.wait(_SHUTDOWN_SECONDS)
  if place.process_id == 0 or not together.is_set():
    logger.error('%s', message)
  logging.shutdown()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def finish() -> None:
  """Waits for the others at the end, which process 0 may reach last."""
  from jax.experimental import multihost_utils

  # In shutdown, JAX aborts a process that has waited for five minutes; a
  # collective of CPUs waits for half an hour.
  multihost_utils.sync_global_devices('finish')
  jax.distributed.shutdown()


def end_with_launcher() -> None:
  """Stops this process, by SIGTERM, once its launcher, if any, is gone."""
  launcher = os.environ.get(LAUNCHER)
  if launcher:
    threading.Thread(target=_watch, args=[int(launcher)], daemon=True).start()


def _watch(launcher: int) -> None:
  # It may be gone already: importing takes seconds.
  while os.getppid() == launcher:
    time.sleep(1)
  logger.error('error: the launcher of this process is gone')
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(_CHECKPOINT_SECONDS)
  os._exit(128 + signal.SIGTERM)  # It has not ended by itself.
