"""Losses: closed forms in NumPy float64, finite where logits are extreme."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses

LOGITS = np.random.default_rng(0).normal(size=(6, 5)) * 4
LABELS = np.array([0, 1, 2, 3, 4, 0])
TARGETS = np.array([1, 2, 3, 4, 0, 4])
ROWS = np.arange(6)
PROBS = np.random.default_rng(1).dirichlet(np.ones(5), size=6)


def softmax(z):
  e = np.exp(z - z.max(axis=1, keepdims=True))
  return e / e.sum(axis=1, keepdims=True)


def other(z):
  return np.array([np.delete(z[i], LABELS[i]).max() for i in ROWS])


def expected_values():
  top = -np.sort(-LOGITS, axis=1)
  true, target = LOGITS[ROWS, LABELS], LOGITS[ROWS, TARGETS]
  p, q = softmax(LOGITS[::-1]), softmax(LOGITS)
  return {
    'cross_entropy': -np.log(q[ROWS, LABELS]),
    'soft cross_entropy': -(PROBS * np.log(q)).sum(axis=1),
    'margin': other(LOGITS) - true,
    'dlr': -(true - other(LOGITS)) / (top[:, 0] - top[:, 2]),
    'targeted_dlr': -(true - target)
    / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2),
    'kl': (p * np.log(p / q)).sum(axis=1),
  }


LOSSES = {
  'cross_entropy': lambda z: losses.cross_entropy(z, jnp.array(LABELS)),
  'soft cross_entropy': lambda z: losses.cross_entropy(
    z, jnp.array(PROBS.tolist())
  ),
  'margin': lambda z: losses.margin(z, jnp.array(LABELS)),
  'dlr': lambda z: losses.dlr(z, jnp.array(LABELS)),
  'targeted_dlr': lambda z: losses.targeted_dlr(
    z, jnp.array(LABELS), jnp.array(TARGETS)
  ),
  'kl': lambda z: losses.kl(z, jax.lax.stop_gradient(z[::-1])),
}


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(name, logits):
  loss, pullback = jax.vjp(LOSSES[name], logits)
  return loss, pullback(jnp.ones_like(loss))[0]


@pytest.mark.parametrize('name', LOSSES)
def test_value(name):
  result, _ = loss_and_gradient(name, jnp.array(LOGITS, jnp.float32))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(
    result, expected_values()[name], rtol=2e-5, atol=1e-6
  )


@pytest.mark.parametrize('name', LOSSES)
def test_value_in_float64_and_from_bfloat16(name):
  with jax.enable_x64(True):
    result, _ = loss_and_gradient(name, jnp.array(LOGITS))
    assert result.dtype == jnp.float64
    np.testing.assert_allclose(result, expected_values()[name], rtol=1e-11)
  logits = jax.ShapeDtypeStruct(LOGITS.shape, jnp.bfloat16)
  assert jax.eval_shape(LOSSES[name], logits).dtype == jnp.float32


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(
  'logits',
  [
    1e30 * LOGITS,
    1e-30 * LOGITS,
    np.zeros((6, 5)),
    np.eye(6, 5) * 3e38,
    -np.eye(6, 5) * 3e38,
    np.where(LOGITS > 0, 3e38, -3e38),
  ],
  ids=['large', 'small', 'equal', 'sure', 'wrong', 'far'],
)
def test_gradient_is_finite_for_extreme_logits(name, logits):
  loss, gradient = loss_and_gradient(name, jnp.array(logits, jnp.float32))
  assert not np.isnan(loss).any()
  assert np.isfinite(gradient).all()


def test_cross_entropy_keeps_its_gradient_when_the_model_is_sure():
  logits = jnp.array([[40.0, 0.0, -1.0]])
  loss_fn = jax.jit(
    jax.grad(lambda z: losses.cross_entropy(z, jnp.array([0])).sum())
  )
  gradient = loss_fn(logits)
  p = np.exp(np.array([0.0, -40.0, -41.0]))
  np.testing.assert_allclose(gradient[0], [-p[1] - p[2], p[1], p[2]], rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'shapes', 'message'),
  [
    ('cross_entropy', [(3,), (1,)], r'logits = .* \[3\]; allowed'),
    ('cross_entropy', [(3, 1), (3,)], r'logits = float32 \[3, 1\]; .*K >= 2'),
    ('cross_entropy', [(3, 4), (3, 5)], r'labels = float32 \[3, 5\]; allowed'),
    ('cross_entropy', [(3, 4), (2,)], r'logits = float32 \[3, 4\]; .*\[2, K\]'),
    ('margin', [(3, 4), (3, 4)], r'labels = float32 \[3, 4\]; allowed: int'),
    ('dlr', [(3, 2), (3,)], 'K >= 3'),
    ('targeted_dlr', [(3, 4), (3,), (2,)], r'targets = int.* \[2\]; allowed'),
    ('kl', [(3, 4), (3, 2)], r'labels = float32 \[3, 2\]; allowed'),
  ],
)
def test_shapes_that_do_not_fit_are_errors(name, shapes, message):
  arrays = [np.ones(x, np.float32 if len(x) > 1 else int) for x in shapes]
  with pytest.raises(ValueError, match=message):
    getattr(losses, name)(*arrays)
