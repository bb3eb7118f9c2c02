"""Adversarial attacks as pure functions of a callable."""

from advjax.attacks.gradient import bim, fgsm, mifgsm, pgd

__all__ = ['bim', 'fgsm', 'mifgsm', 'pgd']
