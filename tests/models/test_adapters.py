"""An NNX module and a plain function, trained and attacked like any other."""

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
  size = images[0].size
  return {'w': 0.01 * jax.random.normal(key, (size, 2))}, {}


def _apply_linear(params, model_state, images, *, train):
  del train
  return images.reshape(images.shape[0], -1) @ params['w'], model_state


_MODELS = {
  'nnx': lambda: from_nnx(lambda rngs: _Net(rngs)),
  'function': lambda: Model(_init_linear, _apply_linear),
}


def _data():
  """Bright above or below: a linear problem with room for an attack."""
  images = jax.random.uniform(jax.random.key(5), (64, 6, 6, 1)) * 0.4
  labels = jnp.arange(64) % 2
  top = jnp.arange(6).reshape(1, 6, 1, 1) < 3
  bright = top == (labels.reshape(-1, 1, 1, 1) == 1)
  return images + 0.3 * bright, labels


@pytest.mark.parametrize('name', _MODELS)
def test_a_model_trains_in_a_scan_and_is_attacked(name):
  model = _MODELS[name]()
  images, labels = _data()
  params, state = model.init(jax.random.key(0), images)
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

  carry = (params, state, tx.init(params))
  (params, state, _), losses = jax.jit(
    lambda carry: jax.lax.scan(step, carry, length=40)
  )(carry)
  assert losses[-1] < 0.5 * losses[0]

  def logits_fn(images):
    return model.apply(params, state, images, train=False)[0]

  def accuracy(images):
    return float((logits_fn(images).argmax(-1) == labels).mean())

  attacked = advjax.bim(logits_fn, images, labels, 0.2, 0.05, num_steps=8)
  assert accuracy(images) > 0.95
  assert accuracy(attacked) < 0.5


def test_nnx_state():
  model = from_nnx(lambda rngs: _Net(rngs))
  images, _ = _data()
  params, state = model.init(jax.random.key(0), images)
  live = _Net(nnx.Rngs(jax.random.key(0)))
  live.eval()
  logits, same = model.apply(params, state, images, train=False)
  np.testing.assert_allclose(logits, live(images), atol=1e-6)
  assert same is state
  _, updated = model.apply(params, state, images, train=True)
  assert jax.tree.structure(updated) == jax.tree.structure(state)
  assert not np.allclose(updated['norm']['mean'], state['norm']['mean'])
  # The stream of random numbers moves on, so that dropout is new every step.
  first, updated = model.apply(params, state, images, train=True)
  second, _ = model.apply(params, updated, images, train=True)
  assert not np.allclose(first, second)


def test_nnx_gradients_do_not_move_the_state():
  model = from_nnx(lambda rngs: _Net(rngs))
  images, labels = _data()
  params, state = model.init(jax.random.key(0), images)
  before = jax.tree.map(np.array, state['norm'])

  @jax.grad
  def gradient(images):
    logits, _ = model.apply(params, state, images, train=True)
    return advjax.losses.cross_entropy(logits, labels).sum()

  assert np.abs(gradient(images)).max() > 0
  jax.tree.map(np.testing.assert_array_equal, state['norm'], before)


def test_nnx_under_pmap():
  model = from_nnx(lambda rngs: _Net(rngs))
  images, _ = _data()
  params, state = model.init(jax.random.key(0), images)
  expected, _ = model.apply(params, state, images, train=False)
  actual = jax.pmap(
    lambda params, images: model.apply(params, state, images, train=False)[0],
    in_axes=(None, 0),
  )(params, images.reshape(2, 32, 6, 6, 1))
  np.testing.assert_allclose(actual.reshape(64, 2), expected, atol=1e-5)


def test_another_key_gives_other_params():
  model = from_nnx(lambda rngs: _Net(rngs))
  images, _ = _data()
  one, two = (model.init(jax.random.key(i), images)[0] for i in (0, 1))
  assert not np.allclose(one['head']['kernel'], two['head']['kernel'])


def test_linen_module_without_batch_norm_has_no_state():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
      del train
      return nn.Dense(3)(images.reshape(images.shape[0], -1))

  model = from_linen(Net())
  images, _ = _data()
  params, state = model.init(jax.random.key(0), images)
  assert state == {}
  logits, state = model.apply(params, state, images, train=True)
  assert (logits.shape, state) == ((64, 3), {})


def test_summary_of_models_without_layers_lists_params():
  images, _ = _data()
  table = summary(from_nnx(lambda rngs: _Net(rngs)), images)
  assert 'head' in table
  assert 'Total parameters: 338' in table
