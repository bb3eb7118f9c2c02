"""The top k against a sort, and on the images that the top 1 is measured on."""

import types

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from advjax.evaluation.top_k import in_top_k, predict_in_top_k

from advjax.attacks.specs import parse_attack
from advjax.evaluation import attacked, members
from advjax.evaluation.models import evaluate_members, parse_attacks
from advjax.reporting.report import robustness_report
from advjax.reporting.values import accuracy_interval

NUM_IMAGES, NUM_CLASSES = 7, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (NUM_IMAGES, 2, 2, 1)).astype(np.float32)
LABELS = RNG.integers(0, NUM_CLASSES, NUM_IMAGES).astype(np.int32)
WEIGHTS = {
  name: RNG.normal(size=(4, NUM_CLASSES)).astype(np.float32)
  for name in ('one', 'two')
}


def logits_of(name, images, xp=np):
  return (images.reshape(len(images), -1) - 0.5) @ xp.asarray(WEIGHTS[name])


NETWORKS = {
  name: lambda images, name=name: logits_of(name, images, jnp)
  for name in WEIGHTS
}


def by_sorting(logits, labels, k):
  """Stable: of equal logits the first class comes first, as in argmax."""
  best = np.argsort(-logits, axis=-1, kind='stable')[..., :k]
  return (best == labels[..., None]).any(-1)


# Few values, so that many are equal.
@hypothesis.given(
  arrays.arrays(np.float32, (5, 4), elements=st.sampled_from([0.0, 1.0, 2.0])),
  arrays.arrays(np.int32, 5, elements=st.integers(0, 3)),
)
@hypothesis.settings(max_examples=30)
def test_a_sort_says_the_same(logits, labels):
  for k in (1, 2, 3):
    found = np.asarray(in_top_k(logits, labels, k))
    np.testing.assert_array_equal(found, by_sorting(logits, labels, k))
  first = np.asarray(in_top_k(logits, labels, 1))
  np.testing.assert_array_equal(first, logits.argmax(-1) == labels)


def test_what_is_no_number_counts_as_the_largest():
  logits = np.array([[np.nan, 1.0, 0.0, -1.0]] * 2, np.float32)
  found = in_top_k(logits, np.array([1, 2]), 2)
  assert found.tolist() == [True, False]


@pytest.mark.parametrize('k', [0, NUM_CLASSES])
def test_k_leaves_a_class_out(k):
  with pytest.raises(ValueError, match=rf'top_k = {k}; allowed: 1 to 3, for'):
    predict_in_top_k(NETWORKS['one'], IMAGES, LABELS, k)


@pytest.fixture(scope='module')
def found():
  return evaluate_members(
    NETWORKS,
    parse_attacks(['fgsm']),
    IMAGES,
    LABELS,
    epsilon=0.1,
    epsilons=(0.0, 0.1),
    key=jax.random.key(0),
    batch_size=2,
    devices=jax.devices(),
    top_k=2,
  )


def test_the_images_are_those_of_the_top_1(found):
  assert found.in_top_k.k == 2
  some = 0
  for source in NETWORKS:
    pair = source, 'fgsm'
    for name in NETWORKS:
      clean = by_sorting(logits_of(name, IMAGES), LABELS, 2)
      moved = by_sorting(logits_of(name, found.images[pair]), LABELS, 2)
      np.testing.assert_array_equal(found.in_top_k.clean[name], clean)
      at = found.in_top_k.headline[pair][name]
      np.testing.assert_array_equal(at, moved)
      curve = found.in_top_k.curves[pair][name]
      np.testing.assert_array_equal(curve, [clean, moved])
      right = found.headline[pair][name] == LABELS
      assert not (right & ~at).any()
      some += (at & ~right).sum()
  assert some  # Else the top 2 would be the top 1.


def test_the_report_counts_them(found):
  report = robustness_report([found], LABELS, 'one')
  top = found.in_top_k
  assert report['top_k'] == 2
  assert report['clean_top_k_accuracy'] == top.clean['one'].mean()
  entry = report['robust_accuracy']['fgsm']
  value = top.headline['one', 'fgsm']['two'].mean()
  assert entry['transfer_top_k'] == {'two': value}
  interval = accuracy_interval(value, NUM_IMAGES)
  assert entry['transfer_top_k_ci'] == {'two': list(interval)}
  assert entry['white_box_top_k'] == top.headline['one', 'fgsm']['one'].mean()
  assert entry['curve'][0]['white_box_top_k'] == top.clean['one'].mean()


def test_several_seeds_have_a_mean_and_a_spread(found):
  nothing = np.zeros(NUM_IMAGES, bool)
  pair = 'one', 'fgsm'
  other = found._replace(
    in_top_k=found.in_top_k._replace(
      clean={'one': nothing},
      headline={pair: {'one': nothing, 'two': nothing}},
    )
  )
  report = robustness_report([found, other], LABELS, 'one')
  value = found.in_top_k.clean['one'].mean()
  assert report['clean_top_k_accuracy'] == pytest.approx(value / 2)
  assert report['clean_top_k_accuracy_std'] == pytest.approx(value / 2**0.5)
  entry = report['robust_accuracy']['fgsm']
  value = found.in_top_k.headline[pair]['two'].mean()
  assert entry['transfer_top_k_std']['two'] == pytest.approx(value / 2**0.5)


def test_the_top_1_alone_leaves_no_trace():
  report = robustness_report(
    [
      members.Evaluation(
        {'one': LABELS}, {}, {}, {}, {}, {}, {}, {}, 0.1, (0.1,)
      )
    ],
    LABELS,
    'one',
  )
  assert [key for key in report if 'top_k' in key] == []


def test_autoattack_leaves_images_to_ask_about(monkeypatch):
  moved = np.clip(IMAGES + 0.1, 0, 1)
  result = types.SimpleNamespace(images=moved)
  monkeypatch.setattr(attacked, 'autoattack', lambda *args, **kwargs: result)
  monkeypatch.setattr(attacked, 'summarise', lambda *args: {})
  options = {'key': jax.random.key(0), 'devices': jax.devices()[:1]}
  for k in (1, 3):
    found = attacked.attack_and_predict(
      NETWORKS['one'],
      NETWORKS,
      parse_attack('autoattack'),
      IMAGES,
      LABELS,
      [0.1],
      top_k=k,
      **options,
    )
    for name in NETWORKS:
      logits = logits_of(name, moved)
      assert found.predictions[name].tolist() == [logits.argmax(1).tolist()]
      if k > 1:
        expected = by_sorting(logits, LABELS, k)
        np.testing.assert_array_equal(found.in_top_k[name], expected[None])
    assert set(found.in_top_k) == (set(NETWORKS) if k > 1 else set())
