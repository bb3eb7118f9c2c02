"""Evaluation names what is wrong with logits, images, labels and options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks.specs import parse_attack
from advjax.evaluation import robust_accuracy
from advjax.evaluation.logits import predict
from advjax.evaluation.robustness import attack_and_predict
from tests.evaluation.noisy_images import (
  ATTACK,
  IMAGES,
  KEY,
  LABELS,
  NUM_IMAGES,
  cut,
  network,
)


@pytest.mark.parametrize('num_devices', [1, 2])
def test_probabilities_are_found(num_devices):
  def softmax(images):
    return jax.nn.softmax(network()(images))

  share = cut(7, num_devices)
  with pytest.raises(ValueError, match=r'returns probabilities.*softmax'):
    predict(softmax, IMAGES, **share)
  with pytest.raises(ValueError, match='returns probabilities'):
    robust_accuracy(
      softmax, IMAGES, LABELS, {'fgsm': ATTACK}, 0.1, key=KEY, **share
    )


def test_some_rows_that_look_like_probabilities_are_fine():
  def logits_fn(images):
    rows = jnp.array([[0.25, 0.75, 0.0], [0.6, 0.5, 0.5]])
    return rows[images[:, 0].astype(int)]

  images = np.array([[0.0], [1.0]], np.float32)
  assert predict(logits_fn, images).tolist() == [1, 0]


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_logits_that_are_not_finite_are_found(value):
  def broken(images):
    logits = network()(images)
    return jnp.where(images[:, :1] > 0.9, value, logits)

  count = int((IMAGES[:, 0] > 0.9).sum())
  assert 0 < count < NUM_IMAGES
  with pytest.raises(ValueError, match=f'not finite for {count} of 100 images'):
    predict(broken, IMAGES, batch_size=64)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'images': IMAGES[:0], 'labels': LABELS[:0]}, r'shape \(0, 6\); allowed'),
    (
      {'images': (255 * IMAGES).astype(np.uint8)},
      r'dtype uint8; allowed: a fl',
    ),
    ({'images': 255 * IMAGES}, r'values from .*; allowed: finite.*0.0 to 1.0'),
    ({'images': IMAGES - 0.5}, r'values from -0'),
    ({'images': IMAGES * np.nan}, r'values from nan'),
    ({'labels': LABELS[:-1]}, r'labels have shape \(99,\); allowed: \(100,\)'),
    ({'labels': LABELS[:, None]}, r'labels have shape \(100, 1\)'),
    (
      {'labels': LABELS + 1},
      r'labels hold values from 1 to 3; allowed: 0 to 2',
    ),
    ({'labels': LABELS - 1}, r'labels hold values from -1 to 1'),
    ({'labels': LABELS * 0.5}, r'labels have dtype float64; allowed: integers'),
    ({'epsilons': []}, r'epsilons = \[\]'),
    ({'epsilons': [0.1, -0.1]}, r'epsilons = \[0.1, -0.1\]; allowed'),
    ({'epsilons': [0.1], 'kept': 1}, r'kept = 1 is an index'),
    ({'batch_size': 0}, r'batch_size = 0; allowed: an integer >= 1'),
    ({'norm': 'l3'}, r"norm.*'l3'"),
  ],
)
def test_bad_input_is_named(changes, message):
  arguments = {
    'images': IMAGES,
    'labels': LABELS,
    'epsilons': [0.1],
    'key': KEY,
    **changes,
  }
  with pytest.raises(ValueError, match=message):
    attack_and_predict(network(), {}, parse_attack('fgsm'), **arguments)


@pytest.mark.parametrize(
  ('images', 'labels'),
  [(IMAGES * np.nan, LABELS), (IMAGES, LABELS + 1), (IMAGES, LABELS[:5])],
)
def test_robust_accuracy_looks_before_it_attacks(images, labels):
  with pytest.raises(ValueError, match=r'images hold|labels h'):
    robust_accuracy(network(), images, labels, {'fgsm': ATTACK}, 0.1, key=KEY)


def test_images_may_be_outside_bounds_that_an_attack_has_not():
  found = attack_and_predict(
    network(),
    {},
    parse_attack('fgsm', bounds=None),
    IMAGES - 0.5,
    LABELS,
    [0.1],
    key=KEY,
  )
  assert found.sizes.max() == pytest.approx(0.1)
  assert found.images.min() < -0.5
