"""How many programs the backend compiles."""

import contextlib

import jax


@contextlib.contextmanager
def counted():
  """Yields a list that holds the number of compilations at the end.

  What another process of the tests has compiled counts: the session's cache
  must not hide that a program is traced anew.
  """
  events, result = [], []

  def listen(event, duration_secs, **kwargs):
    events.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield result
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  result.append(events.count('/jax/core/compile/backend_compile_duration'))
