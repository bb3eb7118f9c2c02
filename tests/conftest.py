"""Strict settings for every test: two CPU devices, no silent broadcasting."""

import os
import pathlib

# Compiled fast rather than well: little runs for long. Programs that tests
# start are compiled like that too.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
# Nothing goes to the user's cache folder, and no test is spared by another.
os.environ['JAX_ENABLE_COMPILATION_CACHE'] = '0'

import hypothesis
import jax
import matplotlib
import pytest

matplotlib.use('Agg')
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The same examples in every run; the first call compiles, so no deadline.
hypothesis.settings.register_profile(
  'advjax', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('advjax')


def pytest_configure(config):
  """Starts JAX: no test that selects devices can change their number later.

  Where JAX cannot start, it may abort: what it says then must not be captured.
  """
  capture = config.pluginmanager.getplugin('capturemanager')
  with capture.global_and_fixture_disabled():
    jax.devices()


# Files about last bits: of pixels at the border of a ball, of sums that the
# compiler may take in another order in another program.
OPTIMIZED = (
  'test_losses.py',
  'test_norms.py',
  'attacks/test_*.py',
  'evaluation/test_linear.py',
  'evaluation/test_reference_flags.py',
  'experiments/test_goodfellow.py',
  'training/test_objectives*.py',
  'training/test_step.py',
)


@pytest.fixture(scope='module', autouse=True)
def optimized_where_last_bits_matter(request):
  """Compiles what a file is about as users do, where it is in the list."""
  path = request.path.relative_to(pathlib.Path(__file__).parent)
  if not any(path.match(pattern) for pattern in OPTIMIZED):
    yield
    return
  # No program is left from the other way.
  jax.clear_caches()
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
  jax.clear_caches()
