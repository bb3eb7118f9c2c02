"""How much is compiled: a sweep is to compile once, and to show that it did."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'


class Compilations:
  """How many programs the backend has compiled."""

  count: int = 0


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
  """Counts the programs that the backend compiles within the block.

  Yields:
    The count, which grows.

  Example:
    >>> with count_compilations() as compilations:
    ...   _ = jax.jit(lambda x: 2 * x + 1)(1.0)
    >>> compilations.count
    1
  """
  found = Compilations()

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    found.count += event == _EVENT

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
