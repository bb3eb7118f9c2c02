"""The training step and the compiled loop over steps, as per-device code.

Everything here runs on one of many devices, with collectives over the named
axis `AXIS`: `devices.parallelize` maps it with pmap, and it runs the same under
`shard_map`.

Randomness: the permutation of an epoch is a function of (seed, epoch), and the
key of an example is `fold_in(fold_in(key, step), index)` with its index in the
training split, so that neither depends on the number of devices. Dropout draws
from keys in the state of the network, each device from others.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from advjax.augmentation import Augment
from advjax.data import to_float
from advjax.devices import AXIS
from advjax.models import Model
from advjax.training.objectives import Metrics, Objective
from advjax.types import Array, ArrayLike

# Groups of positions on the axis that collectives stay within; None: one.
Groups = tuple[tuple[int, ...], ...] | None

# (value, step) -> value at that step
Decay = Callable[[ArrayLike, ArrayLike], Array]

# Images per microbatch on the CPU: activations of so few stay in its caches.
_MICROBATCH_SIZES = range(16, 33)


class TrainState(NamedTuple):
  """Everything that a step changes; `step` is int32 `[]`."""

  step: Array
  params: Any
  model_state: Any
  opt_state: Any
  ema_params: Any

  @property
  def evaluation_params(self) -> Any:
    """The parameters to evaluate: the moving average where there is one."""
    return self.params if self.ema_params is None else self.ema_params


def create_state(
  model: Model,
  optimizer: optax.GradientTransformation,
  images: Array,
  key: Array,
  *,
  with_ema: bool = False,
) -> TrainState:
  """Initialises a network and its optimizer, on images of that shape."""
  # It runs once: optimising the program would take longer than it saves.
  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', True)
  try:
    params, model_state = jax.jit(model.init)(key, images)
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
  if model.pretrained is not None:
    trained = model.pretrained(params, model_state)
    params, model_state = jax.tree.map(jnp.array, trained)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=optimizer.init(params),
    ema_params=jax.tree.map(jnp.copy, params) if with_ema else None,
  )


class StepPlan(NamedTuple):
  """The static sizes of training.

  A batch is shared by `num_devices`, a device group; groups follow each other
  on the axis, train runs of their own, and collectives stay within them.
  """

  num_examples: int
  batch_size: int
  num_devices: int
  num_groups: int = 1

  @property
  def groups(self) -> Groups:
    """Positions on the axis by group, as collectives take them."""
    if self.num_groups == 1:
      return None
    positions = range(self.num_groups * self.num_devices)
    return tuple(
      tuple(positions[start : start + self.num_devices])
      for start in positions[:: self.num_devices]
    )

  @property
  def steps_per_epoch(self) -> int:
    """Batches per epoch, the last smaller one included."""
    return -(-self.num_examples // self.batch_size)

  @property
  def images_per_device(self) -> int:
    """Images of a batch on each device, padding included."""
    return -(-self.batch_size // self.num_devices)


class RunInputs(NamedTuple):
  """The traced inputs in which runs of one compiled program differ.

  `rows` are indices of the training images to train on, int32 `[num_examples]`;
  `key` draws the order of the examples and the objective's randomness.
  """

  rows: Array
  hparams: Mapping[str, Array]
  key: Array


def _batch_gradient(
  loss_fn: Callable[[Any, Mapping[str, Array], Array], Any],
  params: Any,
  batch: Mapping[str, Array],
  keys: Array,
  microbatch_size: int = 0,
) -> tuple[Any, tuple[Any, Any]]:
  """The gradient of a sum over examples on this device; 0: all at once."""
  gradient = jax.grad(loss_fn, has_aux=True)
  own = _varying(params)
  if not microbatch_size:
    return gradient(own, batch, keys)

  def add(total: Any, part: Any) -> tuple[Any, Any]:
    found, (_, metrics) = gradient(own, *part)
    return jax.tree.map(jnp.add, total, found), metrics

  parts = jax.tree.map(
    lambda leaf: leaf.reshape(-1, microbatch_size, *leaf.shape[1:]),
    (batch, keys),
  )
  zeros = _varying(jax.tree.map(jnp.zeros_like, params))
  total, metrics = jax.lax.scan(add, zeros, parts)
  return total, ((), jax.tree.map(lambda leaf: leaf.reshape(-1), metrics))


def _choose_microbatch(params: Any, model_state: Any, num_images: int) -> int:
  """The microbatch size that is fast on a CPU, a divisor; 0 for none."""
  if num_images <= max(_MICROBATCH_SIZES) or jax.tree.leaves(model_state):
    return 0  # BatchNorm needs the batch at once.
  if all(leaf.ndim < 4 for leaf in jax.tree.leaves(params)):
    return 0  # Without convolutions, one large product is faster.
  sizes = [size for size in _MICROBATCH_SIZES if num_images % size == 0]
  return max(sizes, default=0)


def _varying(tree: Any) -> Any:
  """Marks replicated arrays as per-device: shard_map would psum gradients."""
  if AXIS not in jax.sharding.get_abstract_mesh().manual_axes:
    return tree
  return jax.tree.map(
    lambda leaf: jax.lax.pcast(leaf, AXIS, to='varying'), tree
  )


def _psum(tree: Any, groups: Groups) -> Any:
  """Sums over the devices in one message rather than one per leaf."""
  flat, unravel = ravel_pytree(tree)
  return unravel(jax.lax.psum(flat, AXIS, axis_index_groups=groups))


def _is_key(leaf: Array) -> bool:
  return leaf.dtype == jnp.uint32 and leaf.ndim > 0


def _own_keys(model_state: Any, groups: Groups) -> Any:
  """Gives each device other keys, so other dropout; the first keeps its own."""
  size = len(groups[0]) if groups else jax.lax.axis_size(AXIS)
  rank = (jax.lax.axis_index(AXIS) % size).astype(jnp.uint32)
  return jax.tree.map(lambda x: x ^ rank if _is_key(x) else x, model_state)


def _mean_statistics(
  new: Any, old: Any, groups: Groups, num_frozen: int
) -> Any:
  """Averages BatchNorm statistics over the devices, in one message.

  Identity for synchronised ones; keeps others from drifting apart. Keys become
  those of the first device.
  """
  leaves, tree = jax.tree.flatten(new)
  before = jax.tree.leaves(old)
  places = [
    place
    for place, leaf in enumerate(leaves)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  ]
  # A mean of equal numbers may round; the mean of their changes, 0, does not,
  # and frozen statistics have to stay bit for bit.
  flat, unravel = ravel_pytree(
    [leaves[i] - before[i] if num_frozen else leaves[i] for i in places]
  )
  means = unravel(jax.lax.pmean(flat, AXIS, axis_index_groups=groups))
  for place, mean in zip(places, means, strict=True):
    leaves[place] = before[place] + mean if num_frozen else mean
  for place, leaf in enumerate(leaves):
    if _is_key(leaf):
      everywhere = jax.lax.all_gather(leaf, AXIS, axis_index_groups=groups)
      leaves[place] = everywhere[0]
  return jax.tree.unflatten(tree, leaves)


def make_train_step(
  apply: Callable,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  ema_decay: float = 0.0,
  multiplier_decay: Decay | None = None,
  groups: Groups = None,
  num_frozen: int = 0,
  microbatches: bool = False,
) -> Callable:
  """Builds the update of the state by one batch, to run under `AXIS`.

  params <- params - learning_rate * schedule(step) * direction(gradient)

  `train_step(state, batch, mask, hparams, key) -> (state, metrics)`, where the
  gradient and the metrics are means over the global batch. The optimizer has to
  keep the parameters of the first `num_frozen` stages.
  """
  if num_frozen:
    apply = functools.partial(apply, num_frozen=num_frozen)

  def train_step(
    state: TrainState,
    batch: Mapping[str, Array],
    mask: Array,
    hparams: Mapping[str, Array],
    key: Array,
  ) -> tuple[TrainState, Metrics]:
    if multiplier_decay is not None:
      multiplier = multiplier_decay(hparams['multiplier'], state.step)
      hparams = {**hparams, 'multiplier': multiplier}

    def loss_fn(
      params: Any, batch: Mapping[str, Array], key: Array
    ) -> tuple[Array, tuple[Any, Metrics]]:
      return objective(apply, params, own_state, batch, hparams, key)

    own_state = _own_keys(state.model_state, groups)
    size = 0
    if microbatches:
      size = _choose_microbatch(state.params, state.model_state, len(mask))
    gradients, (model_state, metrics) = _batch_gradient(
      loss_fn, state.params, batch, key, size
    )
    sums = jax.tree.map(lambda metric: (mask * metric).sum(), metrics)
    gradients, sums, count = _psum((gradients, sums, mask.sum()), groups)
    if jax.tree.leaves(state.model_state):
      model_state = _mean_statistics(
        model_state, state.model_state, groups, num_frozen
      )
    else:
      model_state = state.model_state
    directions, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    rate = hparams['learning_rate'] * schedule(state.step)
    params = jax.tree.map(
      lambda param, direction: param - (rate * direction).astype(param.dtype),
      state.params,
      directions,
    )
    ema_params = state.ema_params
    if ema_params is not None:
      ema_params = optax.incremental_update(params, ema_params, 1 - ema_decay)
    state = TrainState(
      state.step + 1, params, model_state, opt_state, ema_params
    )
    return state, jax.tree.map(lambda total: total / count, sums)

  return train_step


def _take_batch(
  rank: Array,
  data: Mapping[str, Array],
  permutation: Array,
  position: Array,
  key: Array,
  plan: StepPlan,
  augment: Augment | None,
) -> tuple[dict[str, Array], Array, Array]:
  """This device's images of a batch, their mask and their keys.

  Padding repeats real examples, with weight 0.
  """

  def take(order: Array) -> tuple[Array, Array, Array]:
    indices = permutation[order]
    return indices, to_float(data['image'][indices]), data['label'][indices]

  def draw(keys: Array) -> tuple[Array, Array]:
    places = jax.vmap(
      lambda key: jax.random.randint(key, (), 0, plan.num_examples)
    )(keys)
    _, images, labels = take(places)
    return images, labels

  rank %= plan.num_devices
  rows = rank * plan.images_per_device + jnp.arange(plan.images_per_device)
  order = position * plan.batch_size + rows
  mask = (rows < plan.batch_size) & (order < plan.num_examples)
  indices, images, labels = take(order % plan.num_examples)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
  if augment is not None:
    images, labels = augment(images, labels, keys, draw)
  mask = mask.astype(jnp.float32)
  # Known without a message between the devices.
  count = jnp.minimum(
    plan.batch_size, plan.num_examples - position * plan.batch_size
  )
  batch = {'image': images, 'label': labels, 'weight': mask / count}
  return batch, mask, keys


def make_train_steps(
  train_step: Callable, plan: StepPlan, augment: Augment | None = None
) -> Callable:
  """Builds the compiled loop: shuffling and many steps in one program.

  `train_steps(rank, state, data, inputs, num_steps) -> (state, history)`, for
  at most the rest of the epoch. num_steps is traced, so that one program serves
  chunks of every length; `history` has a float32 `[steps_per_epoch]` for each
  metric, of which num_steps entries are set.
  """

  # All that is traced is an argument, so that one trace serves the loop and
  # eval_shape.
  @functools.partial(jax.jit, inline=True)
  def one_step(
    state: TrainState,
    rank: Array,
    data: Mapping[str, Array],
    permutation: Array,
    draw_key: Array,
    hparams: Mapping[str, Array],
  ) -> tuple[TrainState, Metrics]:
    position = state.step % plan.steps_per_epoch
    key = jax.random.fold_in(draw_key, state.step)
    batch, mask, keys = _take_batch(
      rank, data, permutation, position, key, plan, augment
    )
    return train_step(state, batch, mask, hparams, keys)

  def train_steps(
    rank: Array,
    state: TrainState,
    data: Mapping[str, Array],
    inputs: RunInputs,
    num_steps: Array,
  ) -> tuple[TrainState, Metrics]:
    shuffle_key, draw_key = jax.random.split(inputs.key)
    epoch = state.step // plan.steps_per_epoch
    permutation = jax.random.permutation(
      jax.random.fold_in(shuffle_key, epoch), inputs.rows
    )
    others = (rank, data, permutation, draw_key, inputs.hparams)

    def body(
      index: Array, carry: tuple[TrainState, Metrics]
    ) -> tuple[TrainState, Metrics]:
      state, history = carry
      state, metrics = one_step(state, *others)
      history = {
        name: values.at[index].set(metrics[name].astype(jnp.float32))
        for name, values in history.items()
      }
      return state, history

    names = jax.eval_shape(one_step, state, *others)[1]
    history = {name: jnp.zeros(plan.steps_per_epoch) for name in names}
    return jax.lax.fori_loop(0, num_steps, body, (state, history))

  return train_steps
