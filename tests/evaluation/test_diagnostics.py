"""What is measured besides attacks, against plain loops over the images."""

import io
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as numpy_strategies
from jax.tree_util import Partial
from PIL import Image

from advjax.devices import Batching
from advjax.evaluation.diagnostics import (
  measure_diagnostics,
  round_to_8_bits,
)
from advjax.evaluation.models import evaluate_models, parse_attacks
from tests.attacks import own

EPSILON = 0.1
NUM_CLASSES = 4  # No image is of the last one.
BATCHING = Batching(12, jax.devices()[:1], jax.random.key(1))


def logits(weights, images):
  return 20 * (images.reshape(len(images), -1) - 0.5) @ weights


@pytest.fixture(scope='module')
def setup():
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(12, 8, 8, 1)).astype(np.float32)
  weights = rng.normal(size=(64, NUM_CLASSES)).astype(np.float32)
  flat = 20 * (images.reshape(12, -1) - 0.5)
  labels = (flat @ weights)[:, :3].argmax(1).astype(np.int32)
  noisy = weights + rng.normal(size=weights.shape).astype(np.float32)
  models = {'one': Partial(logits, weights), 'two': Partial(logits, noisy)}
  evaluation = evaluate_models(
    models,
    parse_attacks(['fgsm', 'deepfool-3']),
    images,
    labels,
    epsilon=EPSILON,
    epsilons=(EPSILON,),
    batching=BATCHING,
  )
  return models, evaluation, images, labels


def measure(setup, bounds):
  return measure_diagnostics(
    *setup,
    num_classes=NUM_CLASSES,
    bounds=bounds,
    batching=BATCHING,
    seen={'two': ['fog']},
  )


@pytest.fixture(scope='module')
def found(setup):
  return measure(setup, (0.0, 1.0))


def accuracy(logits_fn, images, labels):
  return float((np.asarray(logits_fn(images)).argmax(-1) == labels).mean())


def test_classes_without_images_have_no_accuracy(setup, found):
  _, evaluation, _, labels = setup
  for name, fields in found.items():
    assert list(fields['per_class']) == ['clean', 'fgsm', 'deepfool']
    assert all(values[3] is None for values in fields['per_class'].values())
    right = evaluation.predictions[name, 'fgsm'][name] == labels
    for label in set(labels.tolist()):
      expected = right[labels == label].mean()
      assert fields['per_class']['fgsm'][label] == expected


def test_traces_end_where_attacks_do(setup, found):
  models, evaluation, images, labels = setup
  for name, logits_fn in models.items():
    (trace,) = found[name]['traces'].values()
    assert trace.accuracy == pytest.approx(
      [
        accuracy(logits_fn, images, labels),
        (evaluation.predictions[name, 'fgsm'][name] == labels).mean(),
      ]
    )
    assert trace.zero_gradients == 0.0


def test_rounding_and_distances_are_of_the_models_own_images(setup, found):
  models, evaluation, _, labels = setup
  for name, logits_fn in models.items():
    for attack in ('fgsm', 'deepfool'):
      pixels = np.round(255 * evaluation.images[name, attack])
      expected = accuracy(logits_fn, (pixels / 255).astype(np.float32), labels)
      assert found[name]['rounded'][attack] == expected
    distances = evaluation.distances[name, 'deepfool']
    right = evaluation.clean[name] == labels
    minimal = found[name]['minimal']['deepfool']
    assert minimal.median_epsilon == np.median(distances[right])
    assert (minimal.found, minimal.norm) == (1.0, 'linf')


def test_other_pixel_ranges_leave_out_8_bits(setup):
  for fields in measure(setup, (-1.0, 2.0)).values():
    assert set(fields) >= {'noise', 'per_class', 'traces'}
    assert fields['rounded'] is None
    assert not set(fields) & {'corruptions', 'pasted_objects'}


def test_an_attack_of_ones_own_is_not_autoattack(setup, monkeypatch):
  monkeypatch.setitem(sys.modules, 'autoattack_mine', own)
  models, _, images, labels = setup
  given = {'one': models['one']}, parse_attacks(['autoattack_mine:uniform'])
  evaluation = evaluate_models(
    *given, images, labels, epsilon=EPSILON, epsilons=(), batching=BATCHING
  )
  found = measure((given[0], evaluation, images, labels), None)
  assert found['one']['autoattack'] is None


# -------------------------------------------------------------------- rounding


@settings(max_examples=30)
@given(
  numpy_strategies.arrays(
    np.float32, (3, 4), elements={'min_value': -0.5, 'max_value': 1.5}
  )
)
def test_rounding_is_what_a_png_holds(image):
  file = io.BytesIO()
  levels = np.rint(255 * np.clip(image.astype(np.float64), 0, 1))
  Image.fromarray(levels.astype(np.uint8)).save(file, 'PNG')
  found = round_to_8_bits(image)
  assert found.dtype == np.float32
  expected = np.asarray(Image.open(file)) / np.float32(255)
  np.testing.assert_allclose(found, expected, atol=1e-7)
  np.testing.assert_array_equal(round_to_8_bits(found), found)
