"""Adversarial attacks as pure functions of a callable."""

from advjax.attacks.apgd import apgd
from advjax.attacks.gradient import bim, fgsm, mifgsm, pgd
from advjax.attacks.square import square

__all__ = ['apgd', 'bim', 'fgsm', 'mifgsm', 'pgd', 'square']
