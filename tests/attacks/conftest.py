"""Fixtures for the tests of attacks."""

import pytest

from tests import compiles


@pytest.fixture
def quick_compiles():
  """Skips costly optimisations: these tests compile more than they compute."""
  with compiles.quickly():
    yield
