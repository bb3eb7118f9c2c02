"""Several models: white box and transfer, top k, and the saved examples."""

import dataclasses

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from advjax.devices import Batching
from advjax.evaluation import models as models_lib
from advjax.evaluation.logits import in_top_k
from advjax.evaluation.models import (
  evaluate_models,
  model_result,
  parse_attacks,
  save_examples,
)
from advjax.results import accuracy_interval

NUM_IMAGES = 12
IMAGES = np.full((NUM_IMAGES, 2, 2, 1), 0.5, np.float32)
LABELS = np.arange(NUM_IMAGES, dtype=np.int32) % 2
# One network reads the class from pixel 0, the other from pixel 3.
IMAGES[:, 0, 0, 0] += 0.1 * (2 * LABELS - 1)
IMAGES[:, 1, 1, 0] += 0.2 * (2 * LABELS - 1)


def read(pixel, images):
  """A network of three classes that reads one pixel; the last never wins."""
  signal = 10 * ((images[..., 0] - 0.5) * pixel[None]).sum((1, 2))
  return jnp.stack([-signal, signal, jnp.full_like(signal, -9)], axis=-1)


# One program for both.
NETWORKS = {
  'first': Partial(read, jnp.array([[1.0, 0], [0, 0]])),
  'last': Partial(read, jnp.array([[0, 0], [0, 1.0]])),
}


def evaluate(attacks):
  return evaluate_models(
    NETWORKS,
    parse_attacks(attacks),
    IMAGES,
    LABELS,
    epsilon=0.15,
    epsilons=(0.05, 0.25),
    batching=Batching(6, jax.devices()),
  )


@pytest.fixture(scope='module')
def found():
  return evaluate(('fgsm', 'pgd-2'))


def accuracy(logits):
  return (logits.argmax(-1) == LABELS[: logits.shape[-2]]).mean(-1).tolist()


def test_white_box_and_transfer_are_not_mixed_up(found):
  """0.15 moves the first pixel over 0.5 (by 0.1), not the last (by 0.2)."""
  assert {name: accuracy(z) for name, z in found.clean_logits.items()} == {
    'first': 1.0,
    'last': 1.0,
  }
  for source in NETWORKS:
    for target in NETWORKS:
      at_epsilon = found.logits[source, 'fgsm'][target]
      assert accuracy(at_epsilon) == 1 - (source == target == 'first')
      curve = found.curve_logits[source, 'fgsm'][target]
      assert accuracy(curve) == [1.0, float(source != target)]
  # PGD's random start moves the other pixel too, but not by 0.2.
  assert accuracy(found.logits['first', 'pgd']['first']) == 0.0
  assert accuracy(found.logits['first', 'pgd']['last']) == 1.0
  for pair, predictions in found.predictions.items():
    for target, values in predictions.items():
      assert values.dtype == np.int32
      np.testing.assert_array_equal(
        values, found.logits[pair][target].argmax(-1)
      )


def test_adversarial_examples_are_those_of_their_source(found):
  moved = np.abs(found.images['first', 'fgsm'] - IMAGES)
  expected = np.zeros_like(IMAGES)
  expected[:, 0, 0, 0] = 0.15
  np.testing.assert_allclose(moved, expected, atol=1e-6)
  assert found.max_sizes['first', 'fgsm'] == pytest.approx(0.15)


def test_the_result_of_a_model(found):
  result = model_result([found], LABELS, 'first')
  assert result.clean_accuracy.value == 1.0
  assert result.clean_accuracy.ci == accuracy_interval(1.0, NUM_IMAGES)
  fgsm, pgd = (result.robust_accuracy[name] for name in ('fgsm', 'pgd'))
  assert (fgsm.epsilon, fgsm.norm, fgsm.step_size) == (0.15, 'linf', 0.15)
  assert (fgsm.white_box.value, fgsm.transfer['last'].value) == (0.0, 1.0)
  assert [(p.epsilon, p.white_box.value) for p in fgsm.curve] == [
    (0.05, 1.0),
    (0.25, 0.0),
  ]
  assert (pgd.attack, pgd.num_steps, pgd.num_restarts) == ('pgd-2', 2, 1)
  assert pgd.step_size == pytest.approx(2.5 * 0.15 / 2)
  keys = result.to_json()
  assert not [key for key in keys if 'top_k' in key]
  assert keys['robust_accuracy']['fgsm']['transfer'] == {'last': 1.0}


def test_saved_examples_give_the_same_predictions(found, tmp_path):
  path = tmp_path / 'adversarial_examples.npz'
  save_examples(path, found, IMAGES, LABELS)
  with np.load(path, allow_pickle=False) as saved:
    arrays = dict(saved)
  assert arrays['members'].tolist() == ['first', 'last']
  assert list(zip(arrays['source'], arrays['attack'], strict=True)) == [
    (source, attack) for attack in ('fgsm', 'pgd') for source in NETWORKS
  ]
  np.testing.assert_array_equal(arrays['images'], IMAGES)
  np.testing.assert_array_equal(arrays['labels'], LABELS)
  np.testing.assert_allclose(arrays['epsilon'], 0.15)
  assert arrays['perturbed'].dtype == np.float32
  assert arrays['predictions'].dtype == np.int32
  for i, name in enumerate(arrays['members']):
    np.testing.assert_array_equal(
      arrays['clean_predictions'][i],
      np.asarray(NETWORKS[name](arrays['images'])).argmax(-1),
    )
    for j, perturbed in enumerate(arrays['perturbed']):
      np.testing.assert_array_equal(
        arrays['predictions'][j, i],
        np.asarray(NETWORKS[name](perturbed)).argmax(-1),
      )


def test_curves_of_large_test_sets_are_on_the_first_images(
  found, monkeypatch, tmp_path
):
  monkeypatch.setattr(models_lib, '_MAX_CURVE_IMAGES', 7)
  large = evaluate(('fgsm',))
  pair = 'first', 'fgsm'
  for name in NETWORKS:
    np.testing.assert_array_equal(
      large.predictions[pair][name], found.predictions[pair][name]
    )
    np.testing.assert_array_equal(
      large.curve_logits[pair][name].argmax(-1),
      found.curve_logits[pair][name][:, :7].argmax(-1),
    )
  np.testing.assert_array_equal(large.images[pair], found.images[pair])
  result = model_result([large], LABELS, 'first').robust_accuracy['fgsm']
  assert result.curve_num_images == 7
  save_examples(tmp_path / 'some.npz', large, IMAGES, LABELS)
  with np.load(tmp_path / 'some.npz') as saved:
    assert saved['perturbed'].shape[:2] == (2, 7)
    assert saved['predictions'].shape == (2, 2, 7)


def test_minimum_norm_attacks_and_those_of_autoattack():
  """The border is 0.1 away for the first network, 0.2 for the last one."""
  found = evaluate(('apgd-ce', 'deepfool-3'))
  for attack in ('apgd-ce', 'deepfool'):
    for source, white_box in (('first', 0.0), ('last', 1.0)):
      other = {'first': 'last', 'last': 'first'}[source]
      at_epsilon, curves = (
        part[source, attack] for part in (found.logits, found.curve_logits)
      )
      assert accuracy(at_epsilon[source]) == white_box
      assert accuracy(curves[source]) == [1.0, 0.0]
      assert curves[source].shape == (2, NUM_IMAGES, 3)
      if attack == 'deepfool' or source == 'last':
        assert accuracy(at_epsilon[other]) == 1.0
  assert set(found.distances) == {('first', 'deepfool'), ('last', 'deepfool')}
  for source, distance in (('first', 0.1), ('last', 0.2)):
    # DeepFool goes 2 % farther than it must, and then back.
    distances = found.distances[source, 'deepfool']
    np.testing.assert_allclose(distances, distance, rtol=2e-3)
    assert found.autoattack[source, 'deepfool'] == []
    entries = found.autoattack[source, 'apgd-ce']
    assert [(e.epsilon, e.accuracy.value) for e in entries] == [
      (epsilon, float(epsilon < distance)) for epsilon in (0.05, 0.25, 0.15)
    ]
  # What is outside the evaluation epsilon is not returned.
  assert found.max_sizes['first', 'deepfool'] == pytest.approx(0.1, rel=2e-3)
  assert found.max_sizes['last', 'deepfool'] == 0.0
  for attack in ('deepfool', 'apgd-ce'):
    assert found.images['last', attack].tobytes() == IMAGES.tobytes()
  assert 0.1 < found.max_sizes['first', 'apgd-ce'] <= 0.15 + 1e-6


# ----------------------------------------------------------------------- top k


# Few values, so that many are equal.
@hypothesis.given(
  arrays.arrays(np.float32, (5, 4), elements=st.sampled_from([0.0, 1.0, 2.0])),
  arrays.arrays(np.int32, 5, elements=st.integers(0, 3)),
)
@hypothesis.settings(max_examples=30)
def test_the_top_k_is_that_of_jax(logits, labels):
  for k in (1, 2, 3):
    found = in_top_k(logits, labels, k)
    device = np.asarray(jax.lax.top_k(logits, k)[1])
    np.testing.assert_array_equal(found, (device == labels[:, None]).any(-1))


def test_nan_counts_as_the_largest():
  logits = np.array([[np.nan, 1.0, 0.0, -1.0]] * 2, np.float32)
  assert in_top_k(logits, np.array([1, 2]), 2).tolist() == [True, False]
  assert in_top_k(logits, np.array([0, 1]), 1).tolist() == [True, False]


def test_k_leaves_a_class_out():
  for k in (0, 4):
    with pytest.raises(ValueError, match=rf'top_k = {k}; allowed: 1 to 3'):
      in_top_k(np.zeros((1, 4)), np.zeros(1, int), k)


def test_top_k_accuracies_are_of_the_same_images(found):
  """Of the true class and the other one, and never of the last class."""
  result = model_result([found], LABELS, 'first', top_k=2)
  assert result.top_k == 2 and result.clean_top_k_accuracy.value == 1.0
  entry = result.robust_accuracy['fgsm']
  assert entry.white_box.value == 0.0
  assert entry.white_box_top_k.value == entry.transfer_top_k['last'].value == 1
  assert entry.white_box_top_k.ci == accuracy_interval(1.0, NUM_IMAGES)
  assert [p.white_box_top_k.value for p in entry.curve] == [1.0, 1.0]


def test_several_seeds_have_a_mean_and_a_deviation(found):
  """The second seed is wrong everywhere; its label is second or third."""
  reverse = [1, 0, 2]
  pair = 'first', 'fgsm'
  equal = np.zeros((NUM_IMAGES, 3))
  other = dataclasses.replace(
    found,
    clean_logits={'first': found.clean_logits['first'][:, reverse]},
    logits={
      **found.logits,
      pair: {'first': equal, 'last': equal},
    },
  )
  result = model_result([found, other], LABELS, 'first', top_k=2)
  assert result.clean_accuracy.value == 0.5
  assert result.clean_accuracy.std == pytest.approx(0.5**0.5)
  assert result.clean_accuracy.ci == accuracy_interval(0.5, NUM_IMAGES)
  assert result.clean_top_k_accuracy.std == 0.0
  transfer = result.robust_accuracy['fgsm'].transfer['last']
  # Of three equal logits the first counts: right for half the labels.
  assert transfer.value == 0.75
  assert transfer.std == pytest.approx(0.5 / 2**0.5)
