"""Devices, and the one place where functions are mapped over them."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax.config import choose
from advjax.processes.collectives import own_ranks
from advjax.processes.topology import find_place

# The pmapped axis.
AXIS = 'devices'
PLATFORMS = ('cpu', 'gpu', 'tpu')
_MAX_DEFAULT_CPU_DEVICES = 8


def select_devices(
  platform: str | None = None, num_devices: int | None = None
) -> list[jax.Device]:
  """Returns the devices to run on; what was asked for must be there.

  On the CPU, `num_devices` virtual devices are made if JAX has not started
  yet, by default one per core, up to 8: XLA runs the body of a loop on one
  thread, so two devices on two cores train nearly twice as fast as one.

  Args:
    platform: 'cpu', 'gpu' or 'tpu'; None takes the best there is.
    num_devices: How many of each process; None takes all.

  Returns:
    The devices, of several processes those of all, in the same order in each.

  Raises:
    ValueError: if the platform is unknown or absent, or has too few devices,
      or if the processes have different numbers of them.

  Example:
    >>> len(select_devices('cpu', 1))
    1
  """
  if num_devices is not None and num_devices < 1:
    raise ValueError(f'devices = {num_devices}; allowed: an integer >= 1')
  if platform is not None:
    choose('platform', platform, PLATFORMS)
  if platform == 'cpu' and jax.distributed.is_initialized():
    # What the processes tell each other goes by the default devices.
    jax.config.update('jax_platforms', 'cpu')
  if platform in (None, 'cpu'):
    # Once JAX has started, there are as many as there are.
    with contextlib.suppress(RuntimeError):
      jax.config.update(
        'jax_num_cpu_devices', num_devices or _default_cpu_devices()
      )
  try:
    devices = jax.devices(platform)
  except RuntimeError as error:
    raise ValueError(
      f'platform = {platform!r} was asked for, but JAX finds no such device '
      f'here; it has: {jax.default_backend()} (jax {jax.__version__})'
    ) from error
  by_process: dict[int, list[jax.Device]] = {}
  for device in devices:
    by_process.setdefault(device.process_index, []).append(device)
  counts = [len(own) for own in by_process.values()]
  several = len(counts) > 1
  if num_devices is not None and min(counts) < num_devices:
    raise ValueError(
      f'devices = {num_devices} were asked for, but there are only '
      f'{min(counts)} of platform {devices[0].platform!r}'
      f'{" in a process" if several else ""}'
    )
  if len(set(counts)) > 1:
    raise ValueError(
      f'the processes have {counts} devices; allowed: as many in each (on the '
      'CPU by --devices=N, of GPUs by CUDA_VISIBLE_DEVICES)'
    )
  return [device for own in by_process.values() for device in own[:num_devices]]


def _default_cpu_devices() -> int:
  count = os.cpu_count() or 1
  affinity = getattr(os, 'sched_getaffinity', None)  # Linux alone has it.
  cores = len(affinity(0)) if affinity else count
  if cores == count:  # Nobody has shared them out among the processes.
    cores = max(1, cores // find_place().num_local)
  return min(cores, _MAX_DEFAULT_CPU_DEVICES)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Copies a pytree to every device, as a pmap over them returns it.

  A state that is not replicated before the first call costs a second
  compile of the pmapped step.

  Args:
    tree: A pytree of arrays.
    devices: The devices; of other processes', each has copies of its own.

  Returns:
    The pytree, replicated; still one array per leaf.

  Example:
    >>> replicate({'step': np.zeros(())}, jax.devices()[:1])['step'].shape
    ()
  """
  local = [devices[rank] for rank in own_ranks(devices)]
  mesh = Mesh(np.asarray(local), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Gives every device its part of a pytree, as a pmap over them returns it.

  Args:
    tree: A pytree of arrays `[D, ...]`, a row for each device.
    devices: The devices, those of other processes too.

  Returns:
    The pytree, split over the devices of this process.

  Example:
    >>> split({'seed': np.zeros((1, 3))}, jax.devices()[:1])['seed'].shape
    (1, 3)
  """
  own = own_ranks(devices)
  mesh = Mesh(np.asarray([devices[rank] for rank in own]), (AXIS,))
  rows = jax.tree.map(lambda leaf: leaf[own], tree)
  return jax.device_put(rows, NamedSharding(mesh, PartitionSpec(AXIS)))


def parallelize(
  function: Callable,
  devices: Sequence[jax.Device],
  *,
  num_args: int,
  split_args: Sequence[int] = (),
  donate: bool = True,
) -> functools.partial:
  """Maps `function(rank, state, ...)` over devices with pmap.

  All arguments but the rank are the same on every device, and so are the
  results, of which the first device's copy is returned; with `split_args`
  every device has arguments and results of its own.

  In several processes each calls it, with the same arguments.

  Args:
    function: Per-device code with collectives over `AXIS`.
    devices: The devices, those of other processes too.
    num_args: Number of arguments after the rank.
    split_args: Places of those, counted from 0, that have a leading axis over
      the devices. If there are any, so have the results.
    donate: Whether the first argument after the rank, the state, is donated.

  Returns:
    The pmapped function with its first argument, the ranks, filled in.

  Example:
    >>> double = parallelize(
    ...   lambda rank, x: jax.lax.psum(2 * x, AXIS),
    ...   jax.devices()[:1],
    ...   num_args=1,
    ... )
    >>> float(double(np.float32(3)))
    6.0
  """
  mapped = jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=(0, *[0 if i in split_args else None for i in range(num_args)]),
    out_axes=0 if split_args else None,
    devices=list(devices),
    donate_argnums=(1,) if donate else (),
  )
  return functools.partial(mapped, own_ranks(devices))
