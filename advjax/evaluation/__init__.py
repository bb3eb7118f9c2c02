"""Attacking trained networks and counting what still stands."""

from advjax.evaluation.robustness import RobustAccuracy, robust_accuracy

__all__ = ['RobustAccuracy', 'robust_accuracy']
