"""Metrics over a split, robust accuracy in training, and its collapse."""

import jax
import numpy as np
import pytest

import advjax
from advjax.data import Split
from advjax.training.loop import has_collapsed
from advjax.training.objectives import (
  make_evaluate,
  robust_accuracy_objective,
)
from tests.training import networks


@pytest.mark.parametrize(
  ('accuracies', 'expected'),
  [
    ([], False),
    ([0.0], False),
    ([0.6], False),
    ([0.1, 0.3, 0.6], False),
    ([0.6, 0.05], True),
    # Neither a third of it, nor a small drop of little.
    ([0.6, 0.4], False),
    ([0.25, 0.1], False),
    ([0.6, 0.55, 0.5, 0.0], True),
    ([0.6, 0.0, 0.5], False),
  ],
)
def test_collapse(accuracies, expected):
  assert has_collapsed(accuracies) is expected


@pytest.fixture(scope='module')
def many():
  """More images than rows of a call, as uint8."""
  rng = np.random.default_rng(2)
  images = rng.integers(0, 256, size=(11, networks.NUM_INPUTS), dtype=np.uint8)
  labels = networks.MLP.logits(images / 255).argmax(1)
  labels[::4] = (labels[::4] + 1) % networks.NUM_CLASSES
  return Split(images, labels.astype(np.int32))


def test_robust_accuracy_is_that_of_pgd(many):
  program = make_evaluate(
    networks.apply,
    robust_accuracy_objective(4),
    tuple(jax.devices()),
    batch_size=4,
  )
  found = program(
    networks.params(), {}, many, {'epsilon': 0.1}, jax.random.key(3)
  )

  def logits_fn(images):
    return networks.apply(networks.params(), {}, images, train=False)[0]

  images = many.images * np.float32(1 / 255)
  moved = advjax.pgd(
    logits_fn,
    images,
    many.labels,
    0.1,
    2.5 * 0.1 / 4,
    num_steps=4,
    key=jax.random.key(3),
  )
  robust, clean = (
    float(np.mean(networks.MLP.logits(x).argmax(1) == many.labels))
    for x in (np.asarray(moved), images)
  )
  assert 0 < robust < clean < 1
  expected = {'robust_accuracy': robust, 'clean_accuracy': clean}
  assert found == pytest.approx(expected)


def test_metrics_run_in_evaluation_mode(many):
  """And so leave statistics alone, whatever the objective does in training."""

  def objective(apply, params, model_state, batch, hparams, key):
    logits, state = apply(params, model_state, batch['image'], train=True)
    ones = jax.numpy.ones(batch['label'].shape)
    return 0.0, (state, {'trains': ones * logits[0, 0], 'all': ones})

  def apply(params, model_state, images, *, train):
    return jax.numpy.full((len(images), 2), float(train)), model_state

  program = make_evaluate(apply, objective, tuple(jax.devices()), batch_size=3)
  found = program({}, {}, many, {}, jax.random.key(0))
  assert found == {'trains': 0.0, 'all': 1.0}
