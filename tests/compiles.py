"""Counts what the backend compiles."""

import contextlib

from advjax.training.compilations import count_compilations


@contextlib.contextmanager
def counted():
  """Yields a list that holds the number of compilations at the end."""
  result = []
  with count_compilations() as compilations:
    yield result
  result.append(compilations.count)
