"""Shifts of the networks of several seeds, against plain loops."""

import jax
import numpy as np
import pytest

from advjax.config import default_config
from advjax.devices import Batching
from advjax.evaluation.corruptions import KINDS, corrupt
from advjax.evaluation.pasted import paste_objects
from advjax.evaluation.shifts import (
  SHIFTS,
  measure_shifts,
  parse_shifts,
  seen_corruptions,
)
from advjax.results import accuracy_interval

K, NUM_IMAGES = 2, 10
RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(size=(NUM_IMAGES, 8, 8, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, NUM_IMAGES).astype(np.int32)
SEEDS = [RNG.normal(size=(64, 3)).astype(np.float32) for _ in range(2)]
WEIGHTS = {'two_seeds': SEEDS, 'one': SEEDS[:1]}


def logits(images, weights):
  return (images.reshape(len(images), -1) - 0.5) @ weights


NETWORKS = {
  name: [jax.tree_util.Partial(logits, weights=w) for w in each]
  for name, each in WEIGHTS.items()
}
OPTIONS = {
  'epsilon': 0.3,
  'norm': 'linf',
  'bounds': (0.0, 1.0),
  'batching': Batching(NUM_IMAGES, jax.devices()[:1]),
  'top_k': K,
}


@pytest.fixture(scope='module')
def parts():
  return measure_shifts(
    SHIFTS,
    NETWORKS,
    IMAGES,
    LABELS,
    seen={'one': ['fog', 'pasted_objects']},
    **OPTIONS,
  )


def accuracies(name, images):
  """Of the top 1 and of the top 2, for each seed."""
  order = [np.argsort(-logits(images, w), axis=1) for w in WEIGHTS[name]]
  hits = [each == LABELS[:, None] for each in order]
  return [[each[:, :k].any(1).mean() for each in hits] for k in (1, K)]


def test_corruptions_are_means_over_the_seeds(parts):
  for name, found in parts.items():
    every = {
      kind: [
        accuracies(name, corrupt(IMAGES, kind, severity, seed=0))
        for severity in range(1, 6)
      ]
      for kind in KINDS
    }
    # [kinds, severities, top 1 or k, seeds]
    values = np.array(list(every.values()))
    for place, ending in enumerate(('', '_top_k')):
      for kind, expected in every.items():
        np.testing.assert_allclose(
          found[f'corruptions{ending}'][kind],
          np.mean([row[place] for row in expected], axis=1),
        )
      unseen = values[[kind != 'fog' for kind in KINDS]]
      for key, part in (('', values), ('unseen_', unseen)):
        of_seeds = part[:, :, place].mean((0, 1))
        estimate = found[f'{key}corruption{ending}_accuracy']
        assert estimate.value == pytest.approx(of_seeds.mean())
        if name == 'one':
          assert estimate.std is None
        else:
          spread = abs(of_seeds[0] - of_seeds[1]) / 2**0.5
          assert estimate.std == pytest.approx(spread)
  assert parts['two_seeds']['corruption_accuracy'].std > 0
  assert parts['two_seeds']['seen_corruptions'] == []
  assert parts['one']['seen_corruptions'] == ['fog', 'pasted_objects']


def test_pasted_objects_have_intervals_over_images(parts):
  for name, found in parts.items():
    assert list(found['pasted_objects']) == ['1', '2', '3', '4', '5']
    for severity, result in found['pasted_objects'].items():
      pasted = paste_objects(IMAGES, LABELS, int(severity), seed=0)
      first, top = accuracies(name, pasted)
      assert result.accuracy.value == pytest.approx(np.mean(first))
      assert result.top_k_accuracy.value == pytest.approx(np.mean(top))
      interval = accuracy_interval(float(np.mean(first)), NUM_IMAGES)
      assert result.accuracy.ci == pytest.approx(interval)
      assert (result.accuracy.std is not None) == (name == 'two_seeds')


def test_noise_is_the_same_for_every_network(parts):
  one, two = parts['one']['noise'], parts['two_seeds']['noise']
  assert list(one) == ['uniform', 'gaussian', 'salt_and_pepper']
  for kind, result in one.items():
    assert (result.epsilon, result.norm) == (0.3, 'linf')
    value = result.accuracy.value
    # Two seeds, of which the first is the same network.
    other = 2 * two[kind].accuracy.value - value
    spread = abs(other - value) / 2**0.5
    assert two[kind].accuracy.std == pytest.approx(spread)
    assert round(other * NUM_IMAGES, 6) % 1 == 0
    assert value <= result.top_k_accuracy.value <= 1


def test_a_flag_gives_names_in_one_text():
  assert parse_shifts([','.join(SHIFTS)], (8, 8, 1)) == SHIFTS
  assert parse_shifts((), (4,)) == ()
  assert parse_shifts(('noise',), (4,)) == ('noise',)


@pytest.mark.parametrize(
  ('texts', 'shape', 'message'),
  [
    (['corruption'], (8, 8, 3), r"'corruption'; allowed: .*mean 'corruptions'"),
    (['noise,noise'], (8, 8, 3), r"\('noise', 'noise'\); allowed: each once"),
    (['corruptions'], (8, 8, 2), r'shape \[8, 8, 2\]; allowed: noise alone'),
    (['pasted_objects'], (7, 8, 3), r'shape \[7, 8, 3\]; allowed'),
    (['noise', 'corruptions'], (20,), r'shape \[20\]; allowed'),
  ],
)
def test_what_cannot_be_measured_is_named(texts, shape, message):
  with pytest.raises(ValueError, match=message):
    parse_shifts(texts, shape)


def test_augmentations_are_not_unseen():
  config = default_config()
  assert seen_corruptions(config) == []
  for field in ('cutmix', 'contrast', 'salt_and_pepper', 'hue', 'poisson'):
    config.augmentation[field] = 0.1
  assert seen_corruptions(config) == [
    *('shot_noise', 'impulse_noise', 'contrast', 'pasted_objects')
  ]
  config.augmentation.gaussian = config.augmentation.brightness = 0.1
  assert len(seen_corruptions(config)) == 6
