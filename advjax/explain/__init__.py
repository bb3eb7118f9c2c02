"""Explanations of a network's predictions: maps of evidence, pure functions.

They need jax and numpy alone, and take callables of arrays, as the attacks do:
`logits_fn` from images to logits, and for class activation maps `features_fn`
and `head_fn`, whose composition it is. `explain` applies all methods to a
network at once.
"""

from advjax.explain.activation import activation_maximization
from advjax.explain.cam import cam, grad_cam
from advjax.explain.guided import guide, guided_backprop
from advjax.explain.network import METHODS, Network, explain, find_methods
from advjax.explain.saliency import (
  integrated_gradients,
  negative_map,
  positive_map,
  saliency,
  smooth_grad,
)

__all__ = [
  'METHODS',
  'Network',
  'activation_maximization',
  'cam',
  'explain',
  'find_methods',
  'grad_cam',
  'guide',
  'guided_backprop',
  'integrated_gradients',
  'negative_map',
  'positive_map',
  'saliency',
  'smooth_grad',
]
