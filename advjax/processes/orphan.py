"""Ends a process whose launcher is gone."""

import logging
import os
import signal
import threading
import time

from advjax.processes.topology import LAUNCHER

logger = logging.getLogger('advjax')

_POLL_SECONDS = 1
# For a checkpoint; then a second signal ends the process at once.
_GRACE_SECONDS = 90


def end_with_launcher() -> None:
  """Stops this process, by SIGTERM, once the launcher that started it is gone.

  A launcher that is killed tells nobody, and its processes would go on beside
  those of the next start. Does nothing in a process without a launcher.

  Example:
    >>> end_with_launcher()
  """
  launcher = os.environ.get(LAUNCHER)
  if launcher:
    threading.Thread(target=_watch, args=[int(launcher)], daemon=True).start()


def _watch(launcher: int) -> None:
  # It may be gone already: importing takes seconds.
  while os.getppid() == launcher:
    time.sleep(_POLL_SECONDS)
  logger.error('error: the launcher of this process is gone')
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(_GRACE_SECONDS)
  os.kill(os.getpid(), signal.SIGTERM)
