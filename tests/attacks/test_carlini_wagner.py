"""Carlini and Wagner's attack: closed form, NumPy, independent rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import carlini_wagner
from tests import compiles
from tests.attacks import closest

pytestmark = pytest.mark.usefixtures('quick_compiles')


def attack(logits_fn, images, labels, **kwargs):
  """Fewer and larger steps than by default."""
  kwargs = {'num_steps': 60, 'num_searches': 6, **kwargs}
  kwargs = {'learning_rate': 0.03, 'initial_const': 0.05, **kwargs}
  return carlini_wagner(logits_fn, images, labels, **kwargs)


def test_finds_the_closed_form_of_a_linear_network():
  found = attack(closest.LINEAR, closest.LINEAR_IMAGES, closest.LINEAR_LABELS)
  assert np.all(closest.linear_predictions(found) != closest.LINEAR_LABELS)
  moved = np.asarray(found, float) - closest.LINEAR_IMAGES
  ratio = closest.sizes(moved, 'l2') / closest.linear_distances('l2')
  assert np.all((ratio > 1 - 1e-4) & (ratio < 1.03))


def reference(images, labels, num_steps, num_searches, rate, const):
  """The attack in NumPy with gradients by hand, one image at a time."""
  model, result = closest.MODEL, images.copy()
  for i, (x0, label) in enumerate(zip(images, labels, strict=True)):
    origin = np.arctanh((2 * x0 - 1) * 0.999999)
    centre = (1 + np.tanh(origin)) / 2
    best, low, high, c = np.inf, 0.0, np.inf, const
    if closest.predictions(x0[None])[0] != label:
      continue
    for r in range(num_searches):
      if num_searches >= 10 and r == num_searches - 1:
        c = min(high, 1e10)
      offset, mean, square = np.zeros((3, x0.size))
      fooled = False
      for t in range(num_steps):
        x = (1 + np.tanh(origin + offset)) / 2
        logits = model.logits(x[None])
        others = logits[0].copy()
        others[label] = -np.inf
        other = others.argmax()
        margin = others[other] - logits[0, label]
        if margin > 0:
          fooled = True
          if np.linalg.norm(x - x0) < best:
            best, result[i] = np.linalg.norm(x - x0), x
        slope = 2 * (x - centre)
        if margin < 0:
          pull = np.eye(4)[[label]] - np.eye(4)[[other]]
          slope = slope + c * model.gradient(x[None], pull)[0]
        slope = slope * (1 - np.tanh(origin + offset) ** 2) / 2
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        step = mean / (1 - 0.9 ** (t + 1))
        step /= np.sqrt(square / (1 - 0.999 ** (t + 1))) + 1e-8
        offset = offset - rate * step
      if fooled:
        high = min(high, c)
      else:
        low = max(low, c)
      c = (low + high) / 2 if high < np.inf else 10 * c
  return result


def test_agrees_with_numpy_in_float64():
  images = closest.IMAGES.astype(np.float64)
  # With ten searches the last one repeats the best constant.
  steps, searches, rate, const = 12, 10, 0.1, 1e-4
  with jax.enable_x64(True):
    found = carlini_wagner(
      closest.MLP64,
      images,
      closest.LABELS,
      num_steps=steps,
      num_searches=searches,
      learning_rate=rate,
      initial_const=const,
    )
  assert found.dtype == np.float64
  theirs = reference(images, closest.LABELS, steps, searches, rate, const)
  hit = closest.predictions(found) != closest.LABELS
  assert hit.sum() >= 6
  np.testing.assert_allclose(found, theirs, atol=1e-6)
  assert np.asarray(found)[7].tobytes() == images[7].tobytes()


def test_targets_with_confidence():
  found = attack(
    closest.MLP,
    closest.IMAGES,
    closest.LABELS,
    targets=closest.TARGETS,
    confidence=0.25,
    initial_const=1.0,
  )
  margins = -closest.margins(found, closest.TARGETS)
  still = np.all(np.asarray(found) == closest.IMAGES, axis=1)
  assert np.all((margins > 0.25 - 1e-5) != still) and still.sum() <= 2
  assert np.median(margins[~still]) < 0.4


def test_rows_in_trouble():
  closest.check_trouble(attack)


def test_bfloat16():
  images = jnp.asarray(closest.IMAGES, 'bfloat16')
  found = attack(closest.MLP, images, closest.LABELS)
  assert found.dtype == images.dtype
  wide = np.asarray(found, np.float64)
  assert np.all((wide >= 0) & (wide <= 1))
  assert np.all(closest.predictions(found) != closest.LABELS)


def test_without_bounds():
  images = closest.LINEAR_IMAGES + 3
  labels = np.int32([0, 1, 0, 1])
  found = attack(closest.LINEAR, images, labels, bounds=(None, 9))
  assert np.all(closest.linear_predictions(found) == [1, 0, 1, 0])


def test_new_numbers_do_not_compile_again():
  network = jax.tree.map(lambda x: jax.block_until_ready(2 * x), closest.LINEAR)
  arguments = closest.LINEAR_IMAGES, closest.LINEAR_LABELS
  attack(closest.LINEAR, *arguments)
  with compiles.counted() as count:
    attack(network, *arguments)
    for rate in (0.01, np.float64(0.02), 1):
      attack(network, *arguments, learning_rate=rate, confidence=rate)
  assert count == [0]


def test_errors():
  closest.check_errors(
    carlini_wagner,
    [
      *closest.COMMON_ERRORS,
      ({'num_searches': 0}, 'num_searches must be at least 1; got 0'),
      ({'initial_const': 0}, 'initial_const must be above 0; got 0'),
      ({'confidence': -1.0}, 'confidence must be at least 0'),
      ({'learning_rate': None}, 'learning_rate must be a number'),
      ({'targets': closest.TARGETS[None]}, 'targets must have a leading axis'),
    ],
  )
