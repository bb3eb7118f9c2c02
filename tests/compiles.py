"""Counts what the backend compiles."""

import contextlib

import jax

_total = [0]


def _listen(event, duration, **kwargs):
  del duration, kwargs
  if event.endswith('backend_compile_duration'):
    _total[0] += 1


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def counted():
  """Yields a list that holds the number of compilations at the end."""
  before = _total[0]
  result = []
  yield result
  result.append(_total[0] - before)
