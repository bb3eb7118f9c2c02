"""The graph of a functional Keras model: its stages, its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from advjax.models.keras.backend import import_keras

# A resolution that fell to less than this starts a stage: half, where a
# convolution without padding may have cut a border off before.
_FALL = 0.7


def inputs(operation: Any) -> list[Any]:
  """Returns what an operation reads at its first call.

  Args:
    operation: Of a functional model. A model in a model has `input` too, but
      as the one that it is by itself.

  Returns:
    Symbolic tensors.
  """
  return jax.tree.leaves(import_keras().Operation.input.fget(operation))


def outputs(operation: Any) -> list[Any]:
  """Returns what an operation makes at its first call.

  Args:
    operation: Of a functional model.

  Returns:
    Symbolic tensors.
  """
  return jax.tree.leaves(import_keras().Operation.output.fget(operation))


def one(tensors: list[Any]) -> Any:
  """Returns a single tensor as itself.

  Keras warns of an array where it knows of a list of one.

  Args:
    tensors: Inputs or outputs.

  Returns:
    The tensor, or all of several.
  """
  return tensors[0] if len(tensors) == 1 else tensors


def _halvings(operations: Sequence[Any]) -> list[int]:
  """How often the resolution has fallen, up to each operation.

  What counts is the largest map still to come: a squeeze-and-excitation
  block pools to one pixel and goes on as before. -1: no maps are to come.
  """
  sizes: list[int] = []
  for operation in reversed(operations):
    shape = outputs(operation)[0].shape
    size = shape[1] if len(shape) == 4 else 0
    if size is None:
      return []
    sizes.insert(0, max([size, *sizes[:1]]))
  found: list[int] = []
  number, start = 0, max(sizes, default=0)
  for size in sizes:
    if 0 < size < _FALL * start:
      number, start = number + 1, size
    found.append(number if size else -1)
  return found


def stages(
  params: Mapping[str, Mapping[str, Any]], operations: Sequence[Any]
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
  """Cuts a network where its maps become smaller.

  Args:
    params: Layer -> name -> trainable variable.
    operations: In the order of the graph; () where that is unknown.

  Returns:
    The layers of each stage, and of each operation the number of its stage;
    () and () where sizes are unknown or a layer is called twice.
  """
  halvings = _halvings(operations)
  made = {id(tensor) for each in operations for tensor in outputs(each)}
  read = {id(tensor) for each in operations for tensor in inputs(each)}
  # A layer that is called twice is at two places of the graph.
  if not halvings or not read <= made:
    return (), ()
  owner = {
    id(variable): name
    for name, variables in params.items()
    for variable in variables.values()
  }
  names: list[tuple[str, ...]] = []
  ranks: list[int] = []
  open_stage: list[str] = []
  for index, (operation, number) in enumerate(
    zip(operations, halvings, strict=True)
  ):
    if index and number != halvings[index - 1] and open_stage:
      names.append(tuple(open_stage))
      open_stage = []
    ranks.append(len(names))
    owned = (owner.get(id(v)) for v in getattr(operation, 'variables', ()))
    open_stage += [n for n in dict.fromkeys(owned) if n is not None]
  if open_stage:
    names.append(tuple(open_stage))
  return tuple(names), tuple(ranks)


def head(model: Any) -> tuple[Any, ...]:
  """Returns global average pooling and the dense layer that follow the maps.

  Args:
    model: A functional model.

  Returns:
    The two layers, or () where others are between them or at the end.
  """
  keras = import_keras()
  layers = keras.layers
  made = {id(outputs(layer)[0]): layer for layer in model.layers}
  dense = made.get(id(model.outputs[0]))
  if not isinstance(dense, layers.Dense):
    return ()
  if dense.activation is not keras.activations.linear:
    return ()
  below = made.get(id(inputs(dense)[0]))
  while isinstance(below, layers.Dropout):
    below = made.get(id(inputs(below)[0]))
  if isinstance(below, layers.GlobalAveragePooling2D) and not below.keepdims:
    return below, dense
  return ()
