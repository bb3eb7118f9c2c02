"""Adversarial attacks and adversarial training of image classifiers in JAX.

This namespace has the attacks, which need jax and numpy alone. Models,
training, data and reports are subpackages, which need `advjax[train]`.
"""

from advjax import attacks, losses, norms
from advjax.attacks import (
  apgd,
  bim,
  carlini_wagner,
  deepfool,
  fab,
  fgsm,
  fmn,
  is_adversarial,
  mifgsm,
  minimal_epsilon,
  parse_attack,
  pgd,
  square,
)
from advjax.evaluation import robust_accuracy
from advjax.evaluation.autoattack import autoattack

__version__ = '0.1.0'

__all__ = [
  'apgd',
  'attacks',
  'autoattack',
  'bim',
  'carlini_wagner',
  'deepfool',
  'fab',
  'fgsm',
  'fmn',
  'is_adversarial',
  'losses',
  'mifgsm',
  'minimal_epsilon',
  'norms',
  'parse_attack',
  'pgd',
  'robust_accuracy',
  'square',
]
