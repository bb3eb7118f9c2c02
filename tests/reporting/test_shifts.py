"""Shifts of the networks of several seeds, against plain loops."""

import jax
import numpy as np
import pytest
from advjax.reporting.shifts import measure_shifts

from advjax.attacks.specs import parse_attack
from advjax.evaluation.corruptions import KINDS, corrupt
from advjax.evaluation.models import Evaluation, TopK
from advjax.evaluation.pasted import paste_objects
from advjax.reporting.values import accuracy_interval

K, NUM_IMAGES = 2, 10
RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(size=(NUM_IMAGES, 8, 8, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, NUM_IMAGES).astype(np.int32)
SEEDS = [RNG.normal(size=(64, 3)).astype(np.float32) for _ in range(2)]
WEIGHTS = {'two_seeds': SEEDS, 'one': SEEDS[:1]}


def logits(images, weights):
  return (images.reshape(len(images), -1) - 0.5) @ weights


@pytest.fixture(scope='module')
def parts():
  nothing = {}
  evaluation = Evaluation(
    *([nothing] * 7),
    attacks={'fgsm': parse_attack('fgsm')},
    epsilon=0.3,
    epsilons=(0.3,),
    in_top_k=TopK(K, {}, {}, {}),
  )
  return measure_shifts(
    ('pasted_objects', 'corruptions', 'noise'),
    {
      name: [jax.tree_util.Partial(logits, weights=w) for w in each]
      for name, each in WEIGHTS.items()
    },
    evaluation,
    IMAGES,
    LABELS,
    bounds=(0.0, 1.0),
    seen={'one': ['fog', 'pasted_objects']},
    key=jax.random.key(0),
    batch_size=NUM_IMAGES,
    devices=jax.devices()[:1],
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
        key = f'{key}corruption{ending}_accuracy'
        assert found[key] == pytest.approx(of_seeds.mean())
        if name == 'one':
          assert f'{key}_std' not in found
        else:
          spread = abs(of_seeds[0] - of_seeds[1]) / 2**0.5
          assert found[f'{key}_std'] == pytest.approx(spread)
  assert parts['two_seeds']['corruption_accuracy_std'] > 0
  assert parts['two_seeds']['seen_corruptions'] == []
  assert parts['one']['seen_corruptions'] == ['fog', 'pasted_objects']


def test_noise_alone_says_what_training_has_seen(monkeypatch):
  noise = {'uniform': {'accuracy': 0.5}}
  monkeypatch.setattr(
    'advjax.reporting.shifts.measure_noise',
    lambda networks, *_, **__: {name: {'noise': noise} for name in networks},
  )
  nothing = {}
  found = measure_shifts(
    ('noise',),
    {'plain': [], 'noisy': []},
    Evaluation(*([nothing] * 7), attacks={}, epsilon=0.3, epsilons=(0.3,)),
    IMAGES,
    LABELS,
    bounds=(0.0, 1.0),
    seen={'noisy': ['shot_noise']},
    key=jax.random.key(0),
    batch_size=NUM_IMAGES,
    devices=jax.devices()[:1],
  )
  assert found == {
    'plain': {'noise': noise, 'seen_corruptions': []},
    'noisy': {'noise': noise, 'seen_corruptions': ['shot_noise']},
  }


def test_pasted_objects_have_intervals_over_images(parts):
  for name, found in parts.items():
    assert list(found['pasted_objects']) == ['1', '2', '3', '4', '5']
    for severity, entry in found['pasted_objects'].items():
      pasted = paste_objects(IMAGES, LABELS, int(severity), seed=0)
      first, top = accuracies(name, pasted)
      assert entry['accuracy'] == pytest.approx(np.mean(first))
      assert entry['top_k_accuracy'] == pytest.approx(np.mean(top))
      interval = accuracy_interval(float(np.mean(first)), NUM_IMAGES)
      assert entry['accuracy_ci'] == pytest.approx(interval)
      assert ('accuracy_std' in entry) == (name == 'two_seeds')


def test_noise_is_the_same_for_every_network(parts):
  one, two = parts['one']['noise'], parts['two_seeds']['noise']
  assert list(one) == ['uniform', 'gaussian', 'salt_and_pepper']
  for kind, entry in one.items():
    assert (entry['epsilon'], entry['norm']) == (0.3, 'linf')
    # Two seeds, of which the first is the same network.
    other = 2 * two[kind]['accuracy'] - entry['accuracy']
    spread = abs(other - entry['accuracy']) / 2**0.5
    assert two[kind]['accuracy_std'] == pytest.approx(spread)
    assert round(other * NUM_IMAGES, 6) % 1 == 0
    assert entry['accuracy'] <= entry['top_k_accuracy'] <= 1
