"""Objectives by name: what is wrong in a config or in hparams is named."""

import pytest

from advjax.training import objectives
from advjax.training.objectives import create_objective


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'name': 'pgdat'}, r"unknown objective 'pgdat'.*did you mean 'pgd_at'"),
    (
      {'name': 'pgd_at', 'num_step': 3},
      r"unknown option of pgd_at 'num_step'.*did you mean 'num_steps'",
    ),
    ({'name': 'standard', 'norm': 'l2'}, r"unknown option of standard 'norm'"),
    ({'name': 'pgd_at', 'norm': 'infinity'}, r"unknown norm 'infinity'.*linf"),
    (
      {'name': 'adversarial_regularization', 'norm': 'linf'},
      r"unknown norm 'linf'.*did you mean 'infinity'",
    ),
    ({'name': 'trades', 'norm': 'l3'}, r"unknown norm 'l3'.*'l1', 'l2'"),
    ({'name': 'pgd_at', 'num_steps': 0}, r'num_steps = 0; allowed: an integer'),
    ({'name': 'trades', 'num_steps': -1}, r'num_steps = -1; allowed'),
    ({'name': 'pgd_at', 'num_steps': 2.0}, r'num_steps = 2.0; allowed'),
    (
      {'name': 'pgd_at', 'attack_batch_norm': 'test'},
      r"unknown attack_batch_norm 'test'; allowed: 'eval', 'train'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'norm': 'linf'},
      r"unknown norm 'linf'.*did you mean 'infinity'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'distance': 'l3'},
      r"unknown distance 'l3'.*'cosine', 'jensen_shannon', 'kl', 'l1', 'l2'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'transform': 'soft'},
      r"unknown transform 'soft'.*did you mean 'softmax'",
    ),
    (
      {'name': 'virtual_adversarial_regularization', 'mask': (0.0, 2.0)},
      r'mask = 0.0 to 2.0; allowed: values in \[0, 1\]',
    ),
  ],
)
def test_a_wrong_objective_is_named(config, message):
  with pytest.raises(ValueError, match=message):
    create_objective(config)


@pytest.mark.parametrize(
  ('hparams', 'objective', 'message'),
  [
    (
      {'epsilon': 0.1},
      'standard',
      r"hparams.epsilon = 0.1 is not read by the objective 'standard', which "
      r'reads learning_rate$',
    ),
    (
      {'beta': 6.0, 'epsilon': 0.1, 'step_size': 0.1},
      'pgd_at',
      r'hparams.beta.*reads learning_rate, epsilon, step_size$',
    ),
    ({'epsilon': 0.1}, 'fgsm_at', r'hparams.step_size is missing.*reads'),
    (
      {'epsilon': 0.1, 'step_size': 0.1},
      'noisy_fgsm_at',
      r'epsilon = 0.1 is not read .*reads learning_rate, noise_size, step_size',
    ),
    (
      {'epsilon': None, 'step_size': 0.1},
      'fgsm_at',
      r'hparams.epsilon is missing',
    ),
    ({'epsilon': -0.1, 'step_size': 0.1}, 'pgd_at', r'epsilon = -0.1; allowed'),
    ({'epsilon': 0.1, 'step_size': float('nan')}, 'pgd_at', r'step_size = nan'),
    ({'epsilon': float('inf'), 'step_size': 1}, 'pgd_at', r'epsilon = inf'),
    ({'epsilon': '0.1', 'step_size': 0.1}, 'pgd_at', r"epsilon = '0.1'"),
    (
      {'multiplier': 1, 'step_size': 1, 'approx_difference': 0},
      'virtual_adversarial_regularization',
      r'approx_difference = 0; allowed: a number > 0',
    ),
  ],
)
def test_hparams_are_those_that_the_objective_reads(
  hparams, objective, message
):
  with pytest.raises(ValueError, match=message):
    objectives.read_hparams({'learning_rate': 0.1} | hparams, objective)


def test_hparams_that_are_none_count_as_not_given():
  hparams = {
    'learning_rate': 1,
    'multiplier': 0.2,
    'step_size': 0.1,
    'epsilon': None,
  }
  found = objectives.read_hparams(hparams, 'adversarial_regularization')
  assert found == {'learning_rate': 1.0, 'multiplier': 0.2, 'step_size': 0.1}
