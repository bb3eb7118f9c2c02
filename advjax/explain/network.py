"""All methods at once, on a network that has what they need."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from advjax.explain.cam import cam, grad_cam
from advjax.explain.guided import guided_backprop, has_relu
from advjax.explain.saliency import (
  integrated_gradients,
  saliency,
  smooth_grad,
)
from advjax.types import Array, ArrayLike, LogitsFn

METHODS = (
  'saliency',
  'guided_backprop',
  'integrated_gradients',
  'smooth_grad',
  'grad_cam',
  'cam',
)


class Network(NamedTuple):
  """A trained network, as the methods take it.

  Attributes:
    name: For messages.
    logits_fn: Images `[B, H, W, C]` to logits `[B, N]`.
    features_fn: Images to its last feature maps `[B, h, w, K]`, or None.
    head_fn: Feature maps to logits, or None.
    class_weights: Kernel `[K, N]` of the dense layer behind global average
      pooling, or None where there is no such pair.
  """

  name: str
  logits_fn: LogitsFn
  features_fn: Callable[[Array], Array] | None = None
  head_fn: Callable[[Array], Array] | None = None
  class_weights: Array | None = None


def find_methods(
  network: Network, images: Any, methods: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
  """Finds the methods that are possible for a network.

  Args:
    network: The network.
    images: Images as it takes them, or their shape and dtype.
    methods: Requested ones of `METHODS`; None: all that are possible.

  Returns:
    The methods, and the reasons of those left out; no requested one is left
    out.

  Raises:
    ValueError: if a requested one is unknown, or not possible, and why.

  Example:
    >>> import jax.numpy as jnp
    >>> network = Network('linear', lambda images: images.sum((1, 2)))
    >>> find_methods(network, jnp.ones((1, 2, 2, 1)))[0]
    ('saliency', 'integrated_gradients', 'smooth_grad')
  """
  wrong = [name for name in methods or () if name not in METHODS]
  if methods is not None and (
    wrong or not methods or len(set(methods)) < len(methods)
  ):
    raise ValueError(
      f'methods = {wrong or list(methods)!r}; allowed: one or more, each once, '
      f'of {", ".join(map(repr, METHODS))}'
    )
  missing: dict[str, str] = {}
  if not has_relu(network.logits_fn, images):
    missing['guided_backprop'] = f'a ReLU: {network.name} has none'
  if network.features_fn is None or network.head_fn is None:
    missing['grad_cam'] = (
      'the feature maps of the last convolution and the head that follows: '
      f'{network.name} does not expose them (features_fn, head_fn)'
    )
  if network.features_fn is None or network.class_weights is None:
    missing['cam'] = (
      'global average pooling followed by one dense layer: '
      f'{network.name} has no such head (class_weights)'
    )
  missing = {m: f'{m} needs {reason}' for m, reason in missing.items()}
  for method in methods or ():
    if method in missing:
      raise ValueError(missing[method])
  if methods is not None:
    return tuple(methods), {}
  return tuple(m for m in METHODS if m not in missing), missing


def explain(
  network: Network,
  images: Array,
  labels: Array,
  methods: Sequence[str] | None = None,
  *,
  key: Array,
  num_steps: int = 32,
  num_samples: int = 16,
  std: ArrayLike = 0.15,
) -> dict[str, Array]:
  """Explains why a network takes images for classes, by several methods.

  Args:
    network: The network.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`.
    methods: Of `METHODS`; None: all that are possible.
    key: For SmoothGrad: one key, folded with the row, or `[B]` keys.
    num_steps: Points of integrated gradients.
    num_samples: Noisy copies of SmoothGrad.
    std: Standard deviation of SmoothGrad's noise.

  Returns:
    Method -> maps: `[B, H, W]` of 'cam' (signed) and 'grad_cam' (at least 0),
    `[B, H, W, C]` of the others.

  Raises:
    ValueError: if a method is unknown or not possible, or an argument does not
      fit.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> network = Network('linear', lambda images: images.sum((1, 2)))
    >>> images, labels = jnp.ones((1, 2, 2, 1)), jnp.array([0])
    >>> maps = explain(network, images, labels, key=jax.random.key(0))
    >>> maps['integrated_gradients'].sum()
    Array(4., dtype=float32)
  """
  methods, _ = find_methods(network, images, methods)
  logits_fn = network.logits_fn
  features_fn: Any = network.features_fn
  head_fn: Any = network.head_fn
  weights: Any = network.class_weights
  run: dict[str, Callable[[], Array]] = {
    'saliency': lambda: saliency(logits_fn, images, labels),
    'guided_backprop': lambda: guided_backprop(logits_fn, images, labels),
    'integrated_gradients': lambda: integrated_gradients(
      logits_fn, images, labels, num_steps=num_steps
    ),
    'smooth_grad': lambda: smooth_grad(
      logits_fn, images, labels, std=std, num_samples=num_samples, key=key
    ),
    'grad_cam': lambda: grad_cam(features_fn, head_fn, images, labels),
    'cam': lambda: cam(features_fn, weights, images, labels),
  }
  return {method: run[method]() for method in methods}
