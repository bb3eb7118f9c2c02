"""Adversarial attacks as pure functions of a callable."""

from advjax.attacks.apgd import apgd
from advjax.attacks.carlini_wagner import carlini_wagner
from advjax.attacks.deepfool import deepfool
from advjax.attacks.fab import fab
from advjax.attacks.fmn import fmn
from advjax.attacks.gradient import bim, fgsm, mifgsm, pgd
from advjax.attacks.minimal_epsilon import MinimalEpsilon, minimal_epsilon
from advjax.attacks.specs import parse_attack
from advjax.attacks.square import square
from advjax.attacks.success import is_adversarial

__all__ = [
  'MinimalEpsilon',
  'apgd',
  'bim',
  'carlini_wagner',
  'deepfool',
  'fab',
  'fgsm',
  'fmn',
  'is_adversarial',
  'mifgsm',
  'minimal_epsilon',
  'parse_attack',
  'pgd',
  'square',
]
