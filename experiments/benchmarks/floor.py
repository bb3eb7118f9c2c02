"""What the machine could do at best: its rates, and the least work of a step.

floor = max(operations / matmul rate, bytes / copy rate)

Operations are those of convolutions and matrix products, two to a
multiplication with its addition; bytes are those that must be moved where
nothing is fused away and nothing is read twice: every activation is written
once and read once per pass, every parameter and every moment of Adam is read
and written once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.benchmarks.turns import timed

# Of a matrix product; a large one, and one of a convolution of the tutorial.
_MATMULS = ((1024, 1024, 1024), (3200, 288, 64))
_COPY_MIB = 16
_REPEATS = 8


class Rates(NamedTuple):
  """What the devices do together.

  Attributes:
    flops: Operations of matrix products in a second.
    bytes: Bytes read and written by a copy in a second.
  """

  flops: float
  bytes: float


class Work(NamedTuple):
  """What a training step has to do at least.

  Attributes:
    flops: Operations.
    bytes: Bytes to move.
  """

  flops: float
  bytes: float

  def seconds(self, rates: Rates) -> float:
    """The floor."""
    return max(self.flops / rates.flops, self.bytes / rates.bytes)


def measure_rates(devices: Sequence[jax.Device], rounds: int = 5) -> Rates:
  """Measures the devices, all at once.

  Args:
    devices: The devices.
    rounds: Of which the fastest counts: a floor is what is possible.

  Returns:
    Their rates together.
  """
  count = len(devices)

  def best(function: Callable[..., Any], *arguments: Array) -> float:
    mapped = jax.pmap(function, devices=devices)
    many = [jnp.broadcast_to(x, (count, *x.shape)) for x in arguments]
    jax.block_until_ready(mapped(*many))
    return min(timed(lambda: mapped(*many))[1] for _ in range(rounds))

  def products(left: Array, right: Array) -> Array:
    # Each product waits for the one before, and none is left out.
    def body(_: int, largest: Array) -> Array:
      return (left @ (right + largest)).max() * 1e-9

    return lax.fori_loop(0, _REPEATS, body, jnp.zeros(()))

  def copies(x: Array) -> Array:
    return lax.fori_loop(0, _REPEATS, lambda _, y: -y, x)

  flops = []
  for rows, inner, columns in _MATMULS:
    seconds = best(
      products, jnp.ones((rows, inner)), jnp.ones((inner, columns))
    )
    flops.append(count * _REPEATS * 2 * rows * inner * columns / seconds)
  size = _COPY_MIB * 2**18
  seconds = best(copies, jnp.ones(size))
  return Rates(max(flops), count * _REPEATS * 2 * 4 * size / seconds)
