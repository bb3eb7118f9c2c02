"""Libraries to compare with: their venvs, processes and benchmarks."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import attacks, autoattack, peers
from experiments.benchmarks.peers import Peer, PeerError

PEER = Peer(
  'some peer', 'venv', 'peer', ('peer==1',), ('3.11', '3.10'), pathlib.Path()
)
PYTHON = pathlib.Path(sys.executable)

# ----------------------------------------------------------------------- venvs


def test_a_venv_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
  python, venv = tmp_path / 'python', tmp_path / 'venv'
  python.write_text(
    '#!/bin/sh\n[ "$1" = -I ] && cat "$0.version" && exit\nmkdir "$3"; '
    'echo ERROR: no disk >&2; exit 1\n'
  )
  python.chmod(0o755)
  version = tmp_path / 'python.version'
  version.write_text('3.99')
  for name, reason in (('no-such-one', 'is not there'), (python, 'is 3.99')):
    wrong = (
      rf'--python = .*; allowed: Python 3.11 or 3.10, for peer==1.*{reason}'
    )
    with pytest.raises(ValueError, match=wrong):
      peers.prepare(PEER, str(venv), str(name))
  version.write_text('3.11')
  with pytest.raises(ValueError, match=r'making the venv failed: ERROR: no di'):
    peers.prepare(PEER, str(venv), str(python))
  assert not venv.exists()
  # By default it is in the cache folder, whose files are kept.
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  folder = tmp_path / 'advjax' / 'venv'
  folder.mkdir(parents=True)
  (folder / 'mine').write_text('x')
  with pytest.raises(ValueError, match=r"advjax/venv'; allowed: a venv"):
    peers.prepare(PEER, None, None)
  assert [path.name for path in folder.iterdir()] == ['mine']


# ------------------------------------------------------------------- processes

SIDE = """
import os, time
import numpy as np
from serve import serve

calls = []

def twice(job, arrays):
  calls.append(job['task'])
  print('not an answer')
  os.system('echo nor this')
  return {'twice': 2 * arrays['a/b'], 'calls': np.asarray(len(calls))}

def fail(job, arrays):
  raise SystemExit('it went wrong')

serve({'twice': twice, 'fail': fail, 'hang': lambda *_: time.sleep(60)}, 'v 1')
"""


def test_jobs_go_to_the_other_side_until_it_fails(tmp_path):
  peer = PEER._replace(main=tmp_path / 'main.py')
  peer.main.write_text(SIDE)
  with peers.started(peer, PYTHON) as run_job:
    for count in (1, 2):
      found = run_job({'task': 'twice'}, {'a/b': np.arange(3)})
      np.testing.assert_array_equal(found['twice'], [0, 2, 4])
      assert found['calls'] == count
      assert found['versions'] == 'v 1'
    failed = r"some peer failed at 'fail':\n(.*\n)*it went wrong"
    with pytest.raises(PeerError, match=failed):
      run_job({'task': 'fail'}, {})
    with pytest.raises(PeerError, match="failed at 'twice'"):
      run_job({'task': 'twice'}, {'a/b': np.arange(3)})
  with (
    peers.started(peer, PYTHON, timeout=0.5) as run_job,
    pytest.raises(PeerError, match=r"more than 0\.5 s for 'hang'"),
  ):
    run_job({'task': 'hang'}, {})


# ----------------------------------------------------------- their benchmarks


def linear(images):
  return images.reshape(len(images), 2) @ jnp.array([[1.0, 0.0], [0.0, 2.0]])


def test_attacks_are_cut_over_devices_and_checked():
  images = np.array([[0.5, 0.5], [0.05, 0.5]], np.float32).reshape(2, 1, 2, 1)
  labels, devices = np.array([0, 0]), jax.devices()[:2]
  run, found = attacks.our_attack('fgsm', 1, linear, images, labels, devices)
  moved = [[0.4, 0.6], [0.0, 0.6]]
  np.testing.assert_allclose(found.reshape(2, 2), moved, atol=1e-6)
  assert run() > 0
  attacks.check_perturbed(images, images, 0.1, 'peer')
  for wrong in (0.11, -0.11):
    with pytest.raises(RuntimeError, match=r'peer moved a pixel by 0\.1'):
      attacks.check_perturbed(images, images + wrong, 0.1, 'peer')


# ------------------------------------------------------------------ AutoAttack


def test_a_reference_file_is_complete(tmp_path):
  own = autoattack.load(autoattack.OWN)
  with pytest.raises(ValueError, match=r"none.npz'; allowed: a file"):
    autoattack.load(tmp_path / 'none.npz')
  path = tmp_path / 'part.npz'
  np.savez(path, images=own.images, labels=own.labels, **own.kernels)
  with pytest.raises(ValueError, match='lacks robust_l2_apgd_ce, robust_l2_ap'):
    autoattack.load(path)
