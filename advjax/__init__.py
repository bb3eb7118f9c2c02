"""Adversarial attacks and adversarial training of image classifiers in JAX.

This namespace has the attacks, which need jax and numpy alone. Models,
training, data and reports are subpackages, which need `advjax[train]`.
"""

from advjax import attacks, losses, norms
from advjax.attacks import *  # noqa: F403  # All that it lists.
from advjax.evaluation import robust_accuracy
from advjax.evaluation.autoattack import autoattack

__version__ = '0.1.0'

__all__ = ['attacks', 'autoattack', 'losses', 'norms', 'robust_accuracy']
__all__ += attacks.__all__
