"""New weights of a Keras model, as a pure function of a key."""

from typing import Any

import jax
from jax import Array

from advjax.models.keras.backend import import_keras
from advjax.models.keras.network import Network, Variables, parts


def draw(network: Network, key: Array) -> tuple[Any, Any]:
  """Draws weights with the initializers that the layers have.

  Each layer is made and built once more, with the key in place of its
  initializers' seeds; the model itself is not touched.

  Args:
    network: The model's parts.
    key: Any key; may be traced.

  Returns:
    `(params, model_state)`, layer -> name -> array.

  Raises:
    ValueError: for a layer that cannot be made from its config.
  """
  values: dict[int, Array] = {}
  with jax.numpy_rank_promotion('allow'):
    for index, layer in enumerate(parts(network.model)):
      if layer.variables:
        values |= _draw_layer(layer, jax.random.fold_in(key, index))

  def filled(variables: Variables) -> dict[str, dict[str, Array]]:
    missing = [
      variable.path
      for named in variables.values()
      for variable in named.values()
      if id(variable) not in values
    ]
    if missing:
      raise ValueError(
        f'variable {missing[0]!r} belongs to no layer; allowed: variables of '
        'layers, which know how to draw them'
      )
    return {
      layer: {name: values[id(variable)] for name, variable in named.items()}
      for layer, named in variables.items()
    }

  return filled(network.params), filled(network.state)


def _draw_layer(layer: Any, key: Array) -> dict[int, Array]:
  keras = import_keras()
  try:
    twin = type(layer).from_config(layer.get_config())
  except (NotImplementedError, TypeError) as error:
    raise ValueError(
      f'layer {layer.name!r} cannot be made from its config, to draw new '
      f'weights: {str(error).splitlines()[0]}'
    ) from error
  seed = keras.random.SeedGenerator(0)
  seed.state.assign(jax.random.bits(key, (2,), 'uint32'))
  _set_seeds(twin, seed)
  twin.build_from_config(layer.get_build_config())
  shapes = [variable.shape for variable in layer.variables]
  built = [variable.shape for variable in twin.variables]
  if built != shapes or _set_seeds(twin, seed):
    raise ValueError(
      f'layer {layer.name!r} makes its weights in another way than in '
      '`build`, with initializers of its own; allowed: such layers'
    )
  values = {}
  for index, (variable, drawn) in enumerate(
    zip(layer.variables, twin.variables, strict=True)
  ):
    values[id(variable)] = drawn.value
    if variable.dtype == 'uint32':  # The state of a SeedGenerator.
      other = jax.random.fold_in(key, index)
      values[id(variable)] = jax.random.bits(other, (2,), 'uint32')
  return values


def _set_seeds(layer: Any, seed: Any) -> bool:
  """Lets all initializers draw from a seed; whether any had another."""
  keras = import_keras()
  changed = False
  for part in layer._flatten_layers():
    for initializer in list(vars(part).values()):
      if isinstance(initializer, keras.initializers.Initializer):
        changed |= getattr(initializer, 'seed', seed) is not seed
        if hasattr(initializer, 'seed'):
          initializer.seed = seed
  return changed
