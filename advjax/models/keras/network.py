"""A Keras model taken apart: variables by layer, stages, feature maps."""

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array

from advjax.models.keras import graph
from advjax.models.keras.backend import import_keras

# Layer -> name -> Keras variable, or the array that it stands for.
Variables = Mapping[str, Mapping[str, Any]]

# While a model is traced, layers of it hold traced arrays.
_LOCK = threading.RLock()


class Network(NamedTuple):
  """A Keras model taken apart.

  Attributes:
    model: The model; a Sequential one as a functional one.
    params: Its trainable variables.
    state: Its other variables.
    stages: `Model.stages`; () where the order of the layers is unknown.
    ranks: Of each of its operations the number of its stage.
    head: Global average pooling and a dense layer, where just these follow
      the feature maps; or ().
    cuts: Number of frozen stages -> the models of these and of the others.
    body: From images to feature maps; None without a head.
  """

  model: Any
  params: Variables
  state: Variables
  stages: tuple[tuple[str, ...], ...]
  ranks: tuple[int, ...]
  head: tuple[Any, ...]
  body: Any
  cuts: dict[int, tuple[Any, Any]]


def take_apart(model: Any, *, renumber: bool = False) -> Network:
  """Takes a Keras model apart; nothing is computed.

  Args:
    model: A model with weights.
    renumber: Whether names that Keras numbered over all models of the
      process (`conv2d_7`) are numbered from this model's first layer.

  Returns:
    Its parts.

  Raises:
    ValueError: if it has no weights yet, returns probabilities, or two of
      its layers have one name.
  """
  keras = import_keras()
  if not isinstance(model, keras.Model):
    raise ValueError(f'model = {model!r}; allowed: a keras.Model')
  if not model.built:
    raise ValueError(
      f'model {model.name!r} has no weights yet: call it on a batch first'
    )
  if isinstance(model, keras.Sequential):
    model = keras.Model(graph.one(model.inputs), graph.one(model.outputs))
  operations = getattr(model, 'operations', [])
  if operations:
    _check_logits(model)
  params, state = _by_layer(model, renumber)
  stages, ranks = graph.stages(params, operations)
  head = graph.head(model) if operations else ()
  body = None
  if head:
    body = keras.Model(graph.one(model.inputs), graph.inputs(head[0])[0])
  return Network(model, params, state, stages, ranks, head, body, {})


def _check_logits(model: Any) -> None:
  keras = import_keras()
  last = model.layers[-1]
  softmax = getattr(last, 'activation', None) is keras.activations.softmax
  if softmax or isinstance(last, keras.layers.Softmax):
    raise ValueError(
      f'layer {last.name!r} returns probabilities; allowed: logits (set its '
      'activation to keras.activations.linear)'
    )


def _by_layer(model: Any, renumber: bool) -> tuple[Variables, Variables]:
  trainable = {id(variable) for variable in model.trainable_variables}
  params: dict[str, dict[str, Any]] = {}
  state: dict[str, dict[str, Any]] = {}
  seen: set[int] = set()
  # Last the model: a subclass may have variables of its own.
  for name, layer in [*_named(model, renumber), (model.name, model)]:
    own = [v for v in layer.variables if id(v) not in seen]
    seen |= {id(variable) for variable in own}
    if own and (name in params or name in state):
      raise ValueError(f'two layers are named {name!r}; allowed: one')
    for key, variable in _keys(own, layer).items():
      part = params if id(variable) in trainable else state
      part.setdefault(name, {})[key] = variable
  return params, state


def _named(model: Any, renumber: bool) -> list[tuple[str, Any]]:
  if not renumber:
    return [(layer.name, layer) for layer in model.layers]
  counts: Counter[str] = Counter()
  named = []
  for layer in model.layers:
    name = re.sub(r'_\d+$', '', layer.name)
    if name.replace('_', '') == type(layer).__name__.lower():
      number, counts[name] = counts[name], counts[name] + 1
      named.append((f'{name}_{number}' if number else name, layer))
    else:
      named.append((layer.name, layer))
  return named


def _keys(variables: Sequence[Any], layer: Any) -> dict[str, Any]:
  """Names of variables: with their paths only where layers are nested."""
  names = Counter(variable.name for variable in variables)
  keys: dict[str, Any] = {}
  for index, variable in enumerate(variables):
    key = variable.name
    if names[key] > 1:
      path = variable.path.rpartition(f'{layer.name}/')[2]
      # Paths of seeds are numbered over all models of the process.
      known = path not in keys and variable.dtype != 'uint32'
      key = path if known else f'{key}_{index}'
    keys[key] = variable
  return keys


def split(
  network: Network, ranks: Sequence[int], num_frozen: int
) -> tuple[Any, Any]:
  """Returns models of the first stages and of the others.

  They have the layers of the whole model, and so its variables.

  Args:
    network: With stages.
    ranks: Of each of its operations the number of its stage.
    num_frozen: From 1 to one less than there are stages.

  Returns:
    From images to what the others read, and from that to logits.
  """
  if num_frozen not in network.cuts:
    keras = import_keras()
    operations = network.model.operations
    made = {
      id(tensor)
      for operation, rank in zip(operations, ranks, strict=True)
      if rank < num_frozen
      for tensor in graph.outputs(operation)
    }
    crossing = {
      id(tensor): tensor
      for operation, rank in zip(operations, ranks, strict=True)
      if rank >= num_frozen
      for tensor in graph.inputs(operation)
      if id(tensor) in made
    }
    between = graph.one(list(crossing.values()))
    network.cuts[num_frozen] = (
      keras.Model(graph.one(network.model.inputs), between),
      keras.Model(between, graph.one(network.model.outputs)),
    )
  return network.cuts[num_frozen]


@contextlib.contextmanager
def variables_set(
  network: Network, params: Any, model_state: Any
) -> Iterator[Any]:
  """Lets the model compute with arrays in place of its variables.

  Args:
    network: The model's parts.
    params: Arrays of its trainable variables.
    model_state: Arrays of the others.

  Yields:
    The scope, whose `get_current_value(variable)` is the new array.
  """
  keras = import_keras()
  mapping = [
    (variable, values[layer][name])
    for variables, values in (
      (network.params, params),
      (network.state, model_state),
    )
    for layer, named in variables.items()
    for name, variable in named.items()
  ]
  # Adapted ones keep what they computed from their variables.
  adapted = [
    layer
    for layer in parts(network.model)
    if isinstance(layer, keras.layers.Normalization)
    and layer.input_mean is None
  ]
  with (
    _LOCK,
    # Keras adds vectors to matrices.
    jax.numpy_rank_promotion('allow'),
    keras.StatelessScope(mapping, initialize_variables=False) as scope,
  ):
    before = [(layer.mean, layer.variance) for layer in adapted]
    try:
      for layer in adapted:
        layer.finalize_state()
      yield scope
    finally:
      for layer, (mean, variance) in zip(adapted, before, strict=True):
        layer.mean, layer.variance = mean, variance


def parts(model: Any) -> Iterator[Any]:
  """Iterates over the layers of a model and of the models in it.

  Args:
    model: A Keras model.

  Yields:
    Its layers that are no models.
  """
  for layer in model.layers:
    if hasattr(layer, 'layers'):
      yield from parts(layer)
    else:
      yield layer


def updated_state(network: Network, scope: Any) -> dict[str, dict[str, Array]]:
  """Returns the arrays of the state at the end of a training pass.

  Args:
    network: The model's parts.
    scope: From `variables_set`, still open.

  Returns:
    The new `model_state`.
  """
  return {
    layer: {
      name: scope.get_current_value(variable)
      for name, variable in variables.items()
    }
    for layer, variables in network.state.items()
  }
