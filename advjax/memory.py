"""How much memory a device has left."""

import pathlib

import jax


def free_memory(device: jax.Device, num_sharing: int = 1) -> int:
  """Returns the bytes that a device has left.

  Args:
    device: The device.
    num_sharing: How many devices share the memory of the host, of this process
      and of others; only devices without a memory of their own do.

  Returns:
    Bytes; 4 GiB in all where the host does not say.

  Example:
    >>> free_memory(jax.devices()[0]) > 2**20
    True
  """
  stats = device.memory_stats()
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats['bytes_in_use']
  return _available_memory() // num_sharing


def _available_memory() -> int:
  """Bytes that the host has left, without swapping; 4 GiB where none says."""
  try:
    for line in pathlib.Path('/proc/meminfo').read_text().splitlines():
      if line.startswith('MemAvailable:'):
        return 1024 * int(line.split()[1])
  except OSError:  # Not Linux.
    pass
  return 2**32
