"""Joins the processes of a run, and ends all of them where one ends.

Where a process is lost, a collective of the others fails, or JAX's heartbeat
notices and aborts them. Both are said in plain words here.
"""

import logging
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from typing import NoReturn

import jax

from advjax.processes.topology import (
  COORDINATOR,
  EXIT_LOST,
  JOINED,
  LAUNCHER,
  Place,
  find_place,
  gpus_of,
)

logger = logging.getLogger('advjax')

# How long to wait for the others at the start; for machines that start minutes
# apart.
JOIN_SECONDS = 'ADVJAX_JOIN_SECONDS'

# After which JAX aborts the others, where no collective has failed before.
_HEARTBEAT_SECONDS = 60
# How far apart processes may be that fail alike, and those that finish.
_SHUTDOWN_SECONDS = 5

# What JAX raises, as one of several kinds of errors, when a peer is gone.
_LOST = re.compile(
  r'Gloo|NCCL|[Cc]onnection (closed|reset)|UNAVAILABLE|[Cc]oordination service'
)


class Peers:
  """The other processes of a run, once all of them have joined."""

  def __init__(self, place: Place) -> None:
    self._place = place
    # A launcher of ours says how its processes end.
    self._watchdog = None if LAUNCHER in os.environ else _start_watchdog(place)

  def ending(self, error: BaseException) -> tuple[int, str] | None:
    """Explains an error that says that another process is lost.

    Args:
      error: Any error.

    Returns:
      Exit code and message; None for any other error.
    """
    # Gloo's are ValueErrors, others JAX's own.
    kinds = (ValueError, jax.errors.JaxRuntimeError)
    if not isinstance(error, kinds) or not _LOST.search(str(error)):
      return None
    return EXIT_LOST, (
      f'error: {self._place.name} has lost another process: it has failed, was '
      'killed, or its machine or network failed. Run the same command again: '
      f'it resumes from the last whole checkpoint. JAX says: '
      f'{str(error).splitlines()[0]}'
    )

  def leave(self, code: int, message: str) -> NoReturn:
    """Ends this process, and so all others; where all fail alike, one says it.

    Python's own way to exit would wait for the others, which wait for this one.

    Args:
      code: The exit code.
      message: What to say.
    """
    is_first = self._place.process_id == 0
    speaks = is_first or code == EXIT_LOST
    if speaks:
      logger.error('%s', message)
    if code == EXIT_LOST:
      # Others may not have noticed yet; without process 0, JAX aborts them.
      time.sleep(3 if is_first else 1)
    elif not _shut_down_with_all() and not speaks:
      logger.error('%s', message)
    self._stop_watchdog()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

  def finish(self) -> None:
    """Waits for the others at the end, which process 0 may reach last."""
    from jax.experimental import multihost_utils

    # In shutdown, JAX aborts a process that has waited for five minutes; a
    # collective of CPUs waits for half an hour.
    multihost_utils.sync_global_devices('finish')
    jax.distributed.shutdown()
    self._stop_watchdog()

  def _stop_watchdog(self) -> None:
    if self._watchdog:
      self._watchdog.communicate(b'\n')


def _shut_down_with_all() -> bool:
  """Whether all processes shut down within a few seconds."""
  # JAX waits for minutes, then aborts.
  done = threading.Event()

  def shut_down() -> None:
    jax.distributed.shutdown()
    done.set()

  threading.Thread(target=shut_down, daemon=True).start()
  return done.wait(_SHUTDOWN_SECONDS)


def _start_watchdog(place: Place) -> subprocess.Popen:
  """Starts what says that this process was aborted or killed."""
  message = (
    f'error: {place.name} was killed, has crashed or has lost another process. '
    'Run the same command again: it resumes from the last whole checkpoint'
  )
  # Its input ends with this process; a line of it says that all is well.
  script = 'read -r line || printf "%s\\n" "$1" >&2'
  return subprocess.Popen(
    ['sh', '-c', script, 'sh', message],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    process_group=0,
  )


def join(
  place: Place | None = None, platform: str | None = None
) -> Peers | None:
  """Joins the processes of a run; to be called before any device is touched.

  A process that waits in vain for the others ends after 110 s, or as many as
  ADVJAX_JOIN_SECONDS says, for machines that start minutes apart.

  Args:
    place: Of this process; default: what its environment says.
    platform: 'cpu', 'gpu' or 'tpu', where it is known.

  Returns:
    The others; None for a process on its own.

  Raises:
    ValueError: if the environment makes no sense, or the processes of a
      machine cannot share its GPUs.

  Example:
    >>> join() is None
    True
  """
  place = place or find_place()
  if place.num_processes == 1:
    return None
  method = 'deactivate' if COORDINATOR in os.environ else place.method
  # JAX finds the machine of process 0 by what Open MPI 4 leaves, 5 no more.
  unknown = method == 'ompi' and 'OMPI_MCA_orte_hnp_uri' not in os.environ
  if unknown or (method == 'deactivate' and COORDINATOR not in os.environ):
    raise ValueError(
      f'{COORDINATOR} is not set; give HOST:PORT of process 0, the same to all '
      'processes'
    )
  if method == 'slurm':
    # JAX would take the same port for all steps of a job.
    step = int(os.environ['SLURM_JOB_ID']) + 97 * int(
      os.environ['SLURM_STEP_ID']
    )
    os.environ.setdefault('JAX_COORDINATOR_PORT', str(61440 + step % 4096))
  seconds = _join_seconds()
  gpus = gpus_of(place) if platform in (None, 'gpu') else None
  # It would take SIGTERM for itself.
  jax.config.update('jax_enable_preemption_service', False)
  waiting = threading.Timer(15, _say_waiting, (place,))
  alone = threading.Timer(seconds, _give_up, (place, seconds))
  for timer in (waiting, alone):
    timer.daemon = True
    timer.start()
  jax.distributed.initialize(
    num_processes=place.num_processes,
    process_id=place.process_id,
    local_device_ids=gpus,
    cluster_detection_method=method,
    # JAX ends it by an abort; ours is to come first.
    initialization_timeout=seconds + 30,
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
  )
  for timer in (waiting, alone):
    timer.cancel()
  if JOINED in os.environ:
    pathlib.Path(os.environ[JOINED]).touch()
  return Peers(place)


def _join_seconds() -> int:
  text = os.environ.get(JOIN_SECONDS, '110')
  if not re.fullmatch(r'[1-9]\d{0,5}', text):
    raise ValueError(f'{JOIN_SECONDS} = {text!r}; allowed: an integer >= 1')
  return int(text)


def _say_waiting(place: Place) -> None:
  logger.warning(
    '%s (started by %s) waits for the others', place.name, place.launcher
  )


def _give_up(place: Place, seconds: int) -> None:
  logger.error(
    'error: %s has waited %d s (%s) for the others; see what they say, and '
    'whether their machines reach each other',
    place.name,
    seconds,
    JOIN_SECONDS,
  )
  os._exit(EXIT_LOST)
