"""What is measured besides attacks, against plain loops over the images."""

import jax
import numpy as np
import pytest

from advjax.evaluation.attacked import attack_and_predict
from advjax.evaluation.corruptions import KINDS, corrupt
from advjax.evaluation.members import evaluate_members, parse_attacks
from advjax.evaluation.noise import noises
from advjax.reporting import extras, shifts
from advjax.reporting.extras import measure_extras
from advjax.reporting.values import accuracy_interval

EPSILON = 0.1
NUM_CLASSES = 4  # No image is of the last one.


def network(weights):
  return lambda images: 20 * (images.reshape(len(images), -1) - 0.5) @ weights


@pytest.fixture(scope='module')
def setup():
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(12, 8, 8, 1)).astype(np.float32)
  weights = rng.normal(size=(64, NUM_CLASSES)).astype(np.float32)
  flat = 20 * (images.reshape(12, -1) - 0.5)
  labels = (flat @ weights)[:, :3].argmax(1).astype(np.int32)
  noisy = weights + rng.normal(size=weights.shape).astype(np.float32)
  members = {'one': network(weights), 'two': network(noisy)}
  evaluation = evaluate_members(
    members,
    parse_attacks(['fgsm', 'pgd-2']),
    images,
    labels,
    epsilon=EPSILON,
    epsilons=(EPSILON,),
    key=jax.random.key(0),
    batch_size=12,
    devices=jax.devices()[:1],
  )
  return members, evaluation, images, labels


@pytest.fixture(scope='module')
def found(setup):
  return measure(setup, (0.0, 1.0))


def measure(setup, bounds):
  return measure_extras(
    *setup,
    num_classes=NUM_CLASSES,
    bounds=bounds,
    key=jax.random.key(1),
    batch_size=12,
    devices=jax.devices()[:1],
    seen={'two': ['fog']},
  )


def accuracy(logits_fn, images, labels):
  return float((np.asarray(logits_fn(images)).argmax(-1) == labels).mean())


def test_every_member_has_every_part(setup, found):
  assert list(found) == ['one', 'two']
  for parts in found.values():
    assert list(parts) == [
      *('per_class', 'noise'),
      *('seen_corruptions', 'corruptions', 'corruption_accuracy'),
      *('unseen_corruption_accuracy', 'pasted_objects', 'traces', 'rounded'),
    ]


def test_classes_without_images_have_no_accuracy(setup, found):
  _, evaluation, _, labels = setup
  for name, parts in found.items():
    assert list(parts['per_class']) == ['clean', 'fgsm', 'pgd']
    assert all(values[3] is None for values in parts['per_class'].values())
    right = evaluation.headline[name, 'fgsm'][name] == labels
    for label in set(labels.tolist()):
      expected = right[labels == label].mean()
      assert parts['per_class']['fgsm'][label] == expected


def test_noise_is_that_of_the_ball(setup, found):
  members, _, images, labels = setup
  noisy = attack_and_predict(
    members['two'],
    {},
    noises('linf', (0.0, 1.0))['salt_and_pepper'],
    images,
    labels,
    [EPSILON],
    key=jax.random.key(1),
    batch_size=12,
    devices=jax.devices()[:1],
  ).images
  assert np.abs(noisy - images).max() == pytest.approx(EPSILON)
  for name, logits_fn in members.items():
    entry = found[name]['noise']['salt_and_pepper']
    value = accuracy(logits_fn, noisy, labels)
    assert entry == {
      'accuracy': value,
      'accuracy_ci': list(accuracy_interval(value, 12)),
      'epsilon': EPSILON,
      'norm': 'linf',
    }
  assert list(found['one']['noise']) == [
    'uniform',
    'gaussian',
    'salt_and_pepper',
  ]


def test_traces_end_where_attacks_do(setup, found):
  members, evaluation, images, labels = setup
  for name, logits_fn in members.items():
    traces = found[name]['traces']
    assert [len(traces[a]['loss']) for a in ('fgsm', 'pgd')] == [2, 3]
    assert traces['fgsm']['accuracy'] == pytest.approx(
      [
        accuracy(logits_fn, images, labels),
        (evaluation.headline[name, 'fgsm'][name] == labels).mean(),
      ]
    )
    assert traces['fgsm']['zero_gradients'] == 0.0


def test_rounding_takes_the_members_own_images(setup, found):
  members, evaluation, _, labels = setup
  for name, logits_fn in members.items():
    for attack in ('fgsm', 'pgd'):
      pixels = np.round(255 * evaluation.images[name, attack])
      expected = accuracy(logits_fn, (pixels / 255).astype(np.float32), labels)
      assert found[name]['rounded'][attack] == expected


def test_corruptions_are_of_every_kind(setup, found):
  members, _, images, labels = setup
  for name, logits_fn in members.items():
    kinds = found[name]['corruptions']
    assert tuple(kinds) == KINDS
    assert all(len(values) == 5 for values in kinds.values())
    for kind, severity in (('fog', 5), ('shot_noise', 1)):
      corrupted = corrupt(images, kind, severity, seed=0)
      expected = accuracy(logits_fn, corrupted, labels)
      assert kinds[kind][severity - 1] == expected
    mean = np.mean(list(kinds.values()))
    assert found[name]['corruption_accuracy'] == pytest.approx(mean)
    # What one of them has seen is left out for both, so that they compare.
    unseen = np.mean([v for kind, v in kinds.items() if kind != 'fog'])
    mean = found[name]['unseen_corruption_accuracy']
    assert mean == pytest.approx(unseen)
    assert found[name]['seen_corruptions'] == (['fog'] if name == 'two' else [])


def test_other_pixel_ranges_leave_out_8_bits(setup, monkeypatch):
  monkeypatch.setattr(extras, 'measure_traces', lambda *args, **kwargs: {})
  monkeypatch.setattr(shifts, 'measure_noise', lambda *args, **kwargs: {})
  for parts in measure(setup, (-1.0, 2.0)).values():
    assert list(parts) == ['per_class']
