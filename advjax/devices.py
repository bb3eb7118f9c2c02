"""Devices, their free memory, and the one place where functions are mapped."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax.callables import (
  Callee,
  Structure,
  cache_while_alive,
  rejoin,
  separate,
)
from advjax.processes.collectives import gather, own_ranks
from advjax.processes.topology import find_place
from advjax.types import Array

AXIS = 'devices'  # the pmapped one
PLATFORMS = ('cpu', 'gpu', 'tpu')
_MAX_DEFAULT_CPU_DEVICES = 8
_DEFAULT_BATCH_SIZE = 64


def select_devices(
  platform: str | None = None, num_devices: int | None = None
) -> list[jax.Device]:
  """Returns the devices to run on; the ones requested must exist.

  On the CPU, `num_devices` virtual devices are made if JAX has not started yet,
  by default one per core, up to 8: XLA runs the body of a loop on one thread.
  """
  from advjax.config import choose  # `import advjax` does without configs.

  if num_devices is not None and num_devices < 1:
    raise ValueError(f'devices = {num_devices}; allowed: an integer >= 1')
  if platform is not None:
    choose('platform', platform, PLATFORMS)
  if platform == 'cpu' and jax.distributed.is_initialized():
    # Collectives between processes use the default devices.
    jax.config.update('jax_platforms', 'cpu')
  if platform in (None, 'cpu'):
    # Once JAX has started, the number of CPU devices is fixed.
    with contextlib.suppress(RuntimeError):
      jax.config.update(
        'jax_num_cpu_devices', num_devices or _default_cpu_devices()
      )
  try:
    devices = jax.devices(platform)
  except RuntimeError as error:
    raise ValueError(
      f'platform = {platform!r}; allowed: {jax.default_backend()!r}, the '
      f'devices that JAX {jax.__version__} finds'
    ) from error
  by_process: dict[int, list[jax.Device]] = {}
  for device in devices:
    by_process.setdefault(device.process_index, []).append(device)
  counts = [len(own) for own in by_process.values()]
  if num_devices is not None and min(counts) < num_devices:
    raise ValueError(
      f'devices = {num_devices}; allowed: at most {min(counts)}, the number of '
      f'{devices[0].platform!r} devices'
      f'{" of a process" if len(counts) > 1 else ""}'
    )
  if len(set(counts)) > 1:
    raise ValueError(
      f'devices per process = {counts}; allowed: equal numbers (on the CPU set '
      'by --devices=N, on GPUs by CUDA_VISIBLE_DEVICES)'
    )
  return [device for own in by_process.values() for device in own[:num_devices]]


def _default_cpu_devices() -> int:
  count = os.cpu_count() or 1
  affinity = getattr(os, 'sched_getaffinity', None)  # Linux alone has it.
  cores = len(affinity(0)) if affinity else count
  if cores == count:  # Nobody has shared them out among the processes.
    cores = max(1, cores // find_place().num_local)
  return min(cores, _MAX_DEFAULT_CPU_DEVICES)


def own_devices(devices: Sequence[jax.Device]) -> tuple[jax.Device, ...]:
  """Returns those of the devices that are this process's."""
  return tuple(devices[rank] for rank in own_ranks(devices))


def _sharding(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
  mesh = Mesh(np.asarray(own_devices(devices)), (AXIS,))
  return NamedSharding(mesh, PartitionSpec(*axes))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Copies a pytree to every device, as a pmap over them returns it."""
  return jax.device_put(tree, _sharding(devices))


def split(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Gives every device its part of a pytree, as a pmap over them returns it."""
  own = own_ranks(devices)
  rows = jax.tree.map(lambda leaf: leaf[own], tree)
  return jax.device_put(rows, _sharding(devices, AXIS))


def parallelize(
  function: Callable,
  devices: Sequence[jax.Device],
  *,
  num_args: int,
  split_args: Sequence[int] = (),
) -> functools.partial:
  """Maps `function(rank, state, ...)` over devices with pmap.

  Arguments after the rank, and results, are the same on every device, unless
  `split_args` names places of arguments with a leading axis over the devices:
  then results have one too. The state is donated. In several processes each
  calls it, with the same arguments.
  """
  mapped = jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=(0, *[0 if i in split_args else None for i in range(num_args)]),
    out_axes=0 if split_args else None,
    devices=list(devices),
    donate_argnums=(1,),
  )
  return functools.partial(mapped, own_ranks(devices))


@dataclasses.dataclass(frozen=True, eq=False)
class Batching:
  """How examples are spread over devices, and the key they draw from."""

  # Examples per device and call; None: 64, AutoAttack its own.
  batch_size: int | None = None
  # Those of other processes too; none: all local ones.
  devices: Sequence[jax.Device] = ()
  # Example i draws from `fold_in(key, first + i)`; None: `jax.random.key(0)`.
  key: Any = None
  first: int = 0

  def __post_init__(self) -> None:
    if self.batch_size is not None and self.batch_size < 1:
      raise ValueError(
        f'batch_size = {self.batch_size}; allowed: an integer >= 1'
      )
    devices = tuple(self.devices) or tuple(jax.local_devices())
    key = jax.random.key(0) if self.key is None else self.key
    object.__setattr__(self, 'devices', devices)
    object.__setattr__(self, 'key', key)


def map_examples(
  function: Callable[..., Any],
  examples: Sequence[np.ndarray],
  *shared: Any,
  batching: Batching,
  static: tuple[Any, ...] = (),
  fill: bool = False,
) -> Any:
  """Maps `function(*static, *examples, keys, *shared)` in batches of examples.

  Batches have one shape, padded by repeating examples. What an example draws
  depends on its index alone. Results, a pytree of `[B, ...]`, are returned as
  `[N, ...]` on the host, in all processes. With `fill` batches always have the
  full size, so that calls with other numbers of examples share one program, as
  do calls with equal `function` and `static`.
  """
  devices, count = batching.devices, len(examples[0])
  size = batching.batch_size or _DEFAULT_BATCH_SIZE
  if not fill:
    num_batches = -(-count // (size * len(devices)))
    size = -(-count // (num_batches * len(devices)))
  own = own_ranks(devices)
  structures, rest = separate([Callee.of((function, static)), *shared])
  program = _map_program(own_devices(devices), *structures)
  rows = size * len(devices)
  parts = []
  for start in range(0, count, rows):
    order = (start + np.arange(rows, dtype=np.int32)) % count
    indices = order.reshape(len(devices), size)[own]
    split_args: Any = (
      tuple(array[indices] for array in examples),
      batching.first + indices,
    )
    if jax.process_count() > 1:  # jit takes NumPy rows for those of all.
      split_args = jax.device_put(split_args, _sharding(devices, AXIS))
    found = program(*split_args, batching.key, rest)
    parts.append(jax.tree.map(lambda x: gather(x, devices), found))

  def merge(*values: np.ndarray) -> np.ndarray:
    flat = [each.reshape(-1, *each.shape[2:]) for each in values]
    return np.concatenate(flat)[:count]

  return jax.tree.map(merge, *parts)


@cache_while_alive
def _map_program(
  devices: tuple[jax.Device, ...], *structures: Structure | None
) -> Callable[..., Any]:
  def per_device(examples: Any, indices: Array, key: Array, rest: Any) -> Any:
    job, *shared = rejoin(structures, rest)
    function, static = job.value
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return function(*static, *examples, keys, *shared)

  program: Callable[..., Any] = shard(
    per_device, devices, num_args=4, split_args=(0, 1)
  )
  return program


def shard(
  function: Callable[..., Any],
  devices: Sequence[jax.Device],
  *,
  num_args: int,
  split_args: Sequence[int],
  donate_args: Sequence[int] = (),
) -> Any:
  """Jits per-device code, over whose axis `AXIS` it may sum.

  By shard_map: pmap keeps its functions for ever, and cannot be compiled ahead
  in several processes. Arguments of `split_args`, and all results, are split
  over devices.
  """
  mesh = Mesh(np.array(devices), (AXIS,))
  specs = tuple(
    PartitionSpec(AXIS) if place in split_args else PartitionSpec()
    for place in range(num_args)
  )

  def per_device(*args: Any) -> Any:
    own = [
      jax.tree.map(lambda x: x[0], arg) if place in split_args else arg
      for place, arg in enumerate(args)
    ]
    return jax.tree.map(lambda x: x[None], function(*own))

  return jax.jit(
    jax.shard_map(
      per_device,
      mesh=mesh,
      in_specs=specs,
      out_specs=PartitionSpec(AXIS),
      check_vma=False,
    ),
    in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs),
    donate_argnums=tuple(donate_args),
  )


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
