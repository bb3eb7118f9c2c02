"""The roofline: the minimum time of a program on a device.

  time >= max(operations / matmul rate, bytes / memory bandwidth)

Operations are those of convolutions and matrix products, two per multiply-add.
Williams et al. 2009, doi:10.1145/1498765.1498785. `work_of` counts the
operations of a program from its jaxpr, `least_work` is the closed form of the
necessary operations of a training step of NSL's network, and `measure_rates`
measures the devices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from advjax.training.setup import Run
from experiments.benchmarks import runs
from experiments.benchmarks.harness import timed


class Rates(NamedTuple):
  """Operations of matrix products, and bytes of copies, in a second."""

  flops: float
  bytes: float


class Work(NamedTuple):
  """Operations to compute and bytes to move."""

  flops: float
  bytes: float

  def seconds(self, rates: Rates) -> float:
    """Returns the least time that the work takes."""
    return max(self.flops / rates.flops, self.bytes / rates.bytes)

  def bound(self, rates: Rates) -> str:
    """Returns which of the two it is that takes longer."""
    longer = self.flops / rates.flops >= self.bytes / rates.bytes
    return 'operations' if longer else 'bytes'


# ------------------------------------------------------------ rates of devices


def _fastest(
  devices: Sequence[jax.Device],
  function: Callable[..., Any],
  shapes: Sequence[Sequence[int]],
  dtype: Any,
) -> float:
  """Seconds of the fastest of some calls on all devices at once."""
  keys = jax.random.split(jax.random.key(0), len(shapes))
  arrays = [
    # Products of zeros are faster.
    jax.random.normal(key, (len(devices), *shape), dtype)
    for key, shape in zip(keys, shapes, strict=True)
  ]
  mapped = jax.pmap(function, devices=devices)
  place = jax.pmap(lambda *x: x, devices=devices)
  placed = jax.block_until_ready(place(*arrays))
  jax.block_until_ready(mapped(*placed))
  return min(timed(lambda: mapped(*placed))[1] for _ in range(5))


def matmul_rate(
  devices: Sequence[jax.Device],
  size: Sequence[int],
  dtype: Any = jnp.float32,
  precision: str = 'default',
  repeats: int = 8,
) -> float:
  """Measures operations of matrix products in a second, on all devices."""
  rows, inner, columns = size

  def products(x: jax.Array, right: jax.Array, back: jax.Array) -> jax.Array:
    for index in range(repeats):  # A loop would copy what it carries.
      x = x @ (back if index % 2 else right)
      x = (x * (columns if index % 2 else inner) ** -0.5).astype(dtype)
    return x

  shapes = [(rows, inner), (inner, columns), (columns, inner)]
  with jax.default_matmul_precision(precision):
    seconds = _fastest(devices, products, shapes, dtype)
  return len(devices) * repeats * 2 * math.prod(size) / seconds


def copy_rate(
  devices: Sequence[jax.Device], mib: int, repeats: int = 8
) -> float:
  """Measures bytes read and written by copies in a second, on all devices."""

  def copies(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, repeats, lambda i, x: x + i, x)

  seconds = _fastest(devices, copies, [(mib * 2**18,)], jnp.float32)
  # The argument is copied once before the loop.
  return len(devices) * (repeats + 1) * 2 * mib * 2**20 / seconds


def measure_rates(devices: Sequence[jax.Device], mib: int = 16) -> Rates:
  """Measures float32: the best of a large product and of a convolution's."""
  sizes = ((1024, 1024, 1024), (3200, 288, 64))
  flops = max(matmul_rate(devices, size) for size in sizes)
  return Rates(flops, copy_rate(devices, mib))


# ------------------------------------------------------- the work of a program


def work_of(function: Callable[..., Any], *arguments: Any) -> Work:
  """Counts the work of a function, on any platform alike.

  Products with padding are not counted. Bytes are those that products cannot do
  without where everything between them is fused: each reads its operands once
  and writes its result once. The body of a loop of known length counts as
  often as it runs, others count once; what is mapped over devices counts for
  each. Of the branches of a condition the one with the fewest operations
  counts, so that layers written in several ways for several platforms count as
  convolutions. Products that are computed twice or not used count too.

  The function is pure; its arguments are arrays, or their shapes and dtypes.
  """
  return _work(jax.make_jaxpr(function)(*arguments).jaxpr)


def step_work(training: Run) -> Work:
  """Counts a training step on all devices, with the bytes of the update.

  Each device reads and writes all arrays of the state.
  """
  mapped: Any = training.train_steps.func
  state = jax.eval_shape(training.init_state)
  # The number of steps is traced: the loop over them counts once.
  counted = work_of(mapped, *runs.step_arguments(training, 1, state))
  updated = jax.tree.leaves((state.params, state.opt_state))
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in updated)
  moved = 2 * len(training.devices) * size
  return Work(counted.flops, counted.bytes + moved)


def _is_jaxpr(value: Any) -> bool:
  return isinstance(value, (core.ClosedJaxpr, core.Jaxpr))


def _work(jaxpr: core.Jaxpr) -> Work:
  flops = moved = 0.0
  for eqn in jaxpr.eqns:
    name, times = eqn.primitive.name, 1
    if name in ('conv_general_dilated', 'dot_general'):
      avals: list[Any] = [var.aval for var in (*eqn.invars, *eqn.outvars)]
      count = _convolution if name == 'conv_general_dilated' else _matmul
      size = float(sum(aval.size * aval.dtype.itemsize for aval in avals))
      found = [Work(count(eqn), size)]
    else:
      # Of any kind of call or loop.
      leaves: Any = jax.tree.leaves(eqn.params, is_leaf=_is_jaxpr)
      found = [_work(getattr(x, 'jaxpr', x)) for x in leaves if _is_jaxpr(x)]
    if name == 'cond':
      found = [min(found, key=lambda work: work.flops)]
    elif name == 'scan':
      times = eqn.params['length']
    elif name == 'shard_map':
      times = eqn.params['mesh'].size
    flops += times * sum(work.flops for work in found)
    moved += times * sum(work.bytes for work in found)
  return Work(flops, moved)


def _matmul(eqn: Any) -> float:
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  inner = math.prod(shape[axis] for axis in contracted)
  return 2.0 * eqn.outvars[0].aval.size * inner


def _convolution(eqn: Any) -> float:
  params = eqn.params
  left, right = (var.aval.shape for var in eqn.invars)
  out = eqn.outvars[0].aval.shape
  numbers = params['dimension_numbers']
  axes = (numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:])
  pairs = 1
  for index, (from_axis, kernel_axis, to_axis) in enumerate(
    zip(*axes, strict=True)
  ):
    hole = params['lhs_dilation'][index]
    place = (
      np.arange(out[to_axis])[:, None] * params['window_strides'][index]
      + np.arange(right[kernel_axis])[None] * params['rhs_dilation'][index]
      - params['padding'][index][0]
    )
    end = (left[from_axis] - 1) * hole + 1
    pairs *= int(((place >= 0) & (place < end) & (place % hole == 0)).sum())
  batch, features = (out[axis] for axis in numbers.out_spec[:2])
  return 2.0 * pairs * batch * features * right[numbers.rhs_spec[1]]


# ------------------------------------------- the least work of NSL's network

# Places of the output that the next layer reads, inputs of one, outputs: the
# two pools read 26 x 26 and 10 x 10.
LAYERS = (
  (26 * 26, 9 * 1, 32),
  (10 * 10, 9 * 32, 64),
  (3 * 3, 9 * 64, 64),
  (1, 576, 64),
  (1, 64, 10),
)
PARAMETERS = sum((inputs + 1) * outputs for _, inputs, outputs in LAYERS)
FORWARD_FLOPS = sum(2 * math.prod(layer) for layer in LAYERS)
_ADAM_ARRAYS = 7  # Parameters and two moments read and written, one gradient.


def least_work(
  objective: str, batch_size: int, attack_steps: int = runs.ATTACK_STEPS
) -> Work:
  """Returns what a training step of NSL's network cannot do without.

  With F operations in a forward pass, F1 of them in the first layer, the
  gradient of the weights takes F, that of the images F, and that of the
  weights alone F1 less:

    standard  3 F - F1
    nsl       6 F - F1, for the clean pass gives both gradients
    pgd       2 F per attack step, and 3 F - F1

  Bytes are those of float32 where nothing is fused and nothing is read twice:
  every activation is written once and read once per pass, every parameter and
  every moment of Adam is read and written once. The objective is one of
  `runs.OBJECTIVES`.
  """
  forward, first = FORWARD_FLOPS, 2 * math.prod(LAYERS[0])
  flops, passes = {
    'standard': (3 * forward - first, 2),
    'nsl': (6 * forward - first, 4),
    'pgd': ((2 * attack_steps + 3) * forward - first, 2 * attack_steps + 2),
  }[objective]
  activations = 784 + sum(places * outs for places, _, outs in LAYERS)
  moved = passes * 2 * activations * batch_size + _ADAM_ARRAYS * PARAMETERS
  return Work(float(flops * batch_size), 4.0 * moved)
