"""Explanations: which images are chosen, and how maps are compared."""

import jax
import numpy as np
import pytest
from scipy import stats

from advjax.data import Dataset, Split
from advjax.devices import Batching
from advjax.evaluation import explanations
from advjax.evaluation.explanations import (
  choose_cases,
  choose_classes,
  choose_sample,
  compare_maps,
  compute_maps,
  cosines,
  rank_correlations,
)
from advjax.explain import Network

NAMES = ('cockroach, roach', 'crane', 'crane', 'broom', 'oboe')
IDS = ('n02233338', 'n02012849', 'n03126707', 'n02906734', 'n03838899')
RNG = np.random.default_rng(0)


def dataset(names=NAMES, ids=IDS):
  split = Split(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int32))
  return Dataset('birds', split, split, len(names), names, ids)


# -------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
  ('names', 'labels'),
  [
    (None, [0, 3, 4]),
    (['n03126707', 'cockroach'], [2, 0]),
    (['cockroach, roach', ' oboe'], [0, 4]),
  ],
)
def test_classes_by_name_and_id(names, labels):
  assert choose_classes(dataset(), names) == labels


def test_without_the_classes_of_the_document_the_first_are_shown():
  names = tuple('abcdefg')
  assert choose_classes(dataset(names, ())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (['cockroch'], r"classes = 'cockroch'.*did you mean 'cockroach'"),
    (['crane'], "classes = 'crane'"),
    (['broom', 'n02906734'], 'one class or more, each once'),
    ([], r'classes = \[\]; allowed: one class or more'),
  ],
)
def test_classes_that_are_not_there(names, message):
  with pytest.raises(ValueError, match=message):
    choose_classes(dataset(), names)


def test_images_are_drawn_from_all_and_shown_from_the_classes(monkeypatch):
  monkeypatch.setattr(explanations, '_MAX_PER_CLASS', 2)
  images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
  split = Split(images, np.arange(20) % 4)
  sample, again, other = (
    choose_sample(split, [3, 1], 8, seed) for seed in (0, 0, 1)
  )
  measured = sample.rows[sample.measured]
  assert len(set(measured)) == 8
  assert sample.rows[sample.shown].tolist() == [1, 3, 5, 7]
  np.testing.assert_array_equal(sample.labels, sample.rows % 4)
  np.testing.assert_allclose(255 * sample.images.ravel(), sample.rows)
  assert measured.tolist() == again.rows[again.measured].tolist()
  assert measured.tolist() != other.rows[other.measured].tolist()


def test_cases_come_from_one_class_after_the_other():
  labels = np.array([0, 0, 1, 1, 0, 2])
  sure = np.array([0.6, 0.9, 0.7, 0.8, 0.5, 0.9])
  clean = (1 - sure[:, None]) / 2 * np.ones(3)
  clean[np.arange(6), labels] = sure
  clean[4] = [0.1, 0.5, 0.4]  # Wrong.
  adversarial = clean.copy()
  adversarial[[1, 2]] = [0, 0, 1]  # Fooled.
  choose = choose_cases
  found = choose(labels, clean, adversarial, [1, 0], 2)
  assert found == {'right': [3, 0], 'wrong': [4], 'fooled': [2, 1]}
  found = choose(labels, clean, clean, [0, 1], 3, preferred=[0])
  assert found == {'right': [0, 3, 1], 'wrong': [4], 'fooled': []}


# ------------------------------------------------------------------- measuring


def test_similarities_are_those_of_numpy_and_scipy():
  first, second = RNG.normal(size=(2, 4, 3, 3, 2))
  second[:, 0] = 0.5  # Ties.
  found = cosines(first, second)
  ranks = rank_correlations(first, second)
  for row in range(4):
    a, b = first[row].ravel(), second[row].ravel()
    assert found[row] == pytest.approx(
      a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    )
    assert ranks[row] == pytest.approx(stats.spearmanr(a, b).statistic)
  assert cosines(first, 0 * first).tolist() == [0] * 4


def compared(fooled):
  clean, noisy, attacked, predicted = RNG.normal(size=(4, 6, 5))
  return (clean, noisy, attacked, predicted), compare_maps(
    {'cam': clean},
    {'cam': noisy},
    {'cam': attacked},
    {'cam': predicted},
    np.array(fooled),
  )['cam']


def test_groups_compare_what_they_say():
  (clean, noisy, attacked, predicted), found = compared(
    [True, False, False, True, True, False]
  )
  fooled = [0, 3, 4]
  expected = {
    'noise': cosines(clean, noisy),
    'correct': cosines(clean, attacked)[[1, 2, 5]],
    'fooled': cosines(clean, attacked)[fooled],
    'fooled_predicted': cosines(clean, predicted)[fooled],
    'other': cosines(clean, clean[[5, 0, 1, 2, 3, 4]]),
  }
  for group, values in expected.items():
    assert found[group].num_images == len(values)
    assert found[group].cosine == pytest.approx(values.mean())
    interval = stats.t.interval(
      0.95, len(values) - 1, values.mean(), stats.sem(values)
    )
    interval = np.clip(interval, -1, 1)  # Of a cosine.
    assert found[group].cosine_ci == pytest.approx(list(interval))


def test_groups_of_none_and_of_one():
  _, found = compared([False] * 5 + [True])
  assert found['fooled'].cosine is not None
  assert found['fooled'].cosine_ci is None
  _, found = compared([False] * 6)
  assert found['fooled'].to_json() == {
    'num_images': 0,
    'cosine': None,
    'cosine_ci': None,
    'rank': None,
    'rank_ci': None,
  }


def test_maps_do_not_depend_on_the_batches():
  network = Network('square', lambda x: (x**3).sum((1, 2)))
  images = RNG.uniform(size=(5, 2, 2, 3)).astype(np.float32)
  found = [
    compute_maps(
      network,
      images,
      np.array([0, 1, 2, 0, 1]),
      ('saliency', 'smooth_grad'),
      batching=Batching(batch_size, jax.devices()),
    )
    for batch_size in (1, 4)
  ]
  for method, maps in found[0].items():
    assert maps.shape == images.shape
    np.testing.assert_allclose(maps, found[1][method], rtol=1e-5)
  chosen = np.eye(3)[[0, 1, 2, 0, 1]][:, None, None]
  np.testing.assert_allclose(
    found[0]['saliency'], 3 * images**2 * chosen, rtol=1e-5
  )
