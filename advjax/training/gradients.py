"""The gradient of a batch: over the rows of a device, and over the devices.

On the CPU, the rows of a batch go through a network of convolutions a few at a
time, and their gradients are added up: what one layer makes of so few is still
in the caches when the next one reads it. BatchNorm needs all rows at once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from advjax.devices import AXIS
from advjax.types import Array

# Places on the axis that collectives stay within; None: all of them.
Teams = tuple[tuple[int, ...], ...] | None
# (params, batch, keys) -> (loss, (model_state, metrics))
LossFn = Callable[[Any, Mapping[str, Array], Array], Any]

_ROWS_AT_ONCE = range(16, 33)


def gradient_of_rows(
  loss_fn: LossFn,
  params: Any,
  batch: Mapping[str, Array],
  keys: Array,
  rows_at_once: int = 0,
) -> tuple[Any, tuple[Any, Any]]:
  """Returns the gradient of a loss that is a sum over rows.

  sum over parts of d loss_fn(params, part) / d params

  Args:
    loss_fn: `(params, batch, keys) -> (loss, (model_state, metrics))`, metrics
      `[B]` each.
    params: What the gradient is of.
    batch: Arrays `[B, ...]`.
    keys: `[B]`, or None.
    rows_at_once: Rows of a part, a divisor of B, where no row's loss depends
      on other rows; 0: all of them.

  Returns:
    The gradient on this device, and `(model_state, metrics)`.

  Example:
    >>> def loss_fn(params, batch, keys):
    ...   losses = params * batch['x']
    ...   return losses.sum(), ((), {'loss': losses})
    >>> batch = {'x': jnp.arange(4.0)}
    >>> gradient, (_, metrics) = gradient_of_rows(
    ...   loss_fn, jnp.float32(2), batch, None, 2
    ... )
    >>> float(gradient), metrics['loss'].tolist()
    (6.0, [0.0, 2.0, 4.0, 6.0])
  """
  gradient = jax.grad(loss_fn, has_aux=True)
  own = _varying(params)
  if not rows_at_once:
    return gradient(own, batch, keys)

  def add(total: Any, part: Any) -> tuple[Any, Any]:
    found, (_, metrics) = gradient(own, *part)
    return jax.tree.map(jnp.add, total, found), metrics

  parts = jax.tree.map(
    lambda leaf: leaf.reshape(-1, rows_at_once, *leaf.shape[1:]), (batch, keys)
  )
  zeros = _varying(jax.tree.map(jnp.zeros_like, params))
  total, metrics = jax.lax.scan(add, zeros, parts)
  return total, ((), jax.tree.map(lambda leaf: leaf.reshape(-1), metrics))


def rows_at_once(params: Any, model_state: Any, num_rows: int) -> int:
  """Returns how many rows a CPU takes at once, or 0 for all of them.

  Args:
    params: Of the network.
    model_state: Its BatchNorm statistics.
    num_rows: Rows on this device.

  Returns:
    A divisor of num_rows.

  Example:
    >>> kernel = jnp.ones((3, 3, 1, 8))
    >>> rows_at_once(kernel, {}, 64), rows_at_once(kernel, {}, 32)
    (32, 0)
  """
  if num_rows <= max(_ROWS_AT_ONCE) or jax.tree.leaves(model_state):
    return 0
  if all(leaf.ndim < 4 for leaf in jax.tree.leaves(params)):
    return 0  # Without convolutions, one large product is faster.
  return max((n for n in _ROWS_AT_ONCE if num_rows % n == 0), default=0)


def psum(tree: Any, teams: Teams) -> Any:
  """Sums over the devices in one message.

  With one for each leaf, the devices would wait for each other as often.

  Args:
    tree: Floating arrays.
    teams: Devices that are added up; None: all of them.

  Returns:
    The sums.
  """
  flat, unravel = ravel_pytree(tree)
  return unravel(jax.lax.psum(flat, AXIS, axis_index_groups=teams))


def mean_statistics(new: Any, old: Any, teams: Teams, num_frozen: int) -> Any:
  """Averages BatchNorm's statistics over the devices, in one message.

  Identity for synchronised ones; keeps others from drifting apart, of which
  only the first device's would survive.

  Args:
    new: After a step on this device.
    old: Before it.
    teams: Devices that are averaged over; None: all of them.
    num_frozen: Stages whose statistics stay bit for bit.

  Returns:
    The means; what is not floating stays as it is.
  """
  leaves, tree = jax.tree.flatten(new)
  before = jax.tree.leaves(old)
  places = [
    place
    for place, leaf in enumerate(leaves)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  ]
  # A mean of equal numbers may round; one of their changes, 0, does not.
  flat, unravel = ravel_pytree(
    [leaves[i] - before[i] if num_frozen else leaves[i] for i in places]
  )
  means = unravel(jax.lax.pmean(flat, AXIS, axis_index_groups=teams))
  for place, mean in zip(places, means, strict=True):
    leaves[place] = before[place] + mean if num_frozen else mean
  return jax.tree.unflatten(tree, leaves)


def _varying(tree: Any) -> Any:
  """Replicated arrays as this device's own, for gradients of its own.

  Where shard_map keeps track of what is replicated, gradients of replicated
  arrays come summed over the devices, and the psum would count them again.
  """
  if AXIS not in jax.sharding.get_abstract_mesh().manual_axes:
    return tree
  return jax.tree.map(
    lambda leaf: jax.lax.pcast(leaf, AXIS, to='varying'), tree
  )
