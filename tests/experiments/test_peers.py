"""Venvs of libraries to compare with, as far as none of them is needed."""

import ast
import pathlib
import sys

import numpy as np
import pytest

from experiments.benchmarks.peers import (
  foolbox_jax,
  nsl,
  process,
  torch,
  torch_residual,
  venv,
)
from experiments.benchmarks.peers.venv import Peer

PEER = Peer(
  'some peer', 'venv', 'peer', ('peer==1',), ('3.11', '3.10'), pathlib.Path()
)


def test_a_python_that_is_too_new_or_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"'no-such-python' is not there; give"):
    venv.find_python(PEER, 'no-such-python')
  fake = tmp_path / 'python3.99'
  fake.write_text('#!/bin/sh\necho 3.99\n')
  fake.chmod(0o755)
  wrong = r'peer==1 needs Python 3.11 or 3.10.*is 3.99'
  with pytest.raises(ValueError, match=wrong):
    venv.find_python(PEER, str(fake))


def test_a_folder_that_is_no_venv_stays_as_it_is(tmp_path):
  (tmp_path / 'mine').write_text('x')
  with pytest.raises(ValueError, match=r'is there and is no venv'):
    venv.prepare(PEER, str(tmp_path), None)
  assert [path.name for path in tmp_path.iterdir()] == ['mine']


def fake_python(path: pathlib.Path, makes: str) -> str:
  """A Python 3.11 whose `-m venv FOLDER` does what `makes` says."""
  path.write_text(
    f'#!/bin/sh\n[ "$1" = -I ] && echo 3.11 && exit\nmkdir -p "$3/bin"\n{makes}'
  )
  path.chmod(0o755)
  return str(path)


def test_a_venv_that_cannot_be_made_leaves_nothing(tmp_path):
  broken = fake_python(tmp_path / 'python', 'echo ERROR: no disk >&2; exit 1\n')
  with pytest.raises(ValueError, match=r'making the venv failed: ERROR: no di'):
    venv.prepare(PEER, str(tmp_path / 'venv'), broken)
  assert not (tmp_path / 'venv').exists()


def test_packages_that_ask_for_too_much_come_without_it(tmp_path):
  log = tmp_path / 'log'
  makes = (
    f'printf \'#!/bin/sh\\necho "$*" >> {log}\\n\' > "$3/bin/python"\n'
    'chmod +x "$3/bin/python"\n'
  )
  python = fake_python(tmp_path / 'python', makes)
  peer = PEER._replace(bare_packages=('old==2',))
  found = venv.prepare(peer, str(tmp_path / 'venv'), python)
  assert found == tmp_path / 'venv' / 'bin' / 'python'
  assert log.read_text().splitlines() == [
    '-m pip install --quiet peer==1',
    '-m pip install --quiet --no-deps old==2',
  ]


def test_a_venv_goes_to_the_cache_folder_unless_another_is_named(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  (tmp_path / 'advjax' / 'venv').mkdir(parents=True)
  with pytest.raises(ValueError, match=r"advjax/venv' is there and is no venv"):
    venv.prepare(PEER, None, None)


SIDE = """
import os
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

serve({'twice': twice, 'fail': fail}, 'peer 1')
"""


@pytest.fixture
def peer(tmp_path):
  main = tmp_path / 'main.py'
  main.write_text(SIDE)
  return PEER._replace(main=main)


def test_jobs_go_to_the_other_side_which_stays(peer):
  python = pathlib.Path(sys.executable)
  with process.started(peer, python) as run_job:
    for count in (1, 2):
      found = run_job({'task': 'twice'}, {'a/b': np.arange(3)})
      np.testing.assert_array_equal(found['twice'], [0, 2, 4])
      assert found['calls'] == count
      assert found['versions'] == 'peer 1'
    failed = r"side of some peer failed at 'fail':\n(.*\n)*it went wrong"
    with pytest.raises(RuntimeError, match=failed):
      run_job({'task': 'fail'}, {})
    with pytest.raises(RuntimeError, match="failed at 'twice'"):
      run_job({'task': 'twice'}, {'a/b': np.arange(3)})


def test_a_job_alone_has_a_process_of_its_own(peer):
  python = pathlib.Path(sys.executable)
  for _ in range(2):
    found = process.run_job(
      peer, python, {'task': 'twice'}, {'a/b': np.ones(1)}
    )
    assert found['calls'] == 1


@pytest.mark.parametrize(
  'peer', [foolbox_jax.PEER, nsl.PEER, torch.PEER, torch_residual.PEER]
)
def test_sides_need_nothing_of_ours(peer):
  files = list(peer.main.parent.glob('*.py'))
  assert peer.main in files
  modules = {
    alias.name if isinstance(node, ast.Import) else node.module
    for path in files
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Import | ast.ImportFrom)
    for alias in node.names
  }
  assert 'serve' in modules
  assert not {m.partition('.')[0] for m in modules} & {'advjax', 'experiments'}
