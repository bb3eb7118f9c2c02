"""How much memory a device has left."""

import pathlib

import jax


def free_memory(device: jax.Device, num_sharing: int = 1) -> int:
  """Returns the bytes that a device has left.

  Devices without a memory of their own have that of the host, which
  `num_sharing` devices share, those of other processes included.
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
