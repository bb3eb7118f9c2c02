"""The option --platform: what is marked runs elsewhere than on a CPU too."""

import jax
import pytest


@pytest.mark.accelerator
def test_jax_runs_on_the_platform(request):
  assert jax.default_backend() == request.config.getoption('platform')
