"""Several networks: white box and transfer, and the saved examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.evaluation import members as members_lib
from advjax.evaluation.models import (
  evaluate_members,
  parse_attacks,
  save_examples,
)
from advjax.reporting.report import robustness_report

NUM_IMAGES = 12
IMAGES = np.full((NUM_IMAGES, 2, 2, 1), 0.5, np.float32)
LABELS = np.arange(NUM_IMAGES, dtype=np.int32) % 2
# Pixel 0 tells the class to one network, pixel 3 to the other.
IMAGES[:, 0, 0, 0] += 0.1 * (2 * LABELS - 1)
IMAGES[:, 1, 1, 0] += 0.2 * (2 * LABELS - 1)


def first(images):
  signal = 10 * (images[:, 0, 0, 0] - 0.5)
  return jnp.stack([-signal, signal], axis=-1)


def last(images):
  signal = 10 * (images[:, 1, 1, 0] - 0.5)
  return jnp.stack([-signal, signal], axis=-1)


def evaluate(names=('first', 'last'), attacks=('fgsm', 'pgd-2'), **changes):
  networks = {'first': first, 'last': last}
  options = {
    'epsilon': 0.15,
    'epsilons': (0.05, 0.25),
    'key': jax.random.key(0),
    'batch_size': 5,
    'devices': jax.devices(),
    **changes,
  }
  return evaluate_members(
    {name: networks[name] for name in names},
    parse_attacks(attacks),
    IMAGES,
    LABELS,
    **options,
  )


@pytest.fixture(scope='module')
def found():
  return evaluate()


def accuracy(predictions):
  return (predictions == LABELS[: predictions.shape[-1]]).mean(-1).tolist()


def test_white_box_and_transfer_are_not_mixed_up(found):
  """0.15 moves the first pixel over 0.5 (by 0.1), not the last (by 0.2)."""
  assert accuracy(found.clean['first']) == accuracy(found.clean['last']) == 1.0
  on_first = found.headline['first', 'fgsm']
  assert accuracy(on_first['first']) == 0.0
  assert accuracy(on_first['last']) == 1.0
  on_last = found.headline['last', 'fgsm']
  assert accuracy(on_last['first']) == 1.0
  assert accuracy(on_last['last']) == 1.0
  on_first, on_last = (found.curves[name, 'fgsm'] for name in ('first', 'last'))
  assert accuracy(on_first['first']) == [1.0, 0.0]
  assert accuracy(on_first['last']) == [1.0, 1.0]
  assert accuracy(on_last['first']) == [1.0, 1.0]
  assert accuracy(on_last['last']) == [1.0, 0.0]
  # PGD's random start moves the other pixel too, but not by 0.2.
  assert accuracy(found.headline['first', 'pgd']['first']) == 0.0
  assert accuracy(found.headline['first', 'pgd']['last']) == 1.0


def test_images_are_those_made_on_their_source(found):
  moved = np.abs(found.images['first', 'fgsm'] - IMAGES)
  expected = np.zeros_like(IMAGES)
  expected[:, 0, 0, 0] = 0.15
  np.testing.assert_allclose(moved, expected, atol=1e-6)
  assert found.max_sizes['first', 'fgsm'] == pytest.approx(0.15)


def test_the_report_says_the_same(found):
  report = robustness_report([found], LABELS, 'first')
  assert report['clean_accuracy'] == 1.0
  low, high = report['clean_accuracy_ci']
  assert 0 < low < high == 1.0
  entry = report['robust_accuracy']['fgsm']
  assert (entry['epsilon'], entry['norm']) == (0.15, 'linf')
  assert (entry['white_box'], entry['transfer']) == (0.0, {'last': 1.0})
  assert entry['white_box_ci'][0] == 0.0 < entry['white_box_ci'][1]
  assert list(entry['transfer_ci']) == ['last']
  assert [(p['epsilon'], p['white_box']) for p in entry['curve']] == [
    (0.05, 1.0),
    (0.25, 0.0),
  ]
  assert [p['transfer'] for p in entry['curve']] == 2 * [{'last': 1.0}]
  assert entry['step_size'] == 0.15
  pgd = report['robust_accuracy']['pgd']
  assert (pgd['attack'], pgd['num_steps'], pgd['num_restarts']) == (
    'pgd-2',
    2,
    1,
  )
  assert pgd['step_size'] == pytest.approx(2.5 * 0.15 / 2)
  other = robustness_report([found], LABELS, 'last')['robust_accuracy']['fgsm']
  assert (other['white_box'], other['transfer']) == (1.0, {'first': 1.0})


def test_saved_examples_give_the_same_predictions(found, tmp_path):
  path = tmp_path / 'adversarial_examples.npz'
  save_examples(path, found, IMAGES, LABELS)
  with np.load(path, allow_pickle=False) as saved:
    arrays = dict(saved)
  networks = {'first': first, 'last': last}
  assert arrays['members'].tolist() == ['first', 'last']
  assert list(zip(arrays['source'], arrays['attack'], strict=True)) == [
    (source, attack)
    for attack in ('fgsm', 'pgd')
    for source in ('first', 'last')
  ]
  np.testing.assert_array_equal(arrays['images'], IMAGES)
  np.testing.assert_array_equal(arrays['labels'], LABELS)
  np.testing.assert_allclose(arrays['epsilon'], 0.15)
  assert arrays['perturbed'].dtype == np.float32
  assert arrays['predictions'].dtype == np.int32
  for i, name in enumerate(arrays['members']):
    np.testing.assert_array_equal(
      arrays['clean_predictions'][i],
      networks[name](arrays['images']).argmax(-1),
    )
    for j, perturbed in enumerate(arrays['perturbed']):
      np.testing.assert_array_equal(
        arrays['predictions'][j, i], networks[name](perturbed).argmax(-1)
      )


def test_curves_of_large_test_sets_are_on_the_first_images(
  found, monkeypatch, tmp_path
):
  monkeypatch.setattr(members_lib, '_MAX_CURVE_IMAGES', 7)
  large = evaluate(attacks=('fgsm',))
  pair = 'first', 'fgsm'
  for name in ('first', 'last'):
    np.testing.assert_array_equal(
      large.headline[pair][name], found.headline[pair][name]
    )
    np.testing.assert_array_equal(
      large.curves[pair][name], found.curves[pair][name][:, :7]
    )
  np.testing.assert_array_equal(large.images[pair], found.images[pair])
  report = robustness_report([large], LABELS, 'first')['robust_accuracy'][
    'fgsm'
  ]
  assert report['curve_num_images'] == 7
  save_examples(tmp_path / 'some.npz', large, IMAGES, LABELS)
  with np.load(tmp_path / 'some.npz') as saved:
    assert saved['perturbed'].shape[:2] == (2, 7)
    assert saved['predictions'].shape == (2, 2, 7)


def test_attacks_that_choose_their_radius_and_those_of_autoattack():
  """The border is 0.1 away for the first network, 0.2 for the last one."""
  found = evaluate(attacks=('apgd-ce', 'deepfool-3'))
  for attack in ('apgd-ce', 'deepfool'):
    for source, white_box in (('first', 0.0), ('last', 1.0)):
      other = {'first': 'last', 'last': 'first'}[source]
      headline, curves = (
        part[source, attack] for part in (found.headline, found.curves)
      )
      assert accuracy(headline[source]) == white_box
      assert accuracy(curves[source]) == [1.0, 0.0]
      assert curves[source].shape == (2, NUM_IMAGES)
      if attack == 'deepfool' or source == 'last':
        assert accuracy(headline[other]) == 1.0
  assert set(found.distances) == {('first', 'deepfool'), ('last', 'deepfool')}
  for source, distance in (('first', 0.1), ('last', 0.2)):
    # DeepFool goes 2 % farther than it must, and a trifle more.
    distances = found.distances[source, 'deepfool']
    np.testing.assert_allclose(distances, 1.02 * distance, rtol=2e-3)
    assert found.autoattack[source, 'deepfool'] == []
    entries = found.autoattack[source, 'apgd-ce']
    assert [e['epsilon'] for e in entries] == [0.05, 0.25, 0.15]
    assert [e['accuracy'] for e in entries] == [
      float(epsilon < distance) for epsilon in (0.05, 0.25, 0.15)
    ]
  # What lies outside of the headline epsilon is not shown.
  assert found.max_sizes['first', 'deepfool'] == pytest.approx(0.102, rel=2e-3)
  assert found.max_sizes['last', 'deepfool'] == 0.0
  assert found.images['last', 'deepfool'].tobytes() == IMAGES.tobytes()
  assert found.images['last', 'apgd-ce'].tobytes() == IMAGES.tobytes()
  assert 0.1 < found.max_sizes['first', 'apgd-ce'] <= 0.15 + 1e-6


def test_a_member_alone_has_no_transfer():
  report = robustness_report(
    [evaluate(('first',), ('fgsm',))], LABELS, 'first'
  )['robust_accuracy']['fgsm']
  assert report['transfer'] == {}


def test_attacks_may_come_as_one_text():
  assert parse_attacks(['fgsm,bim-20']) == parse_attacks(['fgsm', 'bim-20'])
