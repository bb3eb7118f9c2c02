"""The roofline: how fast a program could be on a device, from its jaxpr.

time >= max(operations / matmul rate, bytes / memory bandwidth)

Operations are those of convolutions and matrix products, two to a
multiplication with its addition, without products with padding. Bytes are
those that these products cannot do without where everything between them is
fused: each reads its operands once and writes its result once. Williams et
al. 2009, doi:10.1145/1498765.1498785.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from advjax.training.setup import Run, device_inputs
from experiments.benchmarks.floor import Work


def work_of(function: Callable[..., Any], *arguments: Any) -> Work:
  """Counts the work of a function, on any platform alike.

  The body of a loop of known length counts as often as it runs, others count
  once; what is mapped over devices counts for each. Of the branches of a
  condition the one with the fewest operations counts, so that layers written
  in several ways for several platforms count as convolutions. Nothing is
  simplified: products that are computed twice or not used count too.

  Args:
    function: A pure function.
    *arguments: Arrays, or their shapes and dtypes.

  Returns:
    Operations and bytes.

  Example:
    >>> x = jax.ShapeDtypeStruct((8, 16), np.float32)
    >>> work_of(
    ...   lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y @ y.T @ y, x), x
    ... )
    Work(flops=24576.0, bytes=9216.0)
  """
  return _work(jax.make_jaxpr(function)(*arguments).jaxpr)


def step_work(training: Run) -> Work:
  """Counts the work of a training step.

  Args:
    training: From `create_run`.

  Returns:
    Operations and bytes of the products on all devices together, and the bytes
    of the update: each device reads and writes all arrays of the state.
  """
  function: Any = training.train_steps.func
  state = training.init_state()
  inputs = device_inputs(training)
  ranks = training.train_steps.args
  # The number of steps is traced: the loop over them counts once.
  counted = work_of(function, *ranks, state, *inputs, np.int32(1))
  updated = jax.tree.leaves((state.params, state.opt_state))
  moved = 2 * len(training.devices) * sum(leaf.nbytes for leaf in updated)
  return Work(counted.flops, counted.bytes + moved)


def _work(jaxpr: core.Jaxpr) -> Work:
  flops = moved = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'conv_general_dilated':
      found = [_product(eqn, _convolution(eqn))]
    elif eqn.primitive.name == 'dot_general':
      found = [_product(eqn, _matmul(eqn))]
    else:
      found = [_work(inner) for inner in _inner(eqn)]
      if eqn.primitive.name == 'cond':
        found = [min(found, key=lambda work: work.flops)]
    times = 1
    if eqn.primitive.name == 'scan':
      times = eqn.params['length']
    elif eqn.primitive.name == 'shard_map':
      times = eqn.params['mesh'].size
    flops += times * sum(work.flops for work in found)
    moved += times * sum(work.bytes for work in found)
  return Work(flops, moved)


def _inner(eqn: Any) -> list[core.Jaxpr]:
  """The jaxprs of an equation, whatever kind of call or loop it is."""
  found = []
  for leaf in jax.tree.leaves(
    eqn.params, is_leaf=lambda x: isinstance(x, (core.ClosedJaxpr, core.Jaxpr))
  ):
    if isinstance(leaf, core.ClosedJaxpr):
      found.append(leaf.jaxpr)
    elif isinstance(leaf, core.Jaxpr):
      found.append(leaf)
  return found


def _product(eqn: Any, flops: float) -> Work:
  avals = [var.aval for var in (*eqn.invars, *eqn.outvars)]
  return Work(flops, float(sum(a.size * a.dtype.itemsize for a in avals)))


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
  pairs = 1
  for index, (from_axis, kernel_axis, to_axis) in enumerate(
    zip(
      numbers.lhs_spec[2:],
      numbers.rhs_spec[2:],
      numbers.out_spec[2:],
      strict=True,
    )
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
