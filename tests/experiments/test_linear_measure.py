"""FGSM on linear networks against closed forms in float64."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advjax
from experiments.linear.measure import closed_form, linear_function, measure
from tests.linear import Linear, network, random_params, softplus

SHAPE = (4, 3, 1)
EPSILON = 0.25


def random_batch(rng, count, shape=SHAPE):
  """Images on levels to which 0.25 is added without a rounding."""
  images = (rng.integers(0, 257, (count, *shape)) / 256).astype(np.float32)
  return images, rng.integers(0, 2, count)


def measured(params, images, labels):
  return measure(network(params), images, labels, EPSILON, jax.devices()[:1])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 3.0))
def test_fgsm_without_a_box_is_the_closed_form(seed, scale):
  rng = np.random.default_rng(seed)
  params = random_params(rng, SHAPE, scale)
  linear = Linear.of(params, SHAPE)
  images, labels = random_batch(rng, 9)
  exact = linear.worst(images, labels, EPSILON)
  found = advjax.fgsm(network(params), images, labels, EPSILON, bounds=None)
  np.testing.assert_array_equal(found, exact)
  # What weighs nothing is left alone.
  np.testing.assert_array_equal(found[:, 0, :2], images[:, 0, :2])
  weights = linear.weights.astype(np.float32)
  ours = closed_form(weights, images, labels, EPSILON)
  np.testing.assert_array_equal(ours, exact)
  assert ours.dtype == np.float32
  boxed = advjax.fgsm(network(params), images, labels, EPSILON)
  np.testing.assert_array_equal(boxed, exact.clip(0, 1))


def test_weights_are_read_off_the_logits():
  params = random_params(np.random.default_rng(1), SHAPE)
  linear = Linear.of(params, SHAPE)
  weights, bias = linear_function(network(params), SHAPE)
  np.testing.assert_allclose(weights, linear.weights, rtol=1e-5)
  np.testing.assert_array_equal(np.sign(weights), np.sign(linear.weights))
  assert bias == pytest.approx(linear.bias)


def test_sure_networks_are_attacked_as_well():
  """exp(-104) is 0 in float32: the loss keeps a gradient all the same."""
  rng = np.random.default_rng(2)
  params = random_params(rng, SHAPE, scale=100.0)
  linear = Linear.of(params, SHAPE)
  images, labels = random_batch(rng, 64)
  clean = linear.margins(images, labels)
  assert (clean > 110).sum() > 10
  found = measured(params, images, labels)
  seen = np.abs(linear.weights) > 1  # One is too small even so.
  worst = linear.worst(images, labels, EPSILON)
  np.testing.assert_array_equal(found.perturbed[:, seen], worst[:, seen])
  for name in ('fgsm_error', 'closed_form_error'):
    assert found.entry[name] == pytest.approx(
      np.mean(clean < EPSILON * linear.size)
    )


def test_the_closed_form_is_the_worst_case():
  """No corner of the ball is worse; what the paper prints holds for y = 1.

  Section 5 has softplus(y (epsilon |w|_1 - w . x - b)), in which y turns the
  sign of epsilon |w|_1 too: for y = -1 that is the best case, not the worst.
  """
  rng = np.random.default_rng(5)
  shape = (3, 2, 1)
  linear = Linear.of(random_params(rng, shape), shape)
  images, _ = random_batch(rng, 8, shape)
  labels = np.arange(8) % 2
  corners = EPSILON * np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
  losses = np.array(
    [linear.losses(images + c.reshape(shape), labels) for c in corners]
  )
  worst = linear.losses(images, labels, EPSILON)
  np.testing.assert_allclose(losses.max(0), worst, rtol=1e-12)
  y = np.where(labels == 0, 1.0, -1.0)
  in_print = softplus(
    y * EPSILON * linear.size - linear.margins(images, labels)
  )
  np.testing.assert_allclose(in_print[y > 0], worst[y > 0], rtol=1e-12)
  np.testing.assert_allclose(in_print[y < 0], losses.min(0)[y < 0], rtol=1e-12)
  assert (in_print[y < 0] < worst[y < 0] - 0.1).any()
