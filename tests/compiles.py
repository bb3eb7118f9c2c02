"""What the backend compiles: counted, or compiled fast rather than well."""

import contextlib

import jax

from advjax.compile_cache import count_compilations


@contextlib.contextmanager
def counted():
  """Yields a list that holds the number of compilations at the end."""
  result = []
  with count_compilations() as compilations:
    yield result
  result.append(compilations.count)


@contextlib.contextmanager
def quickly():
  """Skips costly optimisations, for what compiles longer than it runs.

  On CPUs alone: elsewhere tests are about the programs that users run.
  """
  if jax.default_backend() != 'cpu':
    yield
    return
  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', True)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
