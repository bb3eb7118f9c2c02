"""The training step and its loop: order, means, gradient, update."""

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
  _batch_gradient,
  make_train_step,
  make_train_steps,
)
from tests import reference
from tests.models import checks
from tests.training import networks


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


def test_the_digits_take_45_steps_of_32_with_29_in_the_last():
  plan = StepPlan(num_examples=1437, batch_size=32, num_devices=1)
  assert plan.steps_per_epoch == 45
  loop = make_train_steps(write_down, plan)
  program = jax.jit(
    jax.vmap(
      functools.partial(loop, 0), (None,) * 4, axis_name=AXIS, axis_size=1
    )
  )
  pages = (2 * 45, 32)
  log = Log(
    np.zeros((), np.int32),
    np.zeros(pages, np.int32),
    np.zeros(pages, np.float32),
    np.zeros(pages, np.uint32),
  )
  rows = np.arange(1437, dtype=np.int32)
  data = {'image': np.zeros((1437, 1), np.uint8), 'label': rows}
  inputs = RunInputs(rows, {}, jax.random.key(0))
  for _ in range(2):
    log, history = program(log, data, inputs, np.int32(45))
    log = jax.tree.map(lambda leaf: np.asarray(leaf)[0], log)
    np.testing.assert_allclose(history['total'], 1.0, rtol=1e-6)
  real = np.asarray(log.real) == 1
  assert real.sum(1).tolist() == 2 * ([32] * 44 + [29])
  epochs = [
    np.asarray(log.indices)[p][real[p]] for p in (slice(45), slice(45, 90))
  ]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(1437))
  assert (epochs[0] != epochs[1]).mean() > 0.9
  assert (epochs[0] != np.arange(1437)).mean() > 0.9
  # No two examples, and no two steps, share a key.
  keys = np.asarray(log.keys)[real]
  assert len(np.unique(keys)) >= len(keys) - 2


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
):
  """Three steps of softmax regression on one batch, split over devices."""
  step = make_train_step(
    apply,
    standard(),
    optimizer,
    optax.constant_schedule(1.0),
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

  program = jax.jit(jax.vmap(one, (0, None), axis_name=AXIS))
  params, model_state = start or (
    np.zeros((4, 3), np.float32),
    {'mean': np.zeros((), np.float32)},
  )
  state = TrainState(
    np.zeros((), np.int32),
    params,
    model_state,
    optimizer.init(params),
    None,
  )
  states = []
  for _ in range(3):
    state, metrics = jax.device_get(program(shards, state))
    for leaf in jax.tree.leaves((state, metrics)):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    state, metrics = jax.tree.map(lambda leaf: leaf[0], (state, metrics))
    states.append((state, metrics))
  return states


def test_sgd_follows_the_gradient_of_the_mean():
  weights = np.zeros((4, 3))
  for state, metrics in run_steps(optax.identity(), num_devices=4):
    loss, _ = reference.cross_entropy(IMAGES @ weights, LABELS)
    np.testing.assert_allclose(metrics['loss'], loss.mean(), rtol=1e-5)
    weights -= 0.5 * numpy_gradient(weights, IMAGES, LABELS)
    np.testing.assert_allclose(state.params, weights, atol=1e-6)
  assert state.step == 3


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
  params, _ = checks.draw(model, IMAGES[:1].astype(np.float32))
  statistics = {'mean': np.zeros(4, 'float32'), 'var': np.ones(4, 'float32')}
  start = params, {'batch_stats': {'BatchNorm_0': statistics}}

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
    (
      {'name': 'sgd', 'nesterov': True, 'weight_decay': 0.1},
      optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.5, 0.9, nesterov=True)
      ),
    ),
    (
      {'name': 'adam', 'eps': 1e-7, 'weight_decay': 0.1},
      optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.5, eps=1e-7)),
    ),
    (
      {'name': 'adamw', 'weight_decay': 0.01},
      optax.adamw(0.5, weight_decay=0.01),
    ),
  ],
  ids=['nesterov', 'adam', 'adamw'],
)
def test_optimizers_are_those_of_optax(fields, expected):
  config = {**default_config().optimizer, **fields}
  states = run_steps(create_optimizer(config))
  params = np.zeros((4, 3), np.float32)
  opt_state = expected.init(params)
  update = jax.jit(expected.update)
  for state, _ in states:
    gradient = numpy_gradient(np.asarray(params, np.float64), IMAGES, LABELS)
    updates, opt_state = update(np.float32(gradient), opt_state, params)
    params = np.asarray(params + updates)
    np.testing.assert_allclose(state.params, params, rtol=1e-4, atol=1e-5)


def test_microbatches_add_up_to_the_batch():
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.uniform(size=(12, 6)).astype(np.float32),
    'label': rng.integers(0, 3, 12),
    'weight': np.where(np.arange(12) < 10, 0.1, 0.0).astype(np.float32),
  }
  # In the place of keys: what is random in each example.
  noise = rng.uniform(size=(12, 1)).astype(np.float32)

  def loss_fn(params, batch, noise):
    noisy = {**batch, 'image': batch['image'] + noise}
    return standard()(networks.apply, params, {}, noisy, {}, None)

  (whole, (_, of_whole)), (parts, (_, of_parts)) = jax.jit(
    lambda params: [
      _batch_gradient(loss_fn, params, batch, noise, size) for size in (0, 4)
    ]
  )(networks.params())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    (parts, of_parts),
    (whole, of_whole),
  )
