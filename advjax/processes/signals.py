"""Stopping a run from outside: Ctrl-C and the warnings of a scheduler."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# A scheduler warns by SIGTERM; by SIGUSR1 or SIGUSR2 if configured so:
# SLURM's --signal, Grid Engine's -notify, LSF's -wa. A terminal that is closed
# sends SIGHUP.
_SIGNALS = [
  getattr(signal, name)
  for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2')
  if hasattr(signal, name)
]


class Interrupted(Exception):
  """A run was stopped by a signal, after its state was saved."""

  def __init__(self, signum: int) -> None:
    super().__init__(f'stopped by {signal.Signals(signum).name}')
    self.signum = signum


class StopRequest:
  """The signal that requested the run to stop, if any."""

  signum: int | None = None


def stop_signals() -> list[signal.Signals]:
  """Returns the signals that stop a run; without SIGHUP under nohup."""
  return [
    signum
    for signum in _SIGNALS
    if signum.name != 'SIGHUP' or signal.getsignal(signum) != signal.SIG_IGN
  ]


@contextlib.contextmanager
def stop_on_signals(*, interrupt: bool = False) -> Iterator[StopRequest]:
  """Notes the first signal of `stop_signals`; a second one acts as usual.

  Or the first one raises `KeyboardInterrupt(signum)`; a second one ends all.
  Outside the main thread, where Python takes no handlers, nothing changes.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return
  previous = {signum: signal.getsignal(signum) for signum in stop_signals()}

  def restore() -> None:
    for signum, handler in previous.items():
      signal.signal(signum, handler)

  def note(signum: int, frame: FrameType | None) -> None:
    del frame
    request.signum = signum
    restore()
    if interrupt:
      for each in previous:
        signal.signal(each, signal.SIG_DFL)
      raise KeyboardInterrupt(signum)

  for signum in previous:
    signal.signal(signum, note)
  try:
    yield request
  finally:
    restore()
