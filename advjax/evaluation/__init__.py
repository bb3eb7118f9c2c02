"""Robustness evaluation: attacks, natural shifts and diagnostics."""

from advjax.evaluation.robustness import RobustAccuracy, robust_accuracy

__all__ = ['RobustAccuracy', 'robust_accuracy']
