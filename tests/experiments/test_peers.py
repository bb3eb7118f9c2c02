"""Venvs of libraries to compare with, as far as none of them is needed."""

import pathlib
import sys

import numpy as np
import pytest

from experiments.benchmarks import peer_venv
from experiments.benchmarks.peer_venv import Peer

PEER = Peer('some peer', 'peer', ('peer==1',), ('3.11', '3.10'), pathlib.Path())


def test_a_python_that_is_too_new_or_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"'no-such-python' is not there; give"):
    peer_venv.find_python(PEER, 'no-such-python')
  fake = tmp_path / 'python3.99'
  fake.write_text('#!/bin/sh\necho 3.99\n')
  fake.chmod(0o755)
  wrong = r'peer==1 needs Python 3.11 or 3.10.*is 3.99'
  with pytest.raises(ValueError, match=wrong):
    peer_venv.find_python(PEER, str(fake))


def test_a_folder_that_is_no_venv_stays_as_it_is(tmp_path):
  (tmp_path / 'mine').write_text('x')
  with pytest.raises(ValueError, match=r'is there and is no venv'):
    peer_venv.prepare(PEER, tmp_path, None)
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
    peer_venv.prepare(PEER, tmp_path / 'venv', broken)
  assert not (tmp_path / 'venv').exists()


def test_packages_that_ask_for_too_much_come_without_it(tmp_path):
  log = tmp_path / 'log'
  makes = (
    f'printf \'#!/bin/sh\\necho "$*" >> {log}\\n\' > "$3/bin/python"\n'
    'chmod +x "$3/bin/python"\n'
  )
  python = fake_python(tmp_path / 'python', makes)
  peer = PEER._replace(bare_packages=('old==2',))
  found = peer_venv.prepare(peer, tmp_path / 'venv', python)
  assert found == tmp_path / 'venv' / 'bin' / 'python'
  assert log.read_text().splitlines() == [
    '-m pip install --quiet peer==1',
    '-m pip install --quiet --no-deps old==2',
  ]


def test_jobs_go_to_the_other_side_and_come_back(tmp_path):
  main = tmp_path / 'main.py'
  main.write_text(
    'import json, pathlib, sys\n'
    'import numpy as np\n'
    'folder = pathlib.Path(sys.argv[1])\n'
    "job = json.loads((folder / 'job.json').read_text())\n"
    "if job['task'] == 'fail': sys.exit('it went wrong')\n"
    "arrays = dict(np.load(folder / 'arrays.npz'))\n"
    "np.savez(folder / 'out.npz', twice=2 * arrays['a/b'])\n"
  )
  peer, python = PEER._replace(main=main), pathlib.Path(sys.executable)
  found = peer_venv.run_job(peer, python, {'task': 'x'}, {'a/b': np.arange(3)})
  np.testing.assert_array_equal(found['twice'], [0, 2, 4])
  with pytest.raises(RuntimeError, match=r"peer failed at 'fail':\nit went wr"):
    peer_venv.run_job(peer, python, {'task': 'fail'}, {})
