"""Guided backpropagation, by hand and through everything that holds a ReLU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.explain import guide, guided_backprop
from advjax.explain.guided import has_relu

RNG = np.random.default_rng(0)
SHAPE = (3, 2, 2, 3)
W1 = RNG.normal(size=(12, 7)).astype(np.float32)
W2 = RNG.normal(size=(7, 6)).astype(np.float32)
W3 = RNG.normal(size=(6, 4)).astype(np.float32)
IMAGES = RNG.uniform(size=SHAPE).astype(np.float32)
LABELS = np.array([1, 0, 3])


def by_hand(images, labels):
  """Two hidden layers, in float64."""
  x = images.reshape(len(images), -1).astype(np.float64)
  a = x @ W1
  b = np.maximum(a, 0) @ W2
  g = np.eye(4)[labels] @ W3.T.astype(np.float64)
  g = (b > 0) * np.maximum(g, 0) @ W2.T.astype(np.float64)
  g = (a > 0) * np.maximum(g, 0) @ W1.T.astype(np.float64)
  return g.reshape(images.shape)


EXPECTED = by_hand(IMAGES, LABELS)


@jax.custom_jvp
def own_relu(x):
  return jnp.maximum(x, 0)


own_relu.defjvp(lambda p, t: (own_relu(*p), t[0] * (p[0] > 0)))


@jax.custom_vjp
def own_vjp_relu(x):
  return jax.nn.relu(x)


own_vjp_relu.defvjp(lambda x: (own_vjp_relu(x), x), lambda x, g: (g * (x > 0),))


def in_while(x):
  # A loop whose length is static is a scan; the other cannot be taken back.
  return jax.lax.fori_loop(0, 3, lambda _, x: jax.nn.relu(x), x)


def in_switch(x):
  branches = [lambda x: -x, jax.nn.relu]
  return jax.lax.switch((x.shape[0] > 0) * 1, branches, x)


def in_traced_cond(x):
  return jax.lax.cond(x.sum() > -1e9, jax.nn.relu, lambda x: -x, x)


def in_map(x):
  return jax.lax.map(jax.nn.relu, x)


def on_platform(x):
  return jax.lax.platform_dependent(
    x, cpu=lambda x: in_map(x), default=lambda x: -x
  )


RELUS = {
  'relu': jax.nn.relu,
  'maximum': lambda x: jnp.maximum(x, 0),
  'maximum, turned': lambda x: jnp.maximum(0.0, x),
  'zeros': lambda x: jnp.maximum(x, jnp.zeros_like(x)),
  'clip': lambda x: jnp.clip(x, 0, 1e9),
  'lax': lambda x: jax.lax.max(x, jnp.float32(0)),
  'jit': jax.jit(jax.nn.relu),
  'remat': jax.checkpoint(jax.nn.relu),
  'custom jvp': own_relu,
  'custom vjp': own_vjp_relu,
  'vmap': jax.vmap(jax.nn.relu),
  'scan': in_while,
  'map': in_map,
  'switch': in_switch,
  'cond': in_traced_cond,
  'platform': on_platform,
  'relu6': lambda x: 1e3 * jax.nn.relu6(x / 1e3),
}


def test_it_is_what_is_computed_by_hand():
  """Of every kind of ReLU, in one program."""

  def guided(relu):
    def logits_fn(images):
      return relu(relu(images.reshape(-1, 12) @ W1) @ W2) @ W3

    return lambda images: guided_backprop(logits_fn, images, LABELS)

  found = jax.jit(lambda images: [guided(r)(images) for r in RELUS.values()])(
    IMAGES
  )
  for kind, values in zip(RELUS, found, strict=True):
    np.testing.assert_allclose(values, EXPECTED, atol=1e-5, err_msg=kind)


def test_values_do_not_change_and_plain_gradients_come_back():
  def function(x):
    return jnp.cumsum(jax.nn.relu(jnp.sin(3 * x)))

  x = jnp.linspace(-1, 1, 12)
  np.testing.assert_array_equal(guide(function, x)(x), function(x))


@settings(max_examples=20)
@given(
  x=st.floats(-2, 2, width=32),
  g=st.floats(-2, 2, width=32),
)
def test_one_relu(x, g):
  _, pull = jax.vjp(GUIDED, jnp.float32(x))
  assert pull(jnp.float32(g))[0] == (x > 0) * max(g, 0)


GUIDED = guide(jax.nn.relu, jnp.float32(0))


def test_derivatives_of_its_own_are_kept_where_no_relu_is():
  @jax.custom_jvp
  def twice(x):
    return x

  twice.defjvp(lambda p, t: (twice(*p), 2 * t[0]))

  def logits_fn(images):
    return jax.nn.relu(twice(images[:, 0, 0]))

  found = guided_backprop(logits_fn, IMAGES, np.zeros(3, int))
  np.testing.assert_array_equal(found[:, 0, 0], [[2, 0, 0]] * 3)


@pytest.mark.parametrize(
  'square', [jnp.square, lambda x: x**2, lambda x: x * x]
)
def test_the_variance_of_a_normalisation_is_no_relu(square):
  """Flax cuts it off at 0, where rounding has made it negative."""

  def normalise(x):
    mean, mean_of_squares = x.mean(), square(x).mean()
    variance = jnp.maximum(0.0, mean_of_squares - square(mean))
    return (x - mean) / jnp.sqrt(variance + 1e-6)

  assert not has_relu(normalise, jnp.ones(4))
  assert has_relu(lambda x: jax.nn.relu(normalise(x)), jnp.ones(4))


def test_no_relu_is_an_error():
  with pytest.raises(ValueError, match='no ReLU'):
    guided_backprop(lambda x: jnp.tanh(x.reshape(3, -1)), IMAGES, LABELS)
