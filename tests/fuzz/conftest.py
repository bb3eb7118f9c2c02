"""How many cases: 100 of each in the suite, 10,000 with the profile `fuzz`."""

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile(
  'fuzz', hypothesis.settings.get_profile('advjax'), max_examples=10_000
)


@pytest.fixture(autouse=True)
def whole_tracebacks():
  """Tracebacks with JAX's frames, whose last one says whose an error is."""
  before = jax.config.jax_traceback_filtering
  jax.config.update('jax_traceback_filtering', 'off')
  yield
  jax.config.update('jax_traceback_filtering', before)
