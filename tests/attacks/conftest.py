"""Fixtures for the tests of attacks."""

import jax
import pytest


@pytest.fixture
def quick_compiles():
  """Skips costly optimisations: these tests compile more than they compute."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
