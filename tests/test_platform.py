"""The option --platform, and what is marked to run elsewhere than on a CPU."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Claims a GPU, and shows what JAX is told then.
FAKE = """
import os
import jax

jax.default_backend = lambda: 'gpu'

def pytest_collection_finish(session):
  quick = jax.config.read('jax_disable_most_optimizations')
  print('optimized:', not quick)
  print('programs too:', 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ)
  print('precision:', jax.config.jax_default_matmul_precision)
"""


def run_pytest(*arguments, path=()):
  return subprocess.run(
    [
      *[sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *arguments],
      *['--platform=gpu', 'tests/test_platform.py'],
    ],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join(map(str, (ROOT, *path))),
    },
    timeout=300,
  )


@pytest.mark.accelerator
def test_jax_runs_on_the_platform(request):
  assert jax.default_backend() == request.config.getoption('platform')


def test_an_absent_platform_ends_the_run_at_once():
  """Also where there is one, which is hidden here."""
  result = run_pytest('-m', 'accelerator')
  assert result.returncode == 4
  assert result.stderr.startswith('ERROR: --platform=gpu was asked for, but')
  assert 'runs on cpu here (JAX_PLATFORMS=cpu)' in result.stderr
  assert 'Traceback' not in result.stderr and 'collected' not in result.stdout


def test_elsewhere_marked_tests_run_alone_as_users_compile_them(tmp_path):
  (tmp_path / 'fake_gpu.py').write_text(FAKE)
  result = run_pytest('-p', 'fake_gpu', path=[tmp_path])
  assert result.returncode == 0, result.stdout + result.stderr
  assert 'optimized: True' in result.stdout
  assert 'programs too: True' in result.stdout
  assert 'precision: highest' in result.stdout
  assert '5 tests that are not marked accelerator' in result.stdout
  assert '1 passed' in result.stdout


@pytest.mark.parametrize('folder', ['attacks', 'evaluation', 'training'])
def test_every_part_has_tests_for_accelerators(folder):
  files = (ROOT / 'tests' / folder).rglob('test_*.py')
  assert any('mark.accelerator' in file.read_text() for file in files)
