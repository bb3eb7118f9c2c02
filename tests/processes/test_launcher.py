"""Several processes of one command, started and ended together."""

import os
import signal
import threading
import time

import pytest

from advjax.processes.launcher import launch

# A child writes its name where it works, then waits; i is its number.
WAIT = 'i=${ADVJAX_PROCESS%/*}; touch "ready$i"; while :; do sleep 0.05; done'


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


def test_children_know_their_place(folder):
  script = (
    'echo $ADVJAX_PROCESS $ADVJAX_LOCAL_PROCESS $JAX_COORDINATOR_ADDRESS '
    '$ADVJAX_LAUNCHER > "${ADVJAX_PROCESS%/*}"'
  )
  assert run(script, 3) == 0
  said = [(folder / str(index)).read_text().split() for index in range(3)]
  assert [each[0] for each in said] == ['0/3', '1/3', '2/3']
  assert [each[1] for each in said] == ['0/3', '1/3', '2/3']
  (address,) = {each[2] for each in said}
  host, port = address.split(':')
  assert (host, int(port) > 1023) == ('127.0.0.1', True)
  assert {each[3] for each in said} == {str(os.getpid())}


def test_where_one_fails_the_others_go_on_to_their_end(folder):
  """As the shares of a sweep; the first failure is the exit code."""
  script = (
    'case $ADVJAX_PROCESS in 1/3) exit 7;; 2/3) sleep 0.2; exit 8;; esac; '
    'sleep 1; touch finished'
  )
  assert run(script, 3, grace_seconds=0.1, term_seconds=0.1) == 7
  assert (folder / 'finished').exists()


@pytest.mark.parametrize('code', [1, 75])
def test_one_that_does_not_end_is_stopped_where_another_fails(code):
  """Where they had joined: this is one run."""
  script = f"""
    touch "$ADVJAX_JOINED"
    case $ADVJAX_PROCESS in 1/2) exit {code};; esac; {WAIT}"""
  start = time.monotonic()
  assert run(script, grace_seconds=0.2) == code
  assert time.monotonic() - start < 20  # Not for ever.


def test_one_that_does_not_listen_is_killed(folder, capfd):
  script = f"""
    touch "$ADVJAX_JOINED"
    case $ADVJAX_PROCESS in
      1/2) while [ ! -e ready0 ]; do sleep 0.05; done; kill -KILL $$;;
    esac; trap "touch asked" TERM; {WAIT}"""
  assert run(script, grace_seconds=0.5, term_seconds=0.5) == 128 + 9
  assert (folder / 'asked').exists()
  said = capfd.readouterr().err
  assert 'launch.sh: process 1 of 2 was killed by SIGKILL; the others' in said
  assert 'Run the same command again: it resumes from the last' in said
  assert said.count('\n') == 1


def test_one_that_stands_still_is_killed_where_another_is_aborted(folder):
  """JAX aborts the others of one that no longer sends a heartbeat."""
  script = """
    i=${ADVJAX_PROCESS%/*}; touch "$ADVJAX_JOINED"; touch "ready$i"
    if [ "$i" = 0 ]; then kill -STOP $$; fi
    while [ ! -e ready0 ]; do sleep 0.05; done; kill -ABRT $$"""
  assert run(script, grace_seconds=0.2, term_seconds=0.2) == 128 + 6


@pytest.mark.parametrize(
  'signum', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
)
def test_a_signal_goes_to_all_once(folder, capfd, signum):
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


def test_children_that_a_signal_ends_need_no_word(folder, capfd):
  sender = send_when_ready(folder, signal.SIGTERM)
  assert run(WAIT) == 128 + signal.SIGTERM
  sender.join()
  assert capfd.readouterr().err == ''


def test_under_nohup_the_end_of_a_terminal_ends_nothing(folder):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    sender = send_when_ready(folder, signal.SIGHUP)
    assert run('touch "ready${ADVJAX_PROCESS%/*}"; sleep 0.5; exit 3') == 3
    sender.join()
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_command_that_is_not_there_leaves_nothing_behind():
  with pytest.raises(FileNotFoundError):
    launch(2, ['no-such-command'])
