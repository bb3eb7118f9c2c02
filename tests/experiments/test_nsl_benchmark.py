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


def test_names_of_nsl_are_translated():
  config = {
    **{'adv_grad_norm': 'infinity', 'adv_step_size': 0.1, 'random_init': True},
    **{'pgd_iterations': 3, 'pgd_epsilon': 0.2},
    **{'feature_mask': {'image': 'mask'}, 'clip_value_min': {'image': 0.0}},
  }
  case = Case('a', 'adversarial', 'cnn', config)
  options, hparams = nsl_cases.translate(case, {'mask': 1})
  assert options == {
    **{'name': 'adversarial_regularization', 'norm': 'infinity', 'mask': 1},
    **{'num_steps': 3, 'random_start': True, 'bounds': (0.0, None)},
  }
  assert hparams == {'multiplier': 0.2, 'step_size': 0.1, 'epsilon': 0.2}
  assert case.start == 'start_a'


# -------------------------------------------------------------- our side of one


def linear(params, state, images, *, train):
  del train
  return images @ params['Dense_1']['kernel'], state


@pytest.mark.parametrize('given', [None, np.full((2, 5), 0.25, np.float32)])
@pytest.mark.parametrize('name', ['infinity: one step', 'virtual, l2: l2'])
def test_our_side_of_one_step(monkeypatch, name, given):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(5, 3)).astype(np.float32)
  network = parity.Network(linear, {'Dense_1': {'kernel': kernel}}, {})
  monkeypatch.setattr(parity, '_network', lambda *_: network)
  images, draw = rng.uniform(size=(2, 2, 5)).astype(np.float32)
  labels = np.array([2, 1])
  arrays = {'image': images, 'label': labels, 'weight': np.ones(2)}
  (case,) = [case for case in CASES if case.name == name]
  found = parity.run(case, arrays | {'draw': draw}, given)
  clean, by_logits = reference.cross_entropy(images @ kernel, labels)
  if given is not None:
    moved = given
  elif case.kind == 'adversarial':
    moved = images + 0.2 * np.sign(by_logits @ kernel.T)
  else:  # The gradient of |r kernel|^2 by r, along the draw.
    direction = draw @ kernel @ kernel.T
    size = np.linalg.norm(direction, axis=1, keepdims=True)
    moved = images + 16 * direction / size
  np.testing.assert_allclose(
    found['perturbed/image'], moved, rtol=1e-5, atol=1e-6
  )
  if case.kind == 'adversarial':
    second = reference.cross_entropy(moved @ kernel, labels)[0].mean()
  else:
    second = np.square((moved - images) @ kernel).mean()
  assert found['clean_loss'] == pytest.approx(clean.mean(), rel=1e-6)
  assert found['adversarial_loss'] == pytest.approx(second, rel=1e-5)
  total = clean.mean() + 0.2 * second
  assert found['total_loss'] == pytest.approx(total, rel=1e-5)
  assert found['gradient/Dense_1/kernel'].shape == (5, 3)


def test_decays_are_compared():
  item = nsl_cases.decays()[0]
  steps = np.array(judge.DECAY_STEPS)
  row = judge.compare_decay(item, {item['name']: 0.2 * 0.9 ** (steps / 10)})
  assert row['quantities']['value'] < 1e-6


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
  theirs = {'kernel': np.array([100.0]), 'bias': np.array([1e-3])}
  ours = theirs | {'bias': np.array([1.5e-3])}
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
  assert flipped.sum() == flips and not flipped[0, 0]


def test_what_nsl_cannot_is_said():
  error = {'a/error': np.asarray('not implemented: l1')}
  case = Case('a', 'adversarial', 'cnn', {})
  row = judge.compare_case(case, {}, error, 'float32')
  assert row['note'] == 'NSL: not implemented: l1'
  assert judge.failures([row]) == []


def test_verdicts():
  quantities = {'gradient': 2e-4, 'clean_loss': 1e-8}
  bad = {'name': 'an option', 'dtype': 'float32', 'note': ''}
  bad |= {'quantities': quantities}
  line = 'over 1e-05: an option (float32): gradient 2.0e-04'
  assert judge.failures([bad]) == [line]
  unjudged = bad | {'not_judged': ['gradient']}
  assert judge.failures([unjudged]) == []
  assert '(2.0e-04)' in judge.table([unjudged], [])
  # What is NSL's rounding is no failure, and the table says so.
  rounded = bad | {'to_float64': {'gradient': 1e-6, 'clean_loss': 0.0}}
  assert judge.failures([rounded]) == []
  text = judge.table([rounded], [])
  assert 'gradient: NSL rounds, ours is within 1.0e-06' in text
  assert judge.failures([bad | {'to_float64': {'gradient': 1e-4}}]) == [line]
  # Flips that rounding cannot explain.
  for share, gradient, fails in (
    (1e-4, 1e-6, False),
    (0.86, 1e-6, True),
    (1e-4, 1.0, True),
    (float('nan'), 0.0, True),
  ):
    flips = {'flips': {'share': share, 'gradient': gradient}}
    assert len(judge.failures([unjudged | flips])) == fails


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


# ------------------------------------------------------------------- training


def test_the_ratio_is_ours_over_that_of_nsl():
  accuracies = dict.fromkeys(training._ACCURACIES, 0.5)
  rows = []
  for seed in (0, 1):
    for library, value in {'NSL': 4.0, 'advjax': 1.0}.items():
      times = {
        'seconds': value * (seed + 1),
        'seconds_with_compile': value + 1,
        'milliseconds_per_step': value,
      }
      row = {'library': library, 'seed': seed, 'accuracies': accuracies}
      rows.append(row | {'times': dict.fromkeys(training.MEMBERS, times)})
  ratios = training.summarize(rows)['adversarial']
  assert ratios['seconds'] == {'seeds': [0.25, 0.25], 'mean': 0.25}
  assert ratios['seconds_with_compile']['mean'] == pytest.approx(0.4)
  text = training.tables(rows, 0.2)
  assert 'advjax / NSL: 0.250 (0.400 with compiling)' in text
  assert '| NSL, mean ± std | 0.5000 ± 0.0000 | 0.5000 ± 0.0000 |' in text
  assert '| NSL, mean ± std | 6.00 ± 2.83 | 5.00 ± 0.00 |' in text
