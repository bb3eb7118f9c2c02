"""Joins the processes of a run, and ends all of them where one ends.

A process that waits for another inside a collective does not notice that the
other is gone, and JAX's own answer, a minute later, is an abort with a stack
trace. So every process has a thread that tells the others that it is alive,
by the key-value store of JAX's coordination service (it lives in process 0),
and ends the process, with a message, once another says why it has failed or
falls silent.
"""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import jax

from advjax.processes.place import (
  COORDINATOR,
  EXIT_LOST,
  LAUNCHER,
  Place,
  find_place,
  gpus_of,
)

logger = logging.getLogger('advjax')

# How long to wait for the others at the start; for machines that start minutes
# apart.
JOIN_SECONDS = 'ADVJAX_JOIN_SECONDS'

_SILENT_SECONDS = 40
# JAX's own, for a process whose Python hangs.
_HEARTBEAT_SECONDS = 60
# Process 0 is the last to go, for the others hear from it why.
_FAREWELL_SECONDS = 5
_A_DAY = 86_400_000  # In milliseconds.

# What JAX raises, as one of several kinds of errors, when a peer is gone.
_GONE = re.compile(
  r'Gloo|NCCL|[Cc]onnection (closed|reset)|UNAVAILABLE|[Cc]oordination service'
)


class _Failure(NamedTuple):
  """Why a run ends: who said so first, its exit code and its message."""

  process_id: int
  code: int
  message: str


class Peers:
  """The other processes of a run, once all of them have met."""

  def __init__(self, place: Place) -> None:
    from jax._src import distributed  # JAX has no public way to its store.

    self._place = place
    self._store: Any = distributed.global_state.client
    # Process 0 answers all of them.
    self._pause = 1 + place.num_processes / 100
    # What one that lives needs at most between two signs of life.
    self._rest = 3 * self._pause
    # The last sign of life of each of the others, and when it was new.
    now = time.monotonic()
    self._heard = {
      index: ('', now)
      for index in range(place.num_processes)
      if index != place.process_id
    }
    has_launcher = LAUNCHER in os.environ
    self._obituary = None if has_launcher else _start_obituary(place)
    self._leaving = threading.Lock()
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()
    sys.excepthook = self._end_by_exception

  def _watch(self) -> None:
    count = 0
    while not self._done.wait(self._pause):
      count += 1
      try:
        self._store.key_value_set(
          f'advjax/alive/{self._place.process_id}', str(count), True
        )
        if self._failure():
          self.leave(EXIT_LOST, '')
        alive = dict(self._store.key_value_dir_get('advjax/alive/'))
      except jax.errors.JaxRuntimeError:
        self._lose([0])
      now = time.monotonic()
      for index, (sign, _) in self._heard.items():
        found = alive.get(f'advjax/alive/{index}', '')
        if found != sign:
          self._heard[index] = found, now
      silent = self._silent(_SILENT_SECONDS)
      if silent:
        self._lose(silent)

  def _silent(self, seconds: float) -> list[int]:
    now = time.monotonic()
    return [i for i, (_, last) in self._heard.items() if now - last > seconds]

  def _lose(self, silent: list[int]) -> NoReturn:
    who = ', '.join(f'process {index}' for index in silent) or 'another process'
    self.leave(
      EXIT_LOST,
      f'error: process {self._place.process_id} of '
      f'{self._place.num_processes} has lost {who}: it was killed, or its '
      'machine or network failed. Run the same command again: it goes on from '
      'the last whole checkpoint',
    )

  def _failure(self) -> _Failure | None:
    """Returns what the first process to fail has said, if one has."""
    try:
      found = self._store.key_value_dir_get('advjax/failure/')
    except jax.errors.JaxRuntimeError:  # Process 0 is gone.
      return None
    return _Failure(*json.loads(found[0][1])) if found else None

  def _announce(self, failure: _Failure) -> _Failure:
    """Says why the run ends; returns what another has said before, if so."""
    try:
      self._store.key_value_set('advjax/failure/first', json.dumps(failure))
    except jax.errors.JaxRuntimeError:  # Another has, or process 0 is gone.
      return self._failure() or failure
    return failure

  def leave(self, code: int, message: str) -> NoReturn:
    """Ends this process and, as soon as they notice, all others.

    The first to fail gives its message, and its exit code to all. Python's
    own way to exit would wait for the others, which wait for this one.

    Args:
      code: The exit code.
      message: What to say.
    """
    self._leaving.acquire()  # For good: two threads may want to leave.
    place = self._place
    if place.process_id:  # Where all fail alike, process 0 is to say it.
      time.sleep(0.5)
    first = self._announce(_Failure(place.process_id, code, message))
    if first.process_id == place.process_id:
      logger.error('%s', message)
    self._say_farewell()
    self._drop_obituary()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(first.code)

  def _say_farewell(self) -> None:
    place = self._place
    silent = self._silent(self._rest)
    others = {
      f'advjax/left/{index}' for index in self._heard if index not in silent
    }
    until = time.monotonic() + _FAREWELL_SECONDS
    try:
      self._store.key_value_set(f'advjax/left/{place.process_id}', '', True)
      while place.process_id == 0 and time.monotonic() < until:
        if others <= dict(self._store.key_value_dir_get('advjax/left/')).keys():
          return
        time.sleep(0.05)
    except jax.errors.JaxRuntimeError:
      return

  def lost_by(self, error: BaseException) -> bool:
    """Whether an error says that another process is gone.

    Args:
      error: Any error.

    Returns:
      Whether it is about the network between the processes.
    """
    return isinstance(error, (ValueError, RuntimeError)) and bool(
      _GONE.search(str(error))
    )

  def leave_by(self, error: BaseException) -> NoReturn:
    """Leaves after an error for which `lost_by` is true.

    Args:
      error: The error.
    """
    if not self._failure():
      time.sleep(self._rest + 1)  # Until it shows who.
    logger.info('%s', error)
    self._lose(self._silent(self._rest))

  def _end_by_exception(
    self,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
  ) -> None:
    if self.lost_by(error):
      self.leave_by(error)
    sys.__excepthook__(kind, error, trace)
    who = f'process {self._place.process_id} of {self._place.num_processes}'
    code = 130 if issubclass(kind, KeyboardInterrupt) else 1
    self.leave(code, f'{who} ended by the error above')

  def finish(self) -> None:
    """Waits for the others at the end, which process 0 reaches last."""
    self._store.wait_at_barrier('advjax/finish', _A_DAY)
    self._done.set()
    self._thread.join()
    sys.excepthook = sys.__excepthook__
    jax.distributed.shutdown()
    self._drop_obituary()

  def _drop_obituary(self) -> None:
    if self._obituary:
      self._obituary.communicate(b'\n')


def _start_obituary(place: Place) -> subprocess.Popen:
  """Starts what says that this process has ended if it cannot do so itself.

  Where process 0 is gone, JAX aborts the others at once, and a process that
  is killed says nothing. A launcher of ours speaks for both.
  """
  message = (
    f'error: process {place.process_id} of {place.num_processes} was killed or '
    f'has crashed{", or has lost process 0" if place.process_id else ""}. Run '
    'the same command again: it goes on from the last whole checkpoint'
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
  return Peers(place)


def _join_seconds() -> int:
  text = os.environ.get(JOIN_SECONDS, '110')
  if not re.fullmatch(r'[1-9]\d{0,5}', text):
    raise ValueError(f'{JOIN_SECONDS} = {text!r}; allowed: an integer >= 1')
  return int(text)


def _say_waiting(place: Place) -> None:
  logger.warning(
    'process %d of %d (started by %s) waits for the others',
    place.process_id,
    place.num_processes,
    place.launcher,
  )


def _give_up(place: Place, seconds: int) -> None:
  logger.error(
    'error: process %d of %d has waited %d s (%s) for the others; see what '
    'they say, and whether their machines reach each other',
    place.process_id,
    place.num_processes,
    seconds,
    JOIN_SECONDS,
  )
  os._exit(EXIT_LOST)
