"""The comparison with NSL, as far as it needs no TensorFlow."""

import json

import numpy as np
import pytest

from advjax.training.objectives import create_objective, read_hparams
from experiments.benchmarks.nsl import cases as nsl_cases
from experiments.benchmarks.nsl import judge, parity, training
from experiments.benchmarks.nsl.cases import Case
from tests import reference

CASES = nsl_cases.adversarial_cases() + nsl_cases.virtual_cases()
MASKS = {
  'mask': np.zeros((28, 28, 1)),
  'mask_left': np.zeros((28, 14, 1)),
  'lower': np.zeros((28, 28, 1)),
}

# ----------------------------------------------------------------------- cases


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


def test_cases_cover_every_field_of_nsl():
  fields = {field for case in CASES for field in case.config}
  assert fields == {
    *('feature_mask', 'adv_step_size', 'adv_grad_norm', 'clip_value_min'),
    *('clip_value_max', 'pgd_iterations', 'pgd_epsilon', 'random_init'),
  }
  assert any(case.weighted for case in CASES)
  assert {case.network for case in CASES} == {'cnn', 'cnn_bn', 'cnn_features'}
  assert len({item['decay_type'] for item in nsl_cases.decays()}) == 3


def test_names_of_nsl_are_translated():
  config = {
    'adv_grad_norm': 'infinity',
    'adv_step_size': 0.1,
    'pgd_iterations': 3,
    'pgd_epsilon': 0.2,
    'feature_mask': {'image': 'mask'},
    'clip_value_min': {'image': 0.0},
    'random_init': True,
  }
  case = Case('a', 'adversarial', 'cnn', config)
  options, hparams = nsl_cases.translate(case, {'mask': 1})
  assert options == {
    'name': 'adversarial_regularization',
    'norm': 'infinity',
    'num_steps': 3,
    'random_start': True,
    'bounds': (0.0, None),
    'mask': 1,
  }
  assert hparams == {'multiplier': 0.2, 'step_size': 0.1, 'epsilon': 0.2}
  assert case.start == 'start_a'


# -------------------------------------------------------------- our side of one


def linear(params, state, images, *, train):
  del train
  return images @ params['Dense_1']['kernel'], state


@pytest.mark.parametrize('given', [None, np.full((2, 5), 0.25, np.float32)])
def test_our_side_of_one_step(monkeypatch, given):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(5, 3)).astype(np.float32)
  network = parity.Network(linear, {'Dense_1': {'kernel': kernel}}, {})
  monkeypatch.setattr(parity, '_network', lambda *_: network)
  images = rng.uniform(size=(2, 5)).astype(np.float32)
  arrays = {'image': images, 'label': np.array([2, 1]), 'weight': np.ones(2)}
  case = next(case for case in CASES if case.name == 'infinity: one step')
  found = parity.run(case, arrays, given)
  _, by_logits = reference.cross_entropy(images @ kernel, arrays['label'])
  moved = images + 0.2 * np.sign(by_logits @ kernel.T)
  if given is not None:
    moved = given
  np.testing.assert_allclose(found['perturbed/image'], moved, atol=1e-6)
  clean, adversarial = (
    reference.cross_entropy(x @ kernel, arrays['label'])[0].mean()
    for x in (images, moved)
  )
  assert found['clean_loss'] == pytest.approx(clean, rel=1e-6)
  assert found['adversarial_loss'] == pytest.approx(adversarial, rel=1e-6)
  total = clean + 0.2 * adversarial
  assert found['total_loss'] == pytest.approx(total, rel=1e-6)
  assert found['gradient/Dense_1/kernel'].shape == (5, 3)


# ----------------------------------------------------------------- differences


def test_differences_are_relative_to_the_largest_entry():
  assert judge.difference([0.0, 4.0], [0.1, 5.0]) == pytest.approx(0.2)
  assert judge.difference([0.0], [0.0]) == 0
  assert judge.difference([1e-3], [0.0]) == 1e-3
  assert judge.over({'a': float('nan'), 'b': 0.0}, 1e-5) == ['a']
  with pytest.raises(ValueError, match=r'ours \(2,\), NSL \(3,\)'):
    judge.difference([1, 2], [1, 2, 3])
  with pytest.raises(ValueError, match=r"names differ: \['b'\]"):
    judge.tree_difference({'a': np.ones(1)}, {'a': np.ones(1), 'b': 0})
  # A small array is not lost beside a large one, unless it is but rounding.
  large, small = np.array([100.0]), np.array([1e-3])
  theirs = {'kernel': large, 'bias': small}
  ours = {'kernel': large, 'bias': 1.5 * small}
  assert judge.tree_difference(ours, theirs) == pytest.approx(0.5)
  found = judge.tree_difference(ours, theirs, zero=['bias'])
  assert found == pytest.approx(5e-6)


@pytest.mark.parametrize(
  ('norm', 'expected', 'flips'),
  [('infinity', 0.1e-3, 1), ('l1', 0.1e-3, 1), ('l2', 2.0, 0)],
)
def test_flips_are_counted_apart(norm, expected, flips):
  theirs = np.array([[0.2, 0.2, -0.2]])
  ours = np.array([[0.2 * (1 + 1e-4), -0.2, -0.2]])
  found, flipped = judge.perturbation_difference(ours, theirs, 0.2, norm)
  assert found == pytest.approx(expected)
  assert flipped.sum() == flips
  assert not flipped[0, 0]


def test_after_flips_losses_are_compared_at_the_images_of_nsl(monkeypatch):
  config = {'adv_grad_norm': 'infinity', 'adv_step_size': 0.2}
  case = Case('a', 'adversarial', 'cnn', config)
  arrays = {
    'image': np.zeros((1, 2)),
    'label': np.zeros(1, int),
    'weight': np.ones(1),
  }
  gradient = np.ones(3)
  theirs = {
    'a/perturbed/image': np.array([[0.2, 0.2]]),
    'a/clean_loss': np.float64(2.0),
    'a/gradient/Dense_0/kernel': gradient,
  }
  ours = np.array([[0.2, -0.2]])

  def run(case, arrays, given=None):
    return {
      'perturbed/image': ours if given is None else given,
      'clean_loss': np.float64(1.0 if given is None else 2.0),
      'gradient/Dense_0/kernel': gradient,
    }

  def input_gradient(*_):
    return {'perturbed/image': np.array([[1.0, 1e-7]])}

  monkeypatch.setattr(parity, 'run', run)
  monkeypatch.setattr(parity, 'input_gradient', input_gradient)
  row = judge.compare_case(case, arrays, theirs, 'float32')
  names = ('perturbation', 'clean_loss', 'gradient')
  assert row['quantities'] == dict.fromkeys(names, 0.0)
  assert row['flips'] == {'share': 0.5, 'gradient': pytest.approx(1e-7)}
  (line,) = judge.failures([row])  # Half of the pixels are too many.
  assert line.startswith('flips: a (float32): 5.0e-01 of the pixels')
  assert '5.0e-01 of the pixels' in judge.table([row], [])


def row_of(**quantities):
  row = {'name': 'an option', 'dtype': 'float32', 'note': ''}
  return row | {'quantities': quantities}


def test_verdicts():
  bad = row_of(gradient=2e-4, clean_loss=1e-8)
  assert judge.failures([bad]) == [
    'over 1e-05: an option (float32): gradient 2.0e-04'
  ]
  assert judge.failures([bad | {'not_judged': ['gradient']}]) == []
  # What is NSL's rounding is no failure, and the table says so.
  rounded = bad | {'to_float64': {'gradient': 1e-6, 'clean_loss': 0.0}}
  assert judge.failures([rounded]) == []
  assert 'gradient: NSL rounds, ours is within 1.0e-06' in judge.table(
    [rounded], []
  )
  assert judge.failures([bad | {'to_float64': {'gradient': 1e-4}}])
  assert '(2.0e-04)' in judge.table([bad | {'not_judged': ['gradient']}], [])


def test_what_nsl_cannot_is_said(monkeypatch):
  monkeypatch.setattr(parity, 'run', None)
  theirs = {'a/error': np.asarray('not implemented: l1')}
  case = Case('a', 'adversarial', 'cnn', {})
  row = judge.compare_case(case, {}, theirs, 'float32')
  assert row['note'] == 'NSL: not implemented: l1'
  assert judge.failures([row]) == []


def test_random_starts_are_compared_by_their_distribution():
  theirs = {f'draws/{n}': parity.draws(n, 100) for n in nsl_cases.NORMS}
  theirs['draws/l2'] = 0.9 * theirs['draws/l2']
  rows = judge.compare_draws(theirs, 100)
  apart = {(row['norm'], row['mean']): row['standard_errors'] for row in rows}
  assert apart['infinity', 'size'] == apart['l1', 'magnitude'] == 0
  assert apart['l2', 'size'] > 30
  (first, *_) = judge.failures([], rows)
  assert first.startswith('random start, l2: the mean size')
  small = [row | {'standard_errors': 1.8} for row in rows]
  assert judge.failures([], small) == []


def test_decays_are_compared():
  item = nsl_cases.decays()[0]
  steps = np.array(judge.DECAY_STEPS)
  row = judge.compare_decay(item, {item['name']: 0.2 * 0.9 ** (steps / 10)})
  assert row['quantities']['value'] < 1e-6


@pytest.mark.parametrize(
  ('flips', 'fails'),
  [
    ({}, False),
    ({'share': 1e-4, 'gradient': 1e-6}, False),
    ({'share': 0.86, 'gradient': 1e-6}, True),
    ({'share': 1e-4, 'gradient': 1.0}, True),
    ({'share': float('nan'), 'gradient': 0.0}, True),
  ],
)
def test_flips_that_rounding_cannot_explain_are_failures(flips, fails):
  lines = judge.failures([row_of(perturbation=0.0) | {'flips': flips}])
  assert len(lines) == fails
  assert all(line.startswith('flips: an option') for line in lines)


# ------------------------------------------------------------------- training


def test_the_ratio_is_ours_over_that_of_nsl():
  accuracies = dict.fromkeys(training._ACCURACIES, 0.5)
  rows = [
    {
      'library': library,
      'seed': seed,
      'accuracies': accuracies,
      'times': {
        member: {
          'seconds': value * (seed + 1),
          'seconds_with_compile': value + 1,
          'milliseconds_per_step': value,
        }
        for member in training.MEMBERS
      },
    }
    for seed in (0, 1)
    for library, value in {'NSL': 4.0, 'advjax': 1.0}.items()
  ]
  ratios = training.summarize(rows)['adversarial']
  assert ratios['seconds'] == {'seeds': [0.25, 0.25], 'mean': 0.25}
  assert ratios['seconds_with_compile']['mean'] == pytest.approx(0.4)
  text = training.tables(rows, 0.2)
  assert 'advjax / NSL: 0.250 (0.400 with compiling)' in text
  assert '| NSL, mean ± std | 0.5000 ± 0.0000 | 0.5000 ± 0.0000 |' in text
  assert '| NSL, mean ± std | 6.00 ± 2.83 | 5.00 ± 0.00 |' in text
  assert 'FGSM 0.2' in text
