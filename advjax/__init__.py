"""Adversarial attacks and adversarial training of image classifiers in JAX.

This namespace holds the attacks, which need jax and numpy alone. Models,
training, data and reports are subpackages with needs of their own.
"""

from advjax import attacks, losses, norms
from advjax.attacks import apgd, bim, fgsm, mifgsm, pgd, square
from advjax.evaluation import robust_accuracy

__version__ = '0.1.0'

__all__ = [
  'apgd',
  'attacks',
  'bim',
  'fgsm',
  'losses',
  'mifgsm',
  'norms',
  'pgd',
  'robust_accuracy',
  'square',
]
