"""Inside ball and box in the output's dtype, and no move where none is due."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advjax
from advjax import losses
from tests.attacks import cases

each_norm = pytest.mark.parametrize('norm', cases.NORMS)


@pytest.mark.parametrize(
  'name',
  ['fgsm', pytest.param('bim_random', marks=pytest.mark.accelerator)],
)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
  kind=st.sampled_from(
    [('linf', 'bfloat16'), ('l2', 'float32'), ('l1', 'float32')]
  ),
  epsilon=st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 8 / 255, 0.7, 3.0]),
  border=st.sampled_from([None, 'lower', 'upper']),
  seed=st.integers(0, 5),
)
def test_inside_ball_and_box(name, kind, epsilon, border, seed):
  norm, dtype = kind
  bounds = (-0.1, 0.9)  # Neither is a bfloat16.
  images = np.random.default_rng(seed).uniform(-0.09, 0.89, cases.SHAPE)
  if border is not None:
    images[seed % 4] = bounds[border == 'upper'] * 0.996
  images = jnp.asarray(images, dtype)
  step_size = () if name == 'fgsm' else (0.3 * epsilon,)
  result = cases.ATTACKS[name](
    any_dtype,
    images,
    cases.LABELS,
    epsilon,
    *step_size,
    norm=norm,
    bounds=bounds,
  )
  check_inside(result, images, epsilon, norm, bounds)


def check_inside(result, images, epsilon, norm, bounds):
  assert result.dtype == images.dtype and result.shape == images.shape
  wide = np.asarray(result, np.float64)
  assert np.all((wide >= bounds[0] - 1e-8) & (wide <= bounds[1] + 1e-8))
  moved = (wide - np.asarray(images, np.float64)).reshape(4, -1)
  order = {'linf': np.inf, 'l2': 2, 'l1': 1}[norm]
  assert np.all(np.linalg.norm(moved, order, axis=1) <= epsilon * (1 + 1e-6))
  if epsilon == 0:
    assert np.asarray(result).tobytes() == np.asarray(images).tobytes()


@pytest.mark.accelerator
@pytest.mark.parametrize(
  ('name', 'norm'),
  list(zip(cases.SEARCHES, itertools.cycle(cases.NORMS), strict=False)),
)
def test_searches_in_bfloat16(name, norm, quick_compiles):
  bounds = (-0.1, 0.9)
  images = np.random.default_rng(0).uniform(-0.09, 0.89, cases.SHAPE)
  images[1] = 0.9 * 0.996
  images = jnp.asarray(images, jnp.bfloat16)
  labels = np.asarray(any_dtype(images).argmax(axis=1), np.int32)
  for epsilon in (0.0, 1e-3, 8 / 255, 0.7):
    result = cases.SEARCHES[name](
      any_dtype, images, labels, epsilon, norm=norm, bounds=bounds
    )
    check_inside(result, images, epsilon, norm, bounds)
    assert epsilon < 0.7 or np.any(result != images)


def any_dtype(images):
  return cases.apply(cases.WEIGHTS, images.astype(jnp.float32))


def test_epsilon_zero_keeps_the_sign_of_zero():
  images = np.array([[-0.0, 0.0]], np.float32)
  for key in (None, jax.random.key(0)):
    result = advjax.bim(
      cases.linear, images, jnp.array([0]), 0.0, 0.1, num_steps=1, key=key
    )
    assert np.asarray(result).tobytes() == images.tobytes()


@jax.custom_vjp
def stuck(value, x):
  """A model whose gradient has one value everywhere."""
  del value
  return jnp.zeros((len(x), 3))


stuck.defvjp(
  lambda value, x: (stuck(value, x), (value, x)),
  lambda saved, _: (saved[0], jnp.full_like(saved[1], saved[0])),
)


@each_norm
@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
def test_gradients_that_lead_nowhere_move_nothing(norm, value):
  logits_fn = jax.tree_util.Partial(stuck, jnp.float32(value))
  result = advjax.mifgsm(
    logits_fn, cases.IMAGES, cases.LABELS, 0.1, 0.04, num_steps=2, norm=norm
  )
  np.testing.assert_array_equal(result, cases.IMAGES)


def test_tiny_gradients_move_as_far_as_large_ones(quick_compiles):
  large, small = (
    jax.tree_util.Partial(cases.apply, np.float32(scale) * cases.WEIGHTS)
    for scale in (1, 1e-25)
  )
  args = cases.IMAGES, cases.LABELS
  for norm in ('linf', 'l2'):
    kwargs = {'norm': norm, 'bounds': None, 'loss_fn': losses.margin}
    np.testing.assert_allclose(
      cases.mifgsm(small, *args, **kwargs),
      cases.mifgsm(large, *args, **kwargs),
      atol=1e-5,
    )


@pytest.mark.parametrize('name', ['pgd', 'mifgsm'])
def test_what_is_masked_out_never_moves(name, quick_compiles):
  mask = np.zeros(cases.SHAPE[1:], np.float32)
  mask[0] = 0.5
  result = cases.ATTACKS[name](
    cases.logits_fn, cases.IMAGES, cases.LABELS, mask=mask, norm='l2'
  )
  moved = np.asarray(result) != cases.IMAGES
  assert moved[:, 0].mean() > 0.9 and not moved[:, 1:].any()
