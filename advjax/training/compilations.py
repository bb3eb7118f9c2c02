"""Counts XLA compilations."""

import contextlib
from collections.abc import Iterator

import jax

# What JAX finds in its persistent cache counts as both.
_COMPILED = '/jax/core/compile/backend_compile_duration'
_FOUND = '/jax/compilation_cache/cache_hits'


class Compilations:
  """How many programs the backend has compiled, not read from a cache."""

  count: int = 0


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
  """Counts the programs that the backend compiles within the block."""
  found = Compilations()

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    found.count += event == _COMPILED

  def listen_for_found(event: str, **kwargs: str | int) -> None:
    del kwargs
    found.count -= event == _FOUND

  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.monitoring.register_event_listener(listen_for_found)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
    jax.monitoring.unregister_event_listener(listen_for_found)
