"""Stopping on signals."""

import os
import signal
import threading

import pytest

from advjax.processes.signals import Interrupted, stop_on_signals, stop_signals


@pytest.mark.parametrize('signum', stop_signals())
def test_the_first_signal_is_noted_and_a_second_acts(signum):
  def usual(signum, frame):
    raise InterruptedError

  before = signal.signal(signum, usual)
  try:
    with stop_on_signals() as stop:
      assert stop.signum is None
      signal.raise_signal(signum)
      assert stop.signum == signum
      with pytest.raises(InterruptedError):
        signal.raise_signal(signum)
    assert signal.getsignal(signum) is usual
  finally:
    signal.signal(signum, before)


def test_handlers_come_back_without_a_signal():
  before = [signal.getsignal(s) for s in signal.Signals]
  with pytest.raises(KeyError), stop_on_signals():
    raise KeyError
  after = [signal.getsignal(s) for s in signal.Signals]
  assert after == before


def test_outside_the_main_thread_nothing_changes():
  seen = []

  def run():
    with stop_on_signals() as stop:
      seen.append(stop.signum)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [None]


def test_the_message_names_the_signal():
  assert str(Interrupted(signal.SIGTERM)) == 'stopped by SIGTERM'


@pytest.mark.skipif(os.name != 'posix', reason='Windows has no SIGUSR1')
def test_what_schedulers_send_is_noted():
  noted = {*stop_signals()}
  assert {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} < noted


@pytest.mark.skipif(os.name != 'posix', reason='Windows has no SIGHUP')
def test_under_nohup_the_end_of_a_terminal_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  try:
    assert signal.SIGHUP in stop_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals() as stop:
      signal.raise_signal(signal.SIGHUP)
      assert stop.signum is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)
