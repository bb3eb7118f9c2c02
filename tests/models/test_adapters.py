"""NNX modules and a plain function as `Model`s."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import advjax
from advjax.models import Model, from_linen, from_nnx, summary


class _Net(nnx.Module):
  def __init__(self, rngs):
    self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.head = nnx.Linear(4 * 36, 2, rngs=rngs)

  def __call__(self, images):
    hidden = nnx.relu(self.norm(self.conv(images)))
    hidden = self.dropout(hidden.reshape(hidden.shape[0], -1))
    return self.head(hidden)


def _init_linear(key, images):
  del key
  return {'w': jnp.zeros((images[0].size, 2))}, {}


def _apply_linear(params, model_state, images, *, train):
  del train
  return images.reshape(images.shape[0], -1) @ params['w'], model_state


MODELS = {
  'nnx': from_nnx(lambda rngs: _Net(rngs)),
  'function': Model(_init_linear, _apply_linear),
}
INIT = {name: jax.jit(model.init) for name, model in MODELS.items()}


def _initial(name, seed=0):
  return INIT[name](jax.random.key(seed), _data()[0])


def _data():
  """Bright above or below: a linear problem with slack for an attack."""
  random = np.random.default_rng(5)
  images = random.uniform(0, 0.4, (64, 6, 6, 1)).astype(np.float32)
  labels = np.arange(64) % 2
  top = np.arange(6).reshape(1, 6, 1, 1) < 3
  bright = top == (labels.reshape(-1, 1, 1, 1) == 1)
  return images + np.float32(0.3) * bright, labels


@pytest.mark.parametrize('name', MODELS)
def test_a_model_trains_in_a_scan_and_is_attacked(name):
  model = MODELS[name]
  images, labels = _data()
  tx = optax.adam(0.01)

  def loss_fn(params, state):
    logits, state = model.apply(params, state, images, train=True)
    return advjax.losses.cross_entropy(logits, labels).mean(), state

  def step(carry, _):
    params, state, opt_state = carry
    (loss, state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
      params, state
    )
    updates, opt_state = tx.update(gradient, opt_state)
    return (optax.apply_updates(params, updates), state, opt_state), loss

  @jax.jit
  def run(params, state):
    carry = (params, state, tx.init(params))
    (params, state, _), losses = jax.lax.scan(step, carry, length=40)

    def logits_fn(images):
      return model.apply(params, state, images, train=False)[0]

    attacked = advjax.fgsm(logits_fn, images, labels, 0.3)
    return losses, jnp.split(logits_fn(jnp.concatenate([images, attacked])), 2)

  losses, (clean, attacked) = jax.device_get(run(*_initial(name)))
  assert losses[-1] < 0.5 * losses[0]
  assert (clean.argmax(-1) == labels).mean() > 0.95
  assert (attacked.argmax(-1) == labels).mean() < 0.5


def test_nnx_state():
  model = MODELS['nnx']
  images, labels = _data()
  params, state = _initial('nnx')
  other, _ = _initial('nnx', seed=1)
  assert not np.allclose(params['head']['kernel'], other['head']['kernel'])

  @jax.jit
  def live(images):
    module = _Net(nnx.Rngs(jax.random.key(0)))
    module.eval()
    return module(images)

  def loss(images, state):
    evaluated, same = model.apply(params, state, images, train=False)
    assert same is state
    logits, new = model.apply(params, state, images, train=True)
    total = advjax.losses.cross_entropy(logits, labels).sum()
    return total, (logits, new, evaluated)

  train = jax.jit(jax.grad(loss, has_aux=True))
  before = jax.tree.map(np.array, state['norm'])
  gradient, (first, updated, evaluated) = jax.device_get(train(images, state))
  np.testing.assert_allclose(evaluated, live(images), atol=1e-6)
  assert np.abs(gradient).max() > 0
  assert jax.tree.structure(updated) == jax.tree.structure(state)
  assert not np.allclose(updated['norm']['mean'], state['norm']['mean'])
  # No pass moves the state that it was given.
  jax.tree.map(np.testing.assert_array_equal, state['norm'], before)
  # The stream of random numbers moves on, so that dropout is new every step.
  _, (second, *_) = train(images, {**state, 'dropout': updated['dropout']})
  assert not np.allclose(first, second)


def test_summary_of_models_without_layers_lists_params():
  table = summary(MODELS['nnx'], _data()[0])
  assert 'head' in table
  assert 'Total parameters: 338' in table


class _Drawing(nn.Module):
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, train):
    hidden = images.reshape(images.shape[0], -1)
    if self.axis_name:
      hidden = nn.BatchNorm(not train, axis_name=self.axis_name)(hidden)
    if train:
      hidden += jax.random.normal(self.make_rng('noise'), hidden.shape)
    hidden = nn.Dropout(0.5, deterministic=not train)(hidden)
    return nn.Dense(2)(hidden)


@pytest.mark.parametrize('axis_name', [None, 'batch'])
def test_a_linen_module_that_draws_has_a_key(axis_name):
  model, images = from_linen(_Drawing(axis_name)), _data()[0]
  params, state = jax.jit(model.init)(jax.random.key(0), images)
  assert state['rngs'].dtype == 'uint32'
  assert set(state) == {'rngs'} | ({'batch_stats'} if axis_name else set())

  @jax.jit
  def run(params, state):
    evaluated, same = model.apply(params, state, images, train=False)
    assert same is state
    in_training = jax.vmap(
      lambda x: model.apply(params, state, x, train=True), axis_name='batch'
    )
    trained, new = in_training(images[None])
    return evaluated, trained[0], jax.tree.map(lambda leaf: leaf[0], new)

  evaluated, first, new = jax.device_get(run(params, state))
  again, second, _ = jax.device_get(run(params, {**state, 'rngs': new['rngs']}))
  np.testing.assert_array_equal(evaluated, again)
  assert (first != second).all() and (first != evaluated).all()
  # Nothing but the key decides what is drawn.
  np.testing.assert_array_equal(run(params, state)[1], first)


def test_a_linen_module_without_modes_takes_images_alone():
  class Alone(nn.Module):
    @nn.compact
    def __call__(self, images):
      return nn.Dense(2)(images)

  images = np.ones((2, 4), np.float32)
  for module in (Alone(), nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])):
    model = from_linen(module)
    params, state = model.init(jax.random.key(0), images)
    for train in (True, False):
      logits, same = model.apply(params, state, images, train=train)
      assert logits.shape == (2, 2) and same == state == {}
