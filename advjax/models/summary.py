"""A table of a network's layers, for --print_model."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from advjax.models.adapters import Model

_WIDTHS = (24, 16, 20, 12)


def summary(model: Model, images: Array) -> str:
  """Lists layers, output shapes and parameters, as Keras' summary does.

  Nothing is computed. The layers of Linen modules are listed in the order
  they are called, those of other networks by their parameters alone.

  Args:
    model: The network.
    images: An example batch `[B, H, W, C]`.

  Returns:
    The table; sizes are in units of 1024 bytes.

  Example:
    >>> import jax.numpy as jnp
    >>> from advjax.models import create_model
    >>> model = create_model({'name': 'logistic_regression'}, 10)
    >>> print(summary(model, jnp.zeros((1, 28, 28, 1))))
    Layer                   Kind            Output shape          Parameters
    ------------------------------------------------------------------------
    Dense_0                 Dense           (1, 10)                    7,850
    ------------------------------------------------------------------------
    Total parameters: 7,850 (30.66 KB)
  """
  calls: dict[str, tuple[str, str]] = {}

  def record(
    call: Callable,
    args: Any,
    kwargs: Any,
    context: nn.module.InterceptorContext,
  ) -> Any:
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__' and context.module.path:
      shape = getattr(outputs, 'shape', '')
      kind = type(context.module).__name__
      calls['/'.join(context.module.path)] = (kind, str(shape))
    return outputs

  with nn.intercept_methods(record):
    params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
  counts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path[:-1], simple=True, separator='/')
    counts[name] = counts.get(name, 0) + leaf.size
  rows = [
    (name, *calls.get(name, ('', '')), f'{counts.get(name, 0):,}')
    for name in [*calls, *(name for name in counts if name not in calls)]
  ]
  leaves = jax.tree.leaves(params)
  total = sum(leaf.size for leaf in leaves)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1024
  rule = '-' * sum(_WIDTHS)
  return '\n'.join(
    [
      _line(('Layer', 'Kind', 'Output shape', 'Parameters')),
      rule,
      *map(_line, rows),
      rule,
      f'Total parameters: {total:,} ({size:.2f} KB)',
    ]
  )


def _line(cells: tuple[str, ...]) -> str:
  *left, count = cells
  padded = [
    f'{cell:{width}}' for cell, width in zip(left, _WIDTHS, strict=False)
  ]
  return ''.join(padded) + f'{count:>{_WIDTHS[-1]}}'
