"""Strict settings for every test: two CPU devices, no silent broadcasting.

With --platform=gpu or --platform=tpu, the tests marked `accelerator` run there.
"""

import os
import pathlib
import tempfile

# Compiled fast rather than well: little runs for long. Programs that tests
# start are compiled like that too.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
# What one process has compiled others read, in this session alone: xdist's
# workers and programs that tests start inherit the folder, never the user's.
if 'PYTEST_XDIST_WORKER' not in os.environ:
  COMPILED = tempfile.TemporaryDirectory(
    prefix='advjax-tests-', ignore_cleanup_errors=True
  )
  os.environ['JAX_COMPILATION_CACHE_DIR'] = COMPILED.name
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = '1'
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import hypothesis
import jax
import matplotlib
import pytest

matplotlib.use('Agg')
jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The same examples in every run; the first call compiles, so no deadline.
hypothesis.settings.register_profile(
  'advjax', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('advjax')

# How many tests are left out for want of the mark.
NUM_CPU_ONLY = pytest.StashKey[int]()
# Flags of XLA, either of which fixes the order of sums on GPUs.
DETERMINISTIC = (
  'xla_gpu_deterministic_ops',
  'xla_gpu_exclude_nondeterministic_ops',
)


def pytest_addoption(parser):
  parser.addoption(
    '--platform',
    choices=('cpu', 'gpu', 'tpu'),
    default='cpu',
    help='Where tests run; on gpu and tpu only those marked accelerator.',
  )


def pytest_configure(config):
  """Starts JAX: no test that selects devices can change their number later.

  Where JAX cannot start, it may abort: what it says then must not be captured.
  """
  # A program that another process is about to write is compiled here as well.
  config.addinivalue_line(
    'filterwarnings', 'ignore:Error reading persistent compilation cache entry'
  )
  platform, chosen = config.getoption('platform'), jax.config.jax_platforms
  if platform == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  else:
    # The programs that users run, and not products of TF32 or bfloat16.
    del os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS']
    jax.config.update('jax_disable_most_optimizations', False)
    jax.config.update('jax_default_matmul_precision', 'highest')
    if chosen and 'cpu' not in chosen.split(','):
      # Some tests compare with it.
      jax.config.update('jax_platforms', f'{chosen},cpu')
  capture = config.pluginmanager.getplugin('capturemanager')
  with capture.global_and_fixture_disabled():
    try:
      found = jax.default_backend()
    except RuntimeError as error:
      raise pytest.UsageError(f'--platform={platform}: {error}') from error
  if found != platform:
    raise pytest.UsageError(
      f'--platform={platform} was asked for, but JAX {jax.__version__} runs on '
      f'{found} here{f" (JAX_PLATFORMS={chosen})" if chosen else ""}'
    )


def pytest_collection_modifyitems(config, items):
  """Leaves only what is marked, where not all is meant to run."""
  if config.getoption('platform') == 'cpu':
    return
  marked, others = [], []
  for item in items:
    (marked if item.get_closest_marker('accelerator') else others).append(item)
  config.hook.pytest_deselected(items=others)
  config.stash[NUM_CPU_ONLY] = len(others)
  items[:] = marked


def pytest_report_collectionfinish(config):
  count = config.stash.get(NUM_CPU_ONLY, 0)
  if not count:
    return []
  platform = config.getoption('platform')
  return [
    f'deselected for --platform={platform}: {count} tests that are not marked '
    'accelerator, written for two CPU devices'
  ]


@pytest.fixture(scope='session')
def reproducible_bits():
  """Skips a test where two runs of one program may round differently."""
  flags = os.environ.get('XLA_FLAGS', '')
  asked = any(f'--{name}' in flags for name in DETERMINISTIC)
  if jax.default_backend() != 'cpu' and not asked:
    pytest.skip(
      'an accelerator may add up in another order in every run; with '
      f'XLA_FLAGS=--{DETERMINISTIC[0]}=true the bits are compared'
    )


# Files about last bits: of pixels at the border of a ball, of sums that the
# compiler may take in another order in another program.
OPTIMIZED = ('attacks/test_drawn.py',)


@pytest.fixture(scope='module', autouse=True)
def optimized_where_last_bits_matter(request):
  """Compiles what a file is about as users do, where it is in the list."""
  path = request.path.relative_to(pathlib.Path(__file__).parent)
  everything = request.config.getoption('platform') != 'cpu'
  if everything or not any(path.match(pattern) for pattern in OPTIMIZED):
    yield
    return
  # No program is left from the other way.
  jax.clear_caches()
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
  jax.clear_caches()
