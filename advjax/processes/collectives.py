"""Communication between the processes of a run; none in a single process."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from advjax.types import Array

T = TypeVar('T')


def is_main() -> bool:
  """Whether this is process 0, which alone reads and writes a run's folder."""
  return jax.process_index() == 0


def from_main(make: Callable[..., T], *args: Any) -> T:
  """Calls a function in process 0; returns its result, or raises, in all."""
  if jax.process_count() == 1:
    return make(*args)
  result: T | None = None
  error: Exception | None = None
  if is_main():
    try:
      result = make(*args)
    except (ValueError, OSError) as raised:
      error = raised
  data = _broadcast(pickle.dumps((result, error)) if is_main() else b'')
  if not is_main():
    result, error = pickle.loads(data)
  if error is not None:
    raise error
  return result  # type: ignore[return-value]


def _broadcast(data: bytes) -> bytes:
  """Sends bytes of process 0 to all: as floats, -0.0 would come as 0.0."""
  from jax.experimental import multihost_utils

  (size,) = multihost_utils.broadcast_one_to_all(
    np.array([len(data)], np.uint32)
  )
  buffer = np.zeros(size, np.uint8)
  if is_main():
    buffer[:] = np.frombuffer(data, np.uint8)
  return multihost_utils.broadcast_one_to_all(buffer).tobytes()


def _all_gather(values: np.ndarray) -> np.ndarray:
  """Stacks the values of all processes, `[P, ...]`."""
  if jax.process_count() == 1:
    return values[None]
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(values))


def agree(chunk: int, signum: int | None) -> tuple[int, int | None]:
  """Returns the chunk of process 0, and the first signal that any received."""
  chunks, signals = _all_gather(np.array([chunk, signum or 0], np.int32)).T
  return int(chunks[0]), next((int(each) for each in signals if each), None)


def own_ranks(devices: Sequence[jax.Device]) -> np.ndarray:
  """Returns the indices of this process's devices among all those of a run."""
  index = jax.process_index()
  return np.flatnonzero([each.process_index == index for each in devices])


def gather(
  values: Array | np.ndarray, devices: Sequence[jax.Device]
) -> np.ndarray:
  """Collects rows `[L, ...]` of this process's devices as `[D, ...]` of all."""
  values = np.asarray(values)
  if len(values) == len(devices):
    return values
  owners = np.array([each.process_index for each in devices])
  result = np.empty((len(devices), *values.shape[1:]), values.dtype)
  for owner, rows in enumerate(_all_gather(values)):
    result[owners == owner] = rows
  return result


def merge_rows(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
  """Takes each row `[N, ...]` from its owner, the process that computed it."""
  return _all_gather(values)[owners, np.arange(len(values))]


def sum_over_processes(value: int) -> int:
  """Sums a number over all processes."""
  return int(_all_gather(np.array(value)).sum())
