"""The option --platform, and what is marked to run elsewhere than on a CPU."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# What must be marked: files, and how the names of their tests begin.
MARKED = {
  'attacks/test_drawn.py': ['test_inside_ball_and_box'],
  'attacks/test_gradient.py': ['test_fgsm_is_keyless_bim_of_one_step'],
  'attacks/test_inside.py': [
    'test_inside_ball_and_box',
    'test_searches_in_bfloat16',
  ],
  'attacks/test_random.py': ['test_draws_depend', 'test_draws_of_rbg_keys'],
  'evaluation/test_pool.py': ['test_batches_are_halved'],
  'evaluation/test_robustness.py': [
    'test_draws_are_the_same_bits',
    'test_flags_are_those_of_the_cpu',
  ],
  'training/test_at_once.py': [
    'test_batched_steps',
    'test_every_run_ends_where_it_ends_alone[one device]',
  ],
  'training/test_loop.py': ['test_a_run_that_was_stopped'],
  'training/test_sweep.py': [
    'test_a_device_that_is_nearly_full',
    'test_out_of_memory_goes_on',
  ],
}
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
    [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *arguments],
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


def test_an_absent_platform_ends_the_run_at_once():
  """Also where there is one, which is hidden here."""
  result = run_pytest('-m', 'accelerator', '--platform=gpu', 'tests')
  assert result.returncode == 4
  assert result.stderr.startswith('ERROR: --platform=gpu was asked for, but')
  assert 'runs on cpu here (JAX_PLATFORMS=cpu)' in result.stderr
  assert 'Traceback' not in result.stderr and 'collected' not in result.stdout


def test_what_is_marked():
  files = [f'tests/{file}' for file in MARKED]
  result = run_pytest('--collect-only', '-q', '-m', 'accelerator', *files)
  assert result.returncode == 0, result.stdout + result.stderr
  found = [line for line in result.stdout.splitlines() if '::' in line]
  for file, names in MARKED.items():
    for name in names:
      start = f'tests/{file}::{name}'
      assert any(line.startswith(start) for line in found), start
  # Every attack, and every norm; few of what has many cases.
  drawn = [line for line in found if 'test_drawn.py' in line]
  assert 10 <= len(drawn) <= 12
  assert all(
    any(f'-{p}-' in line for line in drawn) for p in ('linf', 'l2', 'l1')
  )
  assert len(found) < 40


def test_elsewhere_marked_tests_run_alone_as_users_compile_them(tmp_path):
  (tmp_path / 'fake_gpu.py').write_text(FAKE)
  result = run_pytest(
    '--platform=gpu',
    '-p',
    'fake_gpu',
    'tests/attacks/test_gradient.py',
    path=[tmp_path],
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert 'optimized: True' in result.stdout
  assert 'programs too: True' in result.stdout
  assert 'precision: highest' in result.stdout
  assert (
    'tests that are not marked accelerator, written for two CPU devices'
  ) in result.stdout
  assert '3 passed' in result.stdout
