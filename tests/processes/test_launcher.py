"""Several processes of one command, started and ended together."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from advjax.processes.launcher import launch

ROOT = pathlib.Path(__file__).parents[2]
# A child writes its name where it works, then waits; i is its number.
WAIT = 'i=${ADVJAX_PROCESS%/*}; touch "ready$i"; while :; do sleep 0.05; done'
# Runs until it is stopped, as a training does.
TRAINING = """
import pathlib, time
from advjax import cli
from advjax.processes.signals import Interrupted, stop_on_signals

def main():
  with stop_on_signals() as stop:
    pathlib.Path('ready0').touch()
    while not stop.signum:
      time.sleep(0.02)
  pathlib.Path('saved0').touch()
  raise Interrupted(stop.signum)

cli.run(main, ['program', '--platform=cpu'], processes='together')
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run(script, num_processes=2, **options):
  return launch(num_processes, ['sh', '-c', script], **options)


def send_when_ready(folder, signum, count=2):
  """Sends this process a signal once the children are there."""

  def send():
    while len(list(folder.glob('ready*'))) < count:
      time.sleep(0.02)
    os.kill(os.getpid(), signum)

  thread = threading.Thread(target=send)
  thread.start()
  return thread


def test_children_know_their_rank(folder):
  script = (
    'echo $ADVJAX_PROCESS $ADVJAX_LOCAL_PROCESS $ADVJAX_LAUNCHER '
    '$JAX_COORDINATOR_ADDRESS > "${ADVJAX_PROCESS%/*}"'
  )
  assert run(script, 3) == 0
  found = [(folder / str(index)).read_text().split() for index in range(3)]
  address = found[0][3]
  assert found == [
    [f'{index}/3', f'{index}/3', str(os.getpid()), address]
    for index in range(3)
  ]
  assert address.startswith('127.0.0.1:')


def test_where_one_fails_the_others_run_to_their_end(folder):
  """As the shares of a sweep; the first failure is the exit code."""
  script = (
    'case $ADVJAX_PROCESS in 1/3) exit 7;; 2/3) sleep 0.2; exit 8;; esac; '
    'sleep 0.5; touch finished'
  )
  assert run(script, 3, grace_seconds=0.1) == 7
  assert (folder / 'finished').exists()


def test_a_frozen_process_is_killed_where_another_has_lost_it():
  script = """
    case $ADVJAX_PROCESS in 0/2) kill -STOP $$;; esac
    sleep 0.2; exit 75"""
  assert run(script, grace_seconds=0.2) == 75


def test_a_killed_process_is_reported(capfd):
  """Also where another one has noticed it before the launcher has."""
  script = """
    case $ADVJAX_PROCESS in 1/2) touch killed; kill -KILL $$;; esac
    while [ ! -e killed ]; do sleep 0.01; done; exit 75"""
  assert run(script) == 128 + 9
  message = capfd.readouterr().err
  assert message.startswith('error: process 1 of 2 was killed by SIGKILL.')
  assert 'Run the same command again: it resumes from the last' in message
  assert message.count('\n') == 1


@pytest.mark.parametrize(
  'signum', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
)
def test_a_signal_is_forwarded_once(folder, capfd, signum):
  script = f"""
    name={signum.name.removeprefix('SIG')}
    trap 'echo x >> "got$i"; sleep 0.3; exit 3' $name; {WAIT}"""
  before = signal.getsignal(signum)
  sender = send_when_ready(folder, signum)
  assert run(script) == 3
  sender.join()
  assert signal.getsignal(signum) == before
  assert [(folder / f'got{i}').read_text() for i in (0, 1)] == ['x\n', 'x\n']
  assert capfd.readouterr().err == ''


def test_children_that_a_forwarded_signal_ends_are_not_reported(folder, capfd):
  sender = send_when_ready(folder, signal.SIGTERM)
  assert run(WAIT) == 128 + signal.SIGTERM
  sender.join()
  assert capfd.readouterr().err == ''


def test_under_nohup_a_hangup_ends_nothing(folder):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    sender = send_when_ready(folder, signal.SIGHUP)
    assert run('touch "ready${ADVJAX_PROCESS%/*}"; sleep 0.5; exit 3') == 3
    sender.join()
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_command_that_does_not_exist_leaves_nothing_behind():
  with pytest.raises(FileNotFoundError):
    launch(2, ['no-such-command'])


def test_a_process_stops_with_its_launcher(folder):
  """Where the launcher is killed: after a checkpoint."""
  launcher = subprocess.Popen(
    [
      *[sys.executable, '-m', 'advjax.processes.launcher', '1'],
      *[sys.executable, '-c', TRAINING],
    ],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    while not (folder / 'ready0').exists():
      assert launcher.poll() is None, launcher.communicate()[1]
      time.sleep(0.02)
    launcher.kill()
    # The process has the same stderr, which ends with it.
    message = launcher.communicate(timeout=60)[1]
  finally:
    launcher.kill()
  assert (folder / 'saved0').exists()
  assert 'Traceback' not in message
  assert 'the launcher of this process is gone' in message
  assert 'stopped by SIGTERM: run the same command' in message
