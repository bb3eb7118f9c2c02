"""Keras models on the JAX backend, as `Model`s; Keras is optional."""

import contextlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from advjax.models.adapters import (
  Model,
  PyTree,
  at_least_float32,
  check_num_frozen,
)

# Layer -> name -> Keras variable, or the array in its place.
Variables = Mapping[str, Mapping[str, Any]]

# While a model is traced, its layers hold traced arrays.
_LOCK = threading.RLock()

# A resolution that fell to less than this starts a stage: half, where a
# convolution without padding may have cut a border off before.
_FALL = 0.7


def import_keras() -> Any:
  """Returns the module `keras`, which is optional, on the JAX backend."""
  if 'keras' not in sys.modules:
    os.environ.setdefault('KERAS_BACKEND', 'jax')
  try:
    from advjax._extras import keras

    backend = keras.backend.backend()
  except ModuleNotFoundError as error:
    # Keras imports what its backend needs, TensorFlow say.
    backend = os.environ['KERAS_BACKEND']
    if backend == 'jax' or error.name == 'keras':
      raise
  if backend != 'jax':
    raise ValueError(
      f"KERAS_BACKEND = {backend!r}; allowed: 'jax', set before anything "
      'imports Keras'
    )
  if keras.config.image_data_format() != 'channels_last':
    raise ValueError(
      f'image_data_format = {keras.config.image_data_format()!r}; allowed: '
      "'channels_last', in the configuration of Keras"
    )
  return keras


def from_keras(model: Any) -> Model:
  """Adapts a Keras 3 classifier on the JAX backend.

  `params` are its trainable variables, layer -> name -> array; `model_state`
  holds the others in the same form: BatchNorm's statistics and the seeds of
  dropout. The model's own variables are never changed. `init` draws new
  weights with the model's initializers; `pretrained` returns those that the
  model has now, and training starts from them.

  `stages`, of a functional or Sequential model whose layers are called once
  and whose input size is known, are cut where the maps become smaller: a
  stage ends when no map of its resolution is left to come. What follows the
  maps is the last stage, the head. BatchNorm and dropout of frozen stages run
  as in evaluation.

  Each device has BatchNorm statistics of its own batch (Keras' `synchronized`
  is for TensorFlow alone), and its own dropout masks; a train step averages
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
    >>> keras = import_keras()
    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model = from_keras(network)
    >>> images = jnp.ones((2, 4))
    >>> params, state = jax.jit(model.init)(jax.random.key(0), images)
    >>> model.apply(params, state, images, train=False)[0].shape
    (2, 3)
  """
  network = Network(model)
  adapted = adapt(network, lambda shape: network, lambda images: images)
  return adapted._replace(pretrained=network.current_values)


def adapt(
  network: 'Network',
  network_of: Callable[[tuple[int, ...]], 'Network'],
  preprocess: Callable[[Array], Array],
) -> Model:
  """Adapts a family of networks, one for each shape of an image."""
  stages = network.stages

  def init(key: Array, images: Array) -> tuple[PyTree, PyTree]:
    return network_of(tuple(images.shape[1:])).draw(key)

  def apply(
    params: PyTree,
    model_state: PyTree,
    images: Array,
    *,
    train: bool,
    num_frozen: int = 0,
  ) -> tuple[Array, PyTree]:
    check_num_frozen(num_frozen, len(stages), network.model.name)
    here = network_of(tuple(images.shape[1:]))
    train = train and (num_frozen == 0 or num_frozen < len(stages))
    parts = [here.model]
    if train and num_frozen:
      # Cut alike for all sizes of images.
      parts = here.split(network.ranks, num_frozen)
    with here.variables_set(params, model_state) as scope:
      logits = preprocess(jnp.asarray(images))
      for part in parts:
        logits = part(logits, training=train and part is parts[-1])
      if train and model_state:
        model_state = jax.tree.map(scope.get_current_value, here.state)
    return at_least_float32(logits), model_state

  model = Model(init, apply, stages)
  if not network.head:
    return model
  pooling, dense = network.head

  def features(params: PyTree, model_state: PyTree, images: Array) -> Array:
    here = network_of(tuple(images.shape[1:]))
    with here.variables_set(params, model_state):
      return here.body(preprocess(jnp.asarray(images)), training=False)

  def head(params: PyTree, model_state: PyTree, maps: Array) -> Array:
    with network.variables_set(params, model_state):
      return at_least_float32(dense(pooling(maps)))

  def class_weights(params: PyTree) -> Array:
    return params[trained[0]]['kernel']

  trained = [  # Empty where the dense layer is not trainable.
    layer
    for layer, named in network.params.items()
    if any(variable is dense.kernel for variable in named.values())
  ]
  return model._replace(
    features=features,
    head=head,
    class_weights=class_weights if trained else None,
  )


class Network:
  """A Keras model taken apart: variables by layer, stages, feature maps."""

  def __init__(self, model: Any, *, renumber: bool = False):
    """With `renumber`, Keras' numbers in names (`conv2d_7`) restart."""
    keras = import_keras()
    if not isinstance(model, keras.Model):
      raise ValueError(f'model = {model!r}; allowed: a keras.Model')
    if not model.built:
      raise ValueError(
        f'model {model.name!r} has no weights yet: call it on a batch first'
      )
    if isinstance(model, keras.Sequential):
      model = keras.Model(_one(model.inputs), _one(model.outputs))
    operations = getattr(model, 'operations', [])
    last: Any = model.layers[-1] if operations else None
    softmax = getattr(last, 'activation', None) is keras.activations.softmax
    if softmax or isinstance(last, keras.layers.Softmax):
      raise ValueError(
        f'layer {last.name!r} returns probabilities; allowed: logits (set its '
        'activation to keras.activations.linear)'
      )
    self.model = model  # A Sequential one as a functional one.
    self.params, self.state = _by_layer(model, renumber)
    # `Model.stages`, and the stage of each operation.
    self.stages, self.ranks = _stages(self.params, operations)
    self.head = _head(model) if operations else ()
    self.body: Any = None  # From images to feature maps, with a head alone.
    if self.head:
      self.body = keras.Model(_one(model.inputs), _inputs(self.head[0])[0])
    self._splits: dict[int, list[Any]] = {}

  def split(self, ranks: Sequence[int], num_frozen: int) -> list[Any]:
    """Models of the first stages and of the others, with the same variables."""
    if num_frozen not in self._splits:
      keras = import_keras()
      made: set[int] = set()
      crossing: dict[int, Any] = {}
      # Before others, the operations whose tensors they read.
      for operation, rank in zip(self.model.operations, ranks, strict=True):
        if rank < num_frozen:
          made |= {id(tensor) for tensor in _outputs(operation)}
        else:
          read = {id(tensor): tensor for tensor in _inputs(operation)}
          crossing |= {key: read[key] for key in read if key in made}
      between = _one(list(crossing.values()))
      self._splits[num_frozen] = [
        keras.Model(_one(self.model.inputs), between),
        keras.Model(between, _one(self.model.outputs)),
      ]
    return self._splits[num_frozen]

  @contextlib.contextmanager
  def variables_set(self, params: PyTree, model_state: PyTree) -> Iterator[Any]:
    """Computes with arrays in place of variables; yields Keras' scope."""
    keras = import_keras()
    mapping: list[Any] = []
    variables = self.params, self.state
    jax.tree.map(
      lambda *pair: mapping.append(pair), variables, (params, model_state)
    )
    # Adapted ones keep what they computed from their variables.
    adapted = [
      layer
      for layer in layers_of(self.model)
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

  def draw(self, key: Array) -> tuple[PyTree, PyTree]:
    """Draws params and state with the initializers that the layers have."""
    values: dict[int, Array] = {}
    with jax.numpy_rank_promotion('allow'):
      for index, layer in enumerate(layers_of(self.model)):
        if layer.variables:
          values |= _draw_layer(layer, jax.random.fold_in(key, index))
    variables = self.params, self.state
    for variable in jax.tree.leaves(variables):
      if id(variable) not in values:
        raise ValueError(
          f'variable {variable.path!r} belongs to no layer; allowed: variables '
          'of layers, which have initializers'
        )
    return jax.tree.map(lambda variable: values[id(variable)], variables)

  def current_values(
    self, params: PyTree, model_state: PyTree, without: Sequence[str] = ()
  ) -> tuple[PyTree, PyTree]:
    """The variables as NumPy arrays; seeds and layers `without` as given."""

    def current(path: Any, variable: Any, given: Any) -> np.ndarray:
      known = variable.dtype != 'uint32' and path[1].key not in without
      return np.array(variable.value if known else given)

    return jax.tree_util.tree_map_with_path(
      current, (self.params, self.state), (params, model_state)
    )


def layers_of(model: Any) -> Iterator[Any]:
  """The layers of a model and of the models in it, which are none."""
  for layer in model.layers:
    if hasattr(layer, 'layers'):
      yield from layers_of(layer)
    else:
      yield layer


def _draw_layer(layer: Any, key: Array) -> dict[int, Array]:
  """Draws a layer's variables, id -> array, by building it once more."""
  try:
    copied = type(layer).from_config(layer.get_config())
  except (NotImplementedError, TypeError) as error:
    raise ValueError(
      f'layer {layer.name!r} cannot be made from its config, to draw new '
      f'weights: {str(error).splitlines()[0]}'
    ) from error
  seed = import_keras().random.SeedGenerator(0)
  seed.state.assign(jax.random.bits(key, (2,), 'uint32'))
  _set_seeds(copied, seed)
  copied.build_from_config(layer.get_build_config())
  shapes = [variable.shape for variable in layer.variables]
  built = [variable.shape for variable in copied.variables]
  if built != shapes or _set_seeds(copied, seed):
    raise ValueError(
      f'layer {layer.name!r} does not create its weights in `build` with its '
      'own initializers; allowed: layers that do'
    )
  values = {}
  for index, variable in enumerate(layer.variables):
    values[id(variable)] = copied.variables[index].value
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
      is_one = isinstance(initializer, keras.initializers.Initializer)
      if is_one and hasattr(initializer, 'seed'):
        changed |= initializer.seed is not seed
        initializer.seed = seed
  return changed


def _by_layer(model: Any, renumber: bool) -> tuple[Variables, Variables]:
  """The trainable and the other variables, by layer and name."""
  trainable = {id(variable) for variable in model.trainable_variables}
  params: dict[str, dict[str, Any]] = {}
  state: dict[str, dict[str, Any]] = {}
  seen: set[int] = set()
  counts: Counter[str] = Counter()
  # Last the model: a subclass may have variables of its own.
  for layer in (*model.layers, model):
    name = layer.name
    stem = re.sub(r'_\d+$', '', name)
    if renumber and stem.replace('_', '') == type(layer).__name__.lower():
      name = f'{stem}_{counts[stem]}' if counts[stem] else stem
      counts[stem] += 1
    own = [v for v in layer.variables if id(v) not in seen]
    seen |= {id(variable) for variable in own}
    if own and (name in params or name in state):
      raise ValueError(f'two layers are named {name!r}; allowed: unique names')
    # Variables without a name, and seeds, are numbered over all models.
    keys = [re.sub(r'^variable_\d+$', 'variable', v.name) for v in own]
    named: set[str] = set()
    for index, (key, variable) in enumerate(zip(keys, own, strict=True)):
      if keys.count(key) > 1:  # The paths tell layers in layers apart.
        path = variable.path.rpartition(f'{layer.name}/')[2]
        numbered = key == 'variable' or variable.dtype == 'uint32'
        key = f'{key}_{index}' if numbered or path in named else path
      named.add(key)
      part = params if id(variable) in trainable else state
      part.setdefault(name, {})[key] = variable
  return params, state


def _inputs(operation: Any) -> list[Any]:
  """Symbolic tensors that an operation reads at its first call."""
  # A model in a model has an `input` of its own too.
  return jax.tree.leaves(import_keras().Operation.input.fget(operation))


def _outputs(operation: Any) -> list[Any]:
  """Symbolic tensors that an operation makes at its first call."""
  return jax.tree.leaves(import_keras().Operation.output.fget(operation))


def _one(tensors: list[Any]) -> Any:
  """Unwraps one tensor: Keras warns of an array in place of a list."""
  return tensors[0] if len(tensors) == 1 else tensors


def _stages(
  params: Variables, operations: Sequence[Any]
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
  """The layers of each stage, and each operation's stage; () where unknown."""
  # What counts is the largest map still to come: a squeeze-and-excitation
  # block pools to one pixel and continues as before. 0: no maps are to come.
  sizes: list[int] = []
  for operation in reversed(operations):
    shape = _outputs(operation)[0].shape
    size = shape[1] if len(shape) == 4 else 0
    if size is None:
      return (), ()
    sizes.insert(0, max([size, *sizes[:1]]))
  made = {id(tensor) for each in operations for tensor in _outputs(each)}
  read = {id(tensor) for each in operations for tensor in _inputs(each)}
  # A layer that is called twice is at two places of the graph.
  if not sizes or not read <= made:
    return (), ()
  owner = {id(v): name for name, own in params.items() for v in own.values()}
  stages: list[dict[str, None]] = [{}]  # Sets in order.
  ranks: list[int] = []
  first = sizes[0]  # Of the stage.
  for operation, size in zip(operations, sizes, strict=True):
    if size < _FALL * first:
      first = size
      if stages[-1]:
        stages.append({})
    ranks.append(len(stages) - 1)
    for variable in getattr(operation, 'variables', ()):
      if id(variable) in owner:
        stages[-1][owner[id(variable)]] = None
  return tuple(tuple(names) for names in stages if names), tuple(ranks)


def _head(model: Any) -> tuple[Any, ...]:
  """Global average pooling and the dense layer that follow the maps, or ()."""
  keras = import_keras()
  layers = keras.layers
  made = {id(_outputs(layer)[0]): layer for layer in model.layers}
  dense = made.get(id(model.outputs[0]))
  linear = getattr(dense, 'activation', None) is keras.activations.linear
  if not (linear and isinstance(dense, layers.Dense)):
    return ()
  below: Any = made.get(id(_inputs(dense)[0]))
  while isinstance(below, layers.Dropout):
    below = made.get(id(_inputs(below)[0]))
  pools = isinstance(below, layers.GlobalAveragePooling2D)
  return (below, dense) if pools and not below.keepdims else ()
