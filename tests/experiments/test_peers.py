"""Libraries to compare with: their venvs, processes and benchmarks."""

import ast
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import data
from experiments.benchmarks import (
  attacks,
  autoattack,
  peers,
  roofline,
  training,
)
from experiments.benchmarks.peers import PEERS, Peer, PeerError

PEER = Peer(
  'some peer', 'venv', 'peer', ('peer==1',), ('3.11', '3.10'), pathlib.Path()
)
PYTHON = pathlib.Path(sys.executable)

# ----------------------------------------------------------------------- venvs


def fake_python(path, script):
  path.write_text(f'#!/bin/sh\n{script}')
  path.chmod(0o755)
  return str(path)


def test_a_python_that_is_too_new_or_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"'no-such-python' is not there; give"):
    peers.find_python(PEER, 'no-such-python')
  fake = fake_python(tmp_path / 'python3.99', 'echo 3.99\n')
  wrong = r'peer==1 needs Python 3.11 or 3.10.*is 3.99'
  with pytest.raises(ValueError, match=wrong):
    peers.find_python(PEER, fake)


def test_a_venv_that_cannot_be_made_leaves_nothing(tmp_path):
  broken = fake_python(
    tmp_path / 'python',
    '[ "$1" = -I ] && echo 3.11 && exit\nmkdir "$3"; echo ERROR: no disk >&2; '
    'exit 1\n',
  )
  with pytest.raises(ValueError, match=r'making the venv failed: ERROR: no di'):
    peers.prepare(PEER, str(tmp_path / 'venv'), broken)
  assert not (tmp_path / 'venv').exists()


def test_a_venv_goes_to_the_cache_folder_unless_another_is_named(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  folder = tmp_path / 'advjax' / 'venv'
  folder.mkdir(parents=True)
  (folder / 'mine').write_text('x')
  with pytest.raises(ValueError, match=r"advjax/venv' is there and is no venv"):
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


def test_sides_need_nothing_of_ours():
  paths = [*PEERS['torch'].main.parent.glob('*.py')]
  assert {peer.main for peer in PEERS.values()} < set(paths)
  for path in paths:
    modules = {
      alias.name if isinstance(node, ast.Import) else node.module
      for node in ast.walk(ast.parse(path.read_text()))
      if isinstance(node, ast.Import | ast.ImportFrom)
      for alias in node.names
    }
    tops = {module.partition('.')[0] for module in modules}
    assert not tops & {'advjax', 'experiments'}


# ----------------------------------------------------------- their benchmarks


def test_training_steps_of_all_start_from_the_same_weights(monkeypatch):
  asked, dataset = [], data.load({'name': 'digits'})
  rates = roofline.Rates(1e11, 1e10)
  monkeypatch.setattr(roofline, 'measure_rates', lambda devices: rates)

  def nsl(job, arrays):
    asked.append((job['task'], job['name']))
    if job['task'] == 'prepare':
      assert arrays['Conv_0/kernel'].shape == (3, 3, 1, 32)
      assert arrays['train_images'].dtype == np.uint8
      assert job['objective'] == 'standard' and job['batch_size'] == 16
      return {}
    assert not arrays and job['num_steps'] == 2
    return {'seconds': np.asarray(0.5)}

  def torch(job, arrays):
    raise PeerError('no memory')

  sides = {'nsl': nsl, 'torch': torch}
  case = dataset, jax.devices()[:1], sides, ['standard'], [16]
  found = training.measure(*case, steps=2, rounds=1, compiled=False)
  names = [row['name'] for row in found['rows']]
  theirs = ['Keras', 'Keras, 32 steps per execution']
  assert names == ['advjax', *theirs, 'PyTorch', 'floor']
  assert found['rows'][1]['milliseconds'] == 500
  floor = roofline.least_work('standard', 16).seconds(rates)
  assert found['rows'][-1]['milliseconds'] == pytest.approx(1e3 * floor)
  assert [task for task, _ in asked] == 2 * ['prepare', 'steps'] + 2 * ['steps']
  assert training.table(found).endswith('\nPyTorch: no memory')


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

OWN = autoattack.load(autoattack.OWN)


def test_the_reference_file_is_of_this_network(tmp_path):
  assert autoattack.OWN.stat().st_size < 400_000
  dataset = data.load({'name': 'digits'})
  images = data.to_float(dataset.test.images[:64])
  np.testing.assert_array_equal(OWN.images, images)
  np.testing.assert_array_equal(OWN.labels, dataset.test.labels[:64])
  logits = jax.jit(autoattack.logits)(dict(OWN.kernels), OWN.images)
  correct = np.asarray(logits.argmax(-1)) == OWN.labels
  assert 0.9 < correct.mean() < 1
  for robust in OWN.robust.values():
    for found in robust.values():
      assert found.shape == (3, 64) and not (found & ~correct).any()
    each = [robust[name] for name in autoattack.ATTACKS]
    np.testing.assert_array_equal(robust['autoattack'], np.all(each, axis=0))
  np.testing.assert_array_equal(OWN.first(66).labels[64:], OWN.labels[:2])
  with pytest.raises(ValueError, match=r"no file '.*none.npz'"):
    autoattack.load(tmp_path / 'none.npz')
  path = tmp_path / 'part.npz'
  np.savez(path, images=OWN.images, labels=OWN.labels, **OWN.kernels)
  with pytest.raises(ValueError, match='lacks robust_l2_apgd_ce, robust_l2_ap'):
    autoattack.load(path)


def test_autoattack_is_compared_attack_by_attack():
  asked = []

  def run_job(job, arrays):
    asked.append(job)
    assert set(arrays) == {*autoattack.KERNELS, 'images', 'labels'}
    robust = np.arange(64) < (3 if job['attack'] == 'square' else 2)
    return {'robust': robust, 'seconds': np.asarray(8.0)}

  seconds = {'square': iter([9.0, 1.0, 3.0, 2.0]), 'fab-t': iter([5.0] * 4)}

  def ours(norm, attack):
    robust = np.arange(64) < (4 if attack == 'square' else 1)
    return robust, next(seconds[attack])

  sides = {
    'advjax': ours,
    'torchattacks': lambda *case: autoattack.their_attack(OWN, run_job, *case),
  }
  rows = autoattack.measure(sides, ['l2'], ['square', 'fab-t'], 3)
  job = asked[0]
  assert (job['norm'], job['epsilon'], job['seed']) == ('l2', 1.0, 0)
  assert (job['num_steps'], job['num_queries']) == (100, 5000)
  lines = autoattack.table({'rows': rows}).splitlines()
  assert lines[2] == '| l2 | square | 4 | 3 | 1 | 2.00 | 8.00 | 4.00 | 7.0 |'
  assert lines[4] == '| l2 | all | 1 | 2 | 0 | 7.00 | 16.00 | 2.29 | 7.0 |'
