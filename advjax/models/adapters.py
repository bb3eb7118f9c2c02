"""The interface of networks, and adapters to it."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jax import Array

if TYPE_CHECKING:
  from flax import nnx  # Slow to import, and few networks need it.

PyTree = Any

# The key of a Linen network that draws: in its state, but no collection.
_RNGS = 'rngs'


class Model(NamedTuple):
  """A classifier as two pure functions.

  A function of yours fits as it is: `Model(init, apply)`. The other fields are
  for networks that can be trained stage by stage, or explained.

  Attributes:
    init: `(key, images) -> (params, model_state)`; images is an example batch
      `[B, H, W, C]` in [0, 1], model_state is {} without BatchNorm and dropout.
      Its uint32 arrays of one axis or more are keys, other ones on each device.
    apply: `(params, model_state, images, *, train) -> (logits, model_state)`;
      logits `[B, K]` are float32 or wider, model_state is returned unchanged
      unless train is true. With stages it takes `num_frozen` (default 0) too:
      so many stages, the first ones, run as in evaluation even if train is
      true, and keep their part of model_state.
    stages: Stages in the order the images pass them, the head last; each is
      the names of its entries in params (a dictionary). () for none.
    pretrained: `(params, model_state) -> (params, model_state)`, from what
      `init` returned to the trained weights that the network starts from, as
      NumPy arrays; None where it starts at random.
    features: `(params, model_state, images) -> maps`, the last feature maps
      `[B, h, w, C]` before they are pooled, in evaluation mode.
    head: `(params, model_state, maps) -> logits`, what follows the features.
    class_weights: `params -> [C, K]`, the dense layer behind global average
      pooling, where the head is just these two.
  """

  init: Callable[..., tuple[PyTree, PyTree]]
  apply: Callable[..., tuple[Array, PyTree]]
  stages: tuple[tuple[str, ...], ...] = ()
  pretrained: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] | None = None
  features: Callable[[PyTree, PyTree, Array], Array] | None = None
  head: Callable[[PyTree, PyTree, Array], Array] | None = None
  class_weights: Callable[[PyTree], Array] | None = None


def from_linen(module: nn.Module) -> Model:
  """Adapts a Linen module that is called as `module(images, train=...)`.

  One that takes images alone, as `nn.Sequential` does, has no modes.

  It can be trained stage by stage if it has an attribute `stages`, the names
  of its parts in params from the images' side to the head, and takes
  `num_frozen`. It can be explained by class activation maps if it has the
  methods `feature_maps(images, train=...)` and `logits(maps)`, and
  `class_weights(params)` where the head is global average pooling and one
  dense layer.

  Args:
    module: The module; its params are trained, all other collections
      (BatchNorm's statistics) are the model's state. So is a key, uint32, if
      it draws in training (dropout): a training pass splits it.

  Returns:
    The model; its apply raises a ValueError if num_frozen is not in
    0, ..., len(stages).

  Example:
    >>> from advjax.models.cnn import MLP
    >>> model = from_linen(MLP(10, hidden_units=()))
    >>> images = jnp.zeros((2, 4, 4, 1))
    >>> params, state = jax.jit(model.init)(jax.random.key(0), images)
    >>> model.apply(params, state, images, train=False)[0].shape
    (2, 10)
  """
  stages = tuple((name,) for name in getattr(module, 'stages', ()))
  is_own = not type(module).__module__.startswith('advjax.')
  call: Any = type(module).__call__
  parameters = inspect.signature(call).parameters
  takes_train = 'train' in parameters
  modes: list[dict[str, Any]] = [{'train': False}, {'train': True}]
  modes = modes if takes_train else [{}, {}]

  def init(key: Array, images: Array) -> tuple[PyTree, PyTree]:
    variables = dict(module.init(key, images, **modes[False]))
    params = variables.pop('params', {})
    in_training = functools.partial(run, **modes[True], mutable=list(variables))
    try:
      if is_own:
        jax.eval_shape(in_training, params, variables, images)
    except (errors.InvalidRngError, NameError):  # No axis yet: it may draw.
      variables[_RNGS] = jax.random.key_data(jax.random.fold_in(key, 1))
    return params, variables

  def run(params: PyTree, state: PyTree, inputs: Array, **options: Any) -> Any:
    collections = {name: x for name, x in state.items() if name != _RNGS}
    return module.apply({'params': params, **collections}, inputs, **options)

  def apply(
    params: PyTree,
    model_state: PyTree,
    images: Array,
    *,
    train: bool,
    num_frozen: int = 0,
  ) -> tuple[Array, PyTree]:
    check_num_frozen(num_frozen, len(stages), type(module).__name__)
    if not train or not model_state:
      logits = run(params, model_state, images, **modes[train])
      return at_least_float32(logits), model_state
    names = [name for name in model_state if name != _RNGS]
    options: dict[str, Any] = {**modes[True], 'mutable': names}
    if stages:
      options['num_frozen'] = num_frozen
    kept = {}
    if _RNGS in model_state:
      keys = jax.random.split(jax.random.wrap_key_data(model_state[_RNGS]))
      kept[_RNGS] = jax.random.key_data(keys[0])
      options['rngs'] = keys[1]  # For all streams.
    logits, updated = run(params, model_state, images, **options)
    state = {**updated, **kept}
    return at_least_float32(logits), _like(state, dict(model_state))

  def features(params: PyTree, model_state: PyTree, images: Array) -> Array:
    return run(params, model_state, images, train=False, method='feature_maps')

  def head(params: PyTree, model_state: PyTree, maps: Array) -> Array:
    return at_least_float32(run(params, model_state, maps, method='logits'))

  is_open = hasattr(module, 'feature_maps') and hasattr(module, 'logits')
  return Model(
    init,
    apply,
    stages,
    features=features if is_open else None,
    head=head if is_open else None,
    class_weights=getattr(module, 'class_weights', None),
  )


def from_nnx(create: 'Callable[[nnx.Rngs], nnx.Module]') -> Model:
  """Adapts an NNX module that is called as `module(images)`.

  Its `nnx.Param`s are trained; everything else (BatchNorm's statistics, the
  keys of random streams, as uint32) is the model's state. Training uses the
  module after `train()`, evaluation after `eval()`; neither changes a live
  object.

  Args:
    create: Makes the module from `nnx.Rngs`.

  Returns:
    The model.

  Example:
    >>> from flax import nnx
    >>> model = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    >>> images = jnp.ones((2, 4))
    >>> params, state = jax.jit(model.init)(jax.random.key(0), images)
    >>> model.apply(params, state, images, train=False)[0].shape
    (2, 3)
  """
  from flax import nnx

  # The structure of the module, without arrays; `apply` fills them in.
  abstract = nnx.eval_shape(lambda: create(nnx.Rngs(0)))

  def split(module: nnx.Module) -> Any:
    return nnx.split(module, nnx.Param, ...)

  def key_data(state: Any) -> PyTree:
    state = nnx.to_pure_dict(state)
    return _map_keys(jax.random.key_data, state, state)

  def init(key: Array, images: Array) -> tuple[PyTree, PyTree]:
    del images  # NNX modules have their shapes.
    _, params, state = split(create(nnx.Rngs(key)))
    return nnx.to_pure_dict(params), key_data(state)

  def apply(
    params: PyTree, model_state: PyTree, images: Array, *, train: bool
  ) -> tuple[Array, PyTree]:
    graphdef, all_params, all_state = split(abstract)
    nnx.replace_by_pure_dict(all_params, params)
    like = nnx.to_pure_dict(all_state)
    state = _map_keys(jax.random.wrap_key_data, model_state, like)
    nnx.replace_by_pure_dict(all_state, state)
    module: Any = nnx.merge(graphdef, all_params, all_state)
    if not train:
      module.eval()
      return at_least_float32(module(images)), model_state
    module.train()
    logits = module(images)
    updated = key_data(split(module)[2])
    return at_least_float32(logits), _like(updated, model_state)

  return Model(init, apply)


def check_num_frozen(num_frozen: int, num_stages: int, name: str) -> None:
  """Raises a ValueError unless so many stages of a network can be frozen."""
  if isinstance(num_frozen, int) and 0 <= num_frozen <= num_stages:
    return
  allowed = f'from 0 to {num_stages}, the stages of {name}'
  if num_stages == 0:
    allowed = f'0, for {name} has no stages'
  raise ValueError(f'num_frozen = {num_frozen!r}; allowed: {allowed}')


def at_least_float32(logits: Array) -> Array:
  """Logits as every apply returns them; another pytree is for `create_run`."""
  return jax.tree.map(
    lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), logits
  )


def _map_keys(convert: Callable, tree: PyTree, like: PyTree) -> PyTree:
  """Converts what are random keys in `like`: as numbers they can be saved."""
  return jax.tree.map(
    lambda x, y: (
      convert(x) if jnp.issubdtype(y.dtype, jax.dtypes.prng_key) else x
    ),
    tree,
    like,
  )


def _like(updated: PyTree, model_state: PyTree) -> PyTree:
  """Float64 images would widen the statistics, and a scan's carry with them."""
  return jax.tree.map(
    lambda new, old: (
      new.astype(old.dtype) if jnp.issubdtype(old.dtype, jnp.number) else new
    ),
    updated,
    model_state,
  )
