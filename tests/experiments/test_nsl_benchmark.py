"""The comparison with NSL, as far as it needs no TensorFlow."""

import json

import numpy as np
import pytest

from advjax.training.objectives import create_objective, read_hparams
from experiments.benchmarks.nsl import cases as nsl_cases
from experiments.benchmarks.nsl import comparison

CASES = nsl_cases.adversarial_cases() + nsl_cases.virtual_cases()
MASKS = {
  'mask': np.zeros((28, 28, 1)),
  'mask_left': np.zeros((28, 14, 1)),
  'lower': np.zeros((28, 28, 1)),
}


def test_every_case_is_one_of_ours_and_travels_as_json():
  assert len({case.name for case in CASES}) == len(CASES)
  for case in CASES:
    options, hparams = nsl_cases.translate(case, MASKS)
    name = options['name']
    options = {k: v for k, v in options.items() if not isinstance(v, dict)}
    create_objective(options)
    read_hparams(hparams | {'learning_rate': 0.1}, name)
    job = nsl_cases.job_of(case)
    assert json.loads(json.dumps(job)) == job


def test_differences_are_relative_to_the_largest_entry():
  assert comparison.difference([0.0, 4.0], [0.1, 5.0]) == pytest.approx(0.2)
  assert comparison.difference([0.0], [0.0]) == 0
  assert comparison.difference([1e-3], [0.0]) == 1e-3
  assert comparison.over({'a': float('nan'), 'b': 0.0}, 1e-5) == ['a']
  with pytest.raises(ValueError, match=r'ours \(2,\), NSL \(3,\)'):
    comparison.difference([1, 2], [1, 2, 3])
  with pytest.raises(ValueError, match=r"names differ: \['b'\]"):
    comparison.tree_difference({'a': np.ones(1)}, {'a': np.ones(1), 'b': 0})
  # A small array is not lost beside a large one, unless it is but rounding.
  theirs = {'kernel': np.array([100.0]), 'bias': np.array([1e-3])}
  ours = theirs | {'bias': np.array([1.5e-3])}
  assert comparison.tree_difference(ours, theirs) == pytest.approx(0.5)
  found = comparison.tree_difference(ours, theirs, zero=['bias'])
  assert found == pytest.approx(5e-6)


@pytest.mark.parametrize(
  ('norm', 'expected', 'flips'),
  [('infinity', 0.1e-3, 1), ('l1', 0.1e-3, 1), ('l2', 2.0, 0)],
)
def test_flips_are_counted_apart(norm, expected, flips):
  theirs = np.array([[0.2, 0.2, -0.2]])
  ours = np.array([[0.2 * (1 + 1e-4), -0.2, -0.2]])
  found, flipped = comparison.perturbation_difference(ours, theirs, 0.2, norm)
  assert found == pytest.approx(expected)
  assert flipped.sum() == flips and not flipped[0, 0]


def test_failures():
  quantities = {'gradient': 2e-4, 'clean_loss': 1e-8}
  bad = {'name': 'an option', 'dtype': 'float32', 'note': ''}
  bad |= {'quantities': quantities}
  (line,) = comparison.failures([bad])
  assert 'an option' in line and 'gradient 2.0e-04' in line
  shown = bad | {'excluded': ['gradient']}
  assert comparison.failures([shown]) == []
  # What is NSL's rounding is no failure.
  rounded = bad | {'to_float64': {'gradient': 1e-6, 'clean_loss': 0.0}}
  assert comparison.failures([rounded]) == []
  assert comparison.failures([bad | {'to_float64': {'gradient': 1e-4}}])
  # Flips that rounding cannot explain.
  for share, gradient, fails in (
    (1e-4, 1e-6, False),
    (0.86, 1e-6, True),
    (1e-4, 1.0, True),
    (float('nan'), 0.0, True),
  ):
    flips = {'flips': {'share': share, 'gradient': gradient}}
    assert len(comparison.failures([shown | flips])) == fails
