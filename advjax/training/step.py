"""The train step and the loop over steps, as code for one of many devices.

Everything here is per-device code with collectives over one named axis. It
is pmapped in `parallel.py`, and the same functions run under `shard_map`.

Random numbers: the permutation of an epoch is a function of (seed, epoch),
the key of an example in a step is `fold_in(fold_in(key, step), index)` with
its index in the training split. So neither depends on the devices.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from advjax.augmentation import Augment
from advjax.data import to_float
from advjax.training.decay import Decay
from advjax.training.gradients import (
  Teams,
  gradient_of_rows,
  mean_statistics,
  psum,
  rows_at_once,
)
from advjax.training.objectives import Metrics, Objective
from advjax.training.state import TrainState
from advjax.types import Array


class StepPlan(NamedTuple):
  """The static shape of training: how many examples, rows and devices.

  Attributes:
    num_examples: Training images.
    batch_size: Images per step.
    num_devices: Devices that share a batch: a team.
    num_teams: Teams on the axis, one after the other; each trains runs of its
      own. Collectives stay within a team.
  """

  num_examples: int
  batch_size: int
  num_devices: int
  num_teams: int = 1

  @property
  def teams(self) -> Teams:
    """Places on the axis by team, as collectives take them; None for one."""
    if self.num_teams == 1:
      return None
    places = range(self.num_teams * self.num_devices)
    return tuple(
      tuple(places[start : start + self.num_devices])
      for start in places[:: self.num_devices]
    )

  @property
  def steps_per_epoch(self) -> int:
    """Batches per epoch, the last smaller one included."""
    return -(-self.num_examples // self.batch_size)

  @property
  def rows_per_device(self) -> int:
    """Rows of a batch on each device, padding included."""
    return -(-self.batch_size // self.num_devices)


class RunInputs(NamedTuple):
  """What tells runs of the same program apart; a run's own, all of it traced.

  Attributes:
    rows: The rows of the training split to train on, int32 `[num_examples]`.
    hparams: The numbers that the objective reads, and `learning_rate`.
    key: Draws the order of the examples and the objective's randomness.
  """

  rows: Array
  hparams: Mapping[str, Array]
  key: Array


def _take_batch(
  rank: Array,
  data: Mapping[str, Array],
  permutation: Array,
  position: Array,
  key: Array,
  plan: StepPlan,
  augment: Augment | None,
) -> tuple[dict[str, Array], Array, Array]:
  """This device's rows of a batch, their mask and their keys.

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
  rows = rank * plan.rows_per_device + jnp.arange(plan.rows_per_device)
  order = position * plan.batch_size + rows
  mask = (rows < plan.batch_size) & (order < plan.num_examples)
  indices, images, labels = take(order % plan.num_examples)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
  if augment is not None:
    images, labels = augment(images, labels, keys, draw)
  mask = mask.astype(jnp.float32)
  # Each device knows it: asking the others takes a message.
  count = jnp.minimum(
    plan.batch_size, plan.num_examples - position * plan.batch_size
  )
  batch = {'image': images, 'label': labels, 'weight': mask / count}
  return batch, mask, keys


def _sums(metrics: Metrics, mask: Array) -> Metrics:
  return jax.tree.map(lambda metric: (mask * metric).sum(), metrics)


def reduce_metrics(
  metrics: Metrics, mask: Array, teams: Teams = None
) -> Metrics:
  """Averages per-example metrics over the real examples of all devices.

  psum(sum(mask * metric)) / psum(sum(mask))

  Args:
    metrics: Numbers per example, `[B]`.
    mask: 1 for a real example, 0 for padding, `[B]`.
    teams: Devices that are averaged over together; None: all of them.

  Returns:
    One number per metric, the same on all devices (of a team).

  Example:
    >>> mean = jax.vmap(reduce_metrics, axis_name='devices')
    >>> values = mean(
    ...   {'loss': jnp.array([[1.0, 3.0]])}, jnp.array([[1.0, 0.0]])
    ... )
    >>> float(values['loss'][0])
    1.0
  """
  sums, count = psum((_sums(metrics, mask), mask.sum()), teams)
  return jax.tree.map(lambda total: total / count, sums)


def make_train_step(
  apply: Callable,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  ema_decay: float = 0.0,
  multiplier_decay: Decay | None = None,
  teams: Teams = None,
  num_frozen: int = 0,
  in_parts: bool = False,
) -> Callable:
  """Builds the update of the state by one batch.

  params <- params - learning_rate * schedule(step) * direction(gradient)

  where the gradient is that of the mean over the global batch.

  Args:
    apply: A `Model`'s apply.
    objective: What to minimise.
    optimizer: From `create_optimizer`.
    schedule: From `create_schedule`.
    ema_decay: Decay of the moving average of params; 0 for none.
    multiplier_decay: From `create_decay`: how `hparams['multiplier']` falls
      with the steps; None keeps it.
    teams: Devices that share a batch, `StepPlan.teams`; None: all of them.
    num_frozen: So many stages of the network, the first ones, are frozen;
      the optimizer has to hold their params.
    in_parts: Whether a large batch goes through the network a few rows at a
      time, where it can; on CPUs that is faster.

  Returns:
    `train_step(state, batch, mask, hparams, key) -> (state, metrics)`, to
    run under the axis `AXIS`; metrics are means over the global batch.

  Example:
    >>> from advjax.training.objectives import standard
    >>> step = make_train_step(
    ...   lambda params, state, images, train: (images @ params, state),
    ...   standard(),
    ...   optax.identity(),
    ...   optax.constant_schedule(1.0),
    ... )
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
      return objective(apply, params, state.model_state, batch, hparams, key)

    size = 0
    if in_parts:
      size = rows_at_once(state.params, state.model_state, len(mask))
    gradients, (model_state, metrics) = gradient_of_rows(
      loss_fn, state.params, batch, key, size
    )
    gradients, sums, count = psum(
      (gradients, _sums(metrics, mask), mask.sum()), teams
    )
    if jax.tree.leaves(state.model_state):
      model_state = mean_statistics(
        model_state, state.model_state, teams, num_frozen
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


def _make_one_step(
  train_step: Callable, plan: StepPlan, augment: Augment | None
) -> Callable:
  """Returns a step on the batch of its turn."""

  # All that is traced is an argument: so one trace, which takes a good part of
  # a second, serves the loop and the question for its shapes.
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

  return jax.jit(one_step, inline=True)


def make_train_steps(
  train_step: Callable, plan: StepPlan, augment: Augment | None = None
) -> Callable:
  """Builds the compiled loop: shuffling and many steps in one program.

  The number of steps is an argument, not a constant: one compile serves
  every chunk, so the host can keep chunks at a few seconds.

  Args:
    train_step: From `make_train_step`.
    plan: Sizes.
    augment: From `create_augmentation`; None leaves the images as they are.

  Returns:
    `train_steps(rank, state, data, inputs, num_steps) -> (state, history)`
    for at most the rest of the current epoch. `rank` is this device's place
    on the axis, `data` holds the whole training split: `image` (uint8 or
    float32) and `label`; `inputs` are `RunInputs`. `history` has a float32
    `[steps_per_epoch]` for each metric, of which num_steps entries are set.

  Example:
    >>> plan = StepPlan(num_examples=1437, batch_size=32, num_devices=2)
    >>> plan.steps_per_epoch, plan.rows_per_device
    (45, 16)
  """

  one_step = _make_one_step(train_step, plan, augment)

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
