"""A table of a network's layers, for --print_model."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from advjax.models.adapters import Model

_ROW = '{:24}{:16}{:20}{:>12}'


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
  # Not nn.tabulate, which takes Linen modules alone.
  calls: dict[str, tuple[str, str]] = {}

  def record(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__' and context.module.path:
      shape = getattr(outputs, 'shape', '')
      kind = type(context.module).__name__
      calls['/'.join(context.module.path)] = (kind, str(shape))
    return outputs

  with nn.intercept_methods(record):
    params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
  counts: Counter[str] = Counter()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path[:-1], simple=True, separator='/')
    counts[name] += leaf.size
  leaves = jax.tree.leaves(params)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1024
  header = _ROW.format('Layer', 'Kind', 'Output shape', 'Parameters')
  rows = [
    _ROW.format(name, *calls.get(name, ('', '')), f'{counts[name]:,}')
    for name in dict.fromkeys([*calls, *counts])
  ]
  rule = '-' * len(header)
  total = f'Total parameters: {counts.total():,} ({size:.2f} KB)'
  return '\n'.join([header, rule, *rows, rule, total])
