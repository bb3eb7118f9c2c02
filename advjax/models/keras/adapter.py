"""From a Keras model to a `Model`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from advjax.models.adapters import Model, check_num_frozen
from advjax.models.keras import initial
from advjax.models.keras.network import (
  Network,
  split,
  take_apart,
  updated_state,
  variables_set,
)

PyTree = Any


def from_keras(model: Any) -> Model:
  """Adapts a Keras 3 classifier on the JAX backend.

  `params` are its trainable variables, layer -> name -> array; `model_state`
  the others likewise: BatchNorm's statistics and the seeds of dropout. The
  model's own variables are never changed. `init` draws new weights with the
  model's initializers; `pretrained` returns those that the model has now, and
  training starts from them.

  `stages`, of a functional or Sequential model whose layers are called once
  and whose input size is known, are cut where the maps become smaller: a
  stage ends when no map of its resolution is left to come. What follows the
  maps is the last stage, the head. BatchNorm and dropout of frozen stages run
  as in evaluation.

  Each device has BatchNorm statistics of its own batch (Keras' `synchronized`
  is for TensorFlow alone), and the same dropout masks; a train step averages
  the running statistics over devices. Regularizers of layers are not read.

  Args:
    model: Functional, Sequential or subclassed, with weights: from images
      `[B, H, W, C]` in [0, 1] (other scales belong into its first layer) to
      logits `[B, K]`. Layers with `trainable = False` stay as they are.

  Returns:
    The model. `features`, `head` and `class_weights` are there where it ends
    in global average pooling and a dense layer.

  Raises:
    ValueError: if it has no weights yet or returns probabilities, or if Keras
      runs on another backend.

  Example:
    >>> import jax
    >>> from advjax.models.keras.backend import import_keras
    >>> keras = import_keras()
    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model = from_keras(network)
    >>> params, state = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(params, state, jnp.ones((2, 4)), train=False)[0].shape
    (2, 3)
  """
  network = take_apart(model)

  def pretrained(params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    return merge(params, current(network.params)), merge(
      model_state, current(network.state)
    )

  adapted = adapt(network, lambda shape: network, lambda images: images)
  return adapted._replace(pretrained=pretrained)


def current(variables: Any) -> dict[str, dict[str, np.ndarray]]:
  """Returns the values that Keras variables have, but no seeds.

  Args:
    variables: Layer -> name -> variable.

  Returns:
    Layer -> name -> array.
  """
  return {
    layer: {
      name: np.array(variable.value)
      for name, variable in named.items()
      if variable.dtype != 'uint32'
    }
    for layer, named in variables.items()
  }


def merge(values: PyTree, known: PyTree) -> PyTree:
  """Replaces some arrays.

  Args:
    values: Layer -> name -> array.
    known: The same, but not of all.

  Returns:
    `values` as NumPy arrays, with those of `known` where there are.
  """
  return {
    layer: {
      name: np.asarray(known.get(layer, {}).get(name, value))
      for name, value in named.items()
    }
    for layer, named in values.items()
  }


def adapt(
  network: Network,
  network_of: Callable[[Sequence[int]], Network],
  preprocess: Callable[[Array], Array],
) -> Model:
  """Adapts a family of networks that differ by their input size alone.

  Args:
    network: One of them, for what all have in common.
    network_of: From the shape of one image to the network for it.
    preprocess: From images in [0, 1] to what the networks take.

  Returns:
    The model, without `pretrained`.
  """
  stages = network.stages

  def init(key: Array, images: Array) -> tuple[PyTree, PyTree]:
    return initial.draw(network_of(images.shape[1:]), key)

  def apply(
    params: PyTree,
    model_state: PyTree,
    images: Array,
    *,
    train: bool,
    num_frozen: int = 0,
  ) -> tuple[Array, PyTree]:
    check_num_frozen(num_frozen, len(stages), network.model.name)
    here = network_of(images.shape[1:])
    train = train and (num_frozen == 0 or num_frozen < len(stages))
    frozen, rest = None, here.model
    if train and num_frozen:
      # Cut alike for all sizes of images.
      frozen, rest = split(here, network.ranks, num_frozen)
    with variables_set(here, params, model_state) as scope:
      hidden = preprocess(jnp.asarray(images))
      if frozen is not None:
        hidden = frozen(hidden, training=False)
      logits = rest(hidden, training=train)
      if train and model_state:
        model_state = updated_state(here, scope)
    return _at_least_float32(logits), model_state

  model = Model(init, apply, stages)
  if not network.head:
    return model
  pooling, dense = network.head

  def features(params: PyTree, model_state: PyTree, images: Array) -> Array:
    here = network_of(images.shape[1:])
    with variables_set(here, params, model_state):
      return here.body(preprocess(jnp.asarray(images)), training=False)

  def head(params: PyTree, model_state: PyTree, maps: Array) -> Array:
    with variables_set(network, params, model_state):
      return _at_least_float32(dense(pooling(maps)))

  def class_weights(params: PyTree) -> Array:
    return params[name]['kernel']

  name = _layer_of(network, dense.kernel)
  return model._replace(
    features=features, head=head, class_weights=class_weights if name else None
  )


def _layer_of(network: Network, variable: Any) -> str | None:
  """The layer that has a variable among the params, if one has."""
  for layer, named in network.params.items():
    if any(each is variable for each in named.values()):
      return layer
  return None


def _at_least_float32(logits: Array) -> Array:
  return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
