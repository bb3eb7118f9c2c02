"""The compiled loop over steps: its order, its means, its update."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from advjax.config import default_config
from advjax.devices import AXIS
from advjax.models import from_linen
from advjax.training.objectives import standard
from advjax.training.optimizers import create_optimizer
from advjax.training.step import (
  RunInputs,
  StepPlan,
  TrainState,
  make_train_step,
  make_train_steps,
  reduce_metrics,
)
from tests import reference
from tests.training import networks


def on_devices(num_devices, function, num_args):
  """Runs per-device code for any number of devices, by vmap."""
  mapped = jax.vmap(function, (0, *[None] * num_args), axis_name=AXIS)
  return functools.partial(networks.compiled(mapped), jnp.arange(num_devices))


# -------------------------------------------------------------- the data order


class Log(NamedTuple):
  """A state that writes down the examples, real or padding, of every step."""

  step: jax.Array
  indices: jax.Array
  real: jax.Array
  keys: jax.Array


def write_down(log, batch, mask, hparams, keys):
  del hparams

  def note(page, row):
    everywhere = jax.lax.all_gather(row, AXIS)
    return page.at[log.step].set(everywhere.reshape(-1))

  total = jax.lax.psum(batch['weight'].sum(), AXIS)
  log = Log(
    log.step + 1,
    note(log.indices, batch['label']),
    note(log.real, mask),
    note(log.keys, jax.vmap(jax.random.bits)(keys)),
  )
  return log, {'total': total}


@functools.cache
def order(num_examples, batch_size, num_devices, num_steps, seed=0):
  """Returns, for each step, the examples and the keys of its real rows."""
  plan = StepPlan(num_examples, batch_size, num_devices)
  steps = on_devices(num_devices, make_train_steps(write_down, plan), 4)
  pages = (num_steps, plan.rows_per_device * num_devices)
  log = Log(
    jnp.zeros((), jnp.int32),
    jnp.zeros(pages, jnp.int32),
    jnp.zeros(pages),
    jnp.zeros(pages, jnp.uint32),
  )
  data = {
    'image': np.zeros((num_examples, 1), np.uint8),
    'label': np.arange(num_examples, dtype=np.int32),
  }
  rows = np.arange(num_examples, dtype=np.int32)
  inputs = RunInputs(rows, {}, jax.random.key(seed))
  totals = []
  for start in range(0, num_steps, plan.steps_per_epoch):
    count = min(plan.steps_per_epoch, num_steps - start)
    log, history = steps(log, data, inputs, np.int32(count))
    log = jax.tree.map(lambda leaf: leaf[0], log)
    totals.extend(history['total'][0, :count].tolist())
  np.testing.assert_allclose(totals, 1.0, rtol=1e-6)
  real = np.asarray(log.real) == 1
  return [
    (np.asarray(log.indices)[i][real[i]], np.asarray(log.keys)[i][real[i]])
    for i in range(num_steps)
  ]


def test_the_digits_take_45_steps_of_32_with_29_in_the_last():
  plan = StepPlan(num_examples=1437, batch_size=32, num_devices=1)
  assert plan.steps_per_epoch == 45
  steps = order(1437, 32, 1, 2 * 45)
  assert [len(indices) for indices, _ in steps] == 2 * ([32] * 44 + [29])
  epochs = [
    np.concatenate([indices for indices, _ in part])
    for part in (steps[:45], steps[45:])
  ]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(1437))
  assert (epochs[0] != epochs[1]).mean() > 0.9
  assert (epochs[0] != np.arange(1437)).mean() > 0.9
  # No two examples, and no two steps, share a key.
  keys = np.concatenate([keys for _, keys in steps])
  assert len(np.unique(keys)) >= len(keys) - 2


@pytest.mark.parametrize(
  ('batch_size', 'num_devices'), [(9, 2), (9, 8), (50, 3)]
)
def test_order_and_keys_do_not_depend_on_the_devices(batch_size, num_devices):
  expected = order(23, batch_size, 1, 6)
  found = order(23, batch_size, num_devices, 6)
  for (indices, keys), (same_indices, same_keys) in zip(
    expected, found, strict=True
  ):
    np.testing.assert_array_equal(same_indices, indices)
    np.testing.assert_array_equal(same_keys, keys)


def test_batches_may_be_larger_than_the_data():
  for indices, _ in order(5, 9, 2, 2):
    np.testing.assert_array_equal(np.sort(indices), np.arange(5))


def test_another_seed_is_another_order_with_other_keys():
  one, other = order(23, 9, 1, 6), order(23, 9, 1, 6, seed=1)
  for part in (0, 1):
    first, second = (np.concatenate([s[part] for s in x]) for x in (one, other))
    assert (first != second).any()


@pytest.mark.parametrize(
  ('num_examples', 'batch_size', 'num_devices', 'steps', 'rows'),
  [
    (1437, 32, 1, 45, 32),
    (1437, 32, 8, 45, 4),
    (1437, 33, 2, 44, 17),
    (64, 32, 2, 2, 16),
    (5, 32, 2, 1, 16),
  ],
)
def test_plan(num_examples, batch_size, num_devices, steps, rows):
  plan = StepPlan(num_examples, batch_size, num_devices)
  assert (plan.steps_per_epoch, plan.rows_per_device) == (steps, rows)


# --------------------------------------------------------- means and the update


def test_metrics_are_means_over_the_real_examples_of_all_devices():
  values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  mask = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
  found = jax.vmap(reduce_metrics, axis_name=AXIS)({'x': values}, mask)['x']
  # Not the mean of the devices' means.
  np.testing.assert_allclose(found, values[mask == 1].mean(), rtol=1e-6)


IMAGES = np.random.default_rng(1).uniform(size=(5, 4))
LABELS = np.array([0, 1, 2, 1, 0])


def linear(params, model_state, images, *, train):
  """Softmax regression, with a running mean of the images as BatchNorm's."""
  if train:
    model_state = {'mean': images.mean()}
  return images @ params, model_state


def numpy_gradient(weights, images, labels):
  _, by_logits = reference.cross_entropy(images @ weights, labels)
  return images.T @ by_logits / len(labels)


def run_steps(
  optimizer,
  *,
  apply=linear,
  start=None,
  num_devices=1,
  schedule=None,
  num_steps=3,
  **kwargs,
):
  """Trains softmax regression on one batch, split over devices."""
  step = make_train_step(
    apply,
    standard(),
    optimizer,
    schedule or optax.constant_schedule(1.0),
    **kwargs,
  )
  rows = -(-len(LABELS) // num_devices)
  padded = np.arange(rows * num_devices) % len(LABELS)
  mask = (np.arange(rows * num_devices) < len(LABELS)).astype(np.float32)
  shards = jax.tree.map(
    lambda leaf: leaf.reshape(num_devices, rows, *leaf.shape[1:]),
    (IMAGES[padded].astype(np.float32), LABELS[padded], mask),
  )

  def one(shard, state):
    images, labels, mask = shard
    weight = mask / jax.lax.psum(mask.sum(), AXIS)
    batch = {'image': images, 'label': labels, 'weight': weight}
    hparams = {'learning_rate': jnp.float32(0.5)}
    return step(state, batch, mask, hparams, None)

  program = networks.compiled(jax.vmap(one, (0, None), axis_name=AXIS))
  params, model_state = start or (jnp.zeros((4, 3)), {'mean': jnp.zeros(())})
  state = TrainState(
    jnp.zeros((), jnp.int32),
    params,
    model_state,
    optimizer.init(params),
    params if 'ema_decay' in kwargs else None,
  )
  states = []
  for _ in range(num_steps):
    state, metrics = program(shards, state)
    for leaf in jax.tree.leaves((state, metrics)):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    state, metrics = jax.tree.map(lambda leaf: leaf[0], (state, metrics))
    states.append((state, metrics))
  return states


@pytest.mark.parametrize('num_devices', [1, 2, 8])
def test_sgd_follows_the_gradient_of_the_mean(num_devices):
  weights = np.zeros((4, 3))
  for state, metrics in run_steps(optax.identity(), num_devices=num_devices):
    loss, _ = reference.cross_entropy(IMAGES @ weights, LABELS)
    np.testing.assert_allclose(metrics['loss'], loss.mean(), rtol=1e-5)
    weights -= 0.5 * numpy_gradient(weights, IMAGES, LABELS)
    np.testing.assert_allclose(state.params, weights, atol=1e-6)
  assert state.step == 3


def test_statistics_stay_the_same_on_all_devices():
  """`run_steps` compares the devices; here their means differ."""
  states = run_steps(optax.identity(), num_devices=5, num_steps=1)
  np.testing.assert_allclose(
    states[0][0].model_state['mean'], IMAGES.mean(), rtol=1e-6
  )


class Normalised(nn.Module):
  """Batch normalisation, then softmax regression."""

  @nn.compact
  def __call__(self, images, *, train):
    normalised = nn.BatchNorm(
      use_running_average=not train, momentum=0.5, axis_name=AXIS
    )(images)
    return nn.Dense(3)(normalised)


def test_batch_norm_sees_the_batch_of_all_devices():
  model = from_linen(Normalised())
  start = model.init(jax.random.key(0), IMAGES[:1].astype(np.float32))

  def run(num_devices):
    return run_steps(
      optax.identity(), apply=model.apply, start=start, num_devices=num_devices
    )[-1][0]

  # With one image each, a device's own variance would be 0.
  one, five = run(1), run(5)
  mean = IMAGES.mean(0) * (1 - 0.5**3)
  stats = one.model_state['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(stats['mean'], mean, rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    (five.params, five.model_state),
    (one.params, one.model_state),
  )


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({'name': 'sgd', 'momentum': 0.0}, optax.sgd(0.5)),
    ({'name': 'sgd'}, optax.sgd(0.5, momentum=0.9)),
    ({'name': 'sgd', 'nesterov': True}, optax.sgd(0.5, 0.9, nesterov=True)),
    ({'name': 'adam', 'eps': 1e-7}, optax.adam(0.5, eps=1e-7)),
    ({'name': 'adam', 'b1': 0.8}, optax.adam(0.5, b1=0.8)),
    (
      {'name': 'adamw', 'weight_decay': 0.01},
      optax.adamw(0.5, weight_decay=0.01),
    ),
  ],
  ids=['sgd', 'momentum', 'nesterov', 'adam_eps', 'adam_b1', 'adamw'],
)
def test_optimizers_are_those_of_optax(fields, expected):
  config = {**default_config().optimizer, **fields}
  states = run_steps(create_optimizer(config))
  params = jnp.zeros((4, 3))
  opt_state = expected.init(params)
  for state, _ in states:
    gradient = numpy_gradient(np.asarray(params, np.float64), IMAGES, LABELS)
    updates, opt_state = expected.update(
      jnp.asarray(gradient, jnp.float32), opt_state, params
    )
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.params, params, rtol=1e-4, atol=1e-5)


def test_the_schedule_scales_the_learning_rate():
  def schedule(step):
    return 1 / (step + 1.0)

  weights = np.zeros((4, 3))
  states = run_steps(optax.identity(), schedule=schedule)
  for index, (state, _) in enumerate(states):
    gradient = numpy_gradient(weights, IMAGES, LABELS)
    weights -= 0.5 / (index + 1) * gradient
    np.testing.assert_allclose(state.params, weights, atol=1e-6)


def test_the_moving_average_of_params():
  average = np.zeros((4, 3))
  for state, _ in run_steps(optax.identity(), ema_decay=0.75):
    average = 0.75 * average + 0.25 * np.asarray(state.params)
    np.testing.assert_allclose(state.ema_params, average, atol=1e-6)
  assert np.abs(average - state.params).max() > 0.01
