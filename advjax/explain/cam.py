"""Class activation maps: where in the image the evidence for a class lies."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax._arguments import wide
from advjax.callables import compile_per_callable, output_shape
from advjax.explain.saliency import check_images, check_logits, class_gradient
from advjax.types import Array

FeaturesFn = Callable[[Array], Array]
HeadFn = Callable[[Array], Array]


def grad_cam(
  features_fn: FeaturesFn,
  head_fn: HeadFn,
  images: Array,
  labels: Array,
  *,
  upsample: bool = True,
) -> Array:
  """Feature maps, each weighted by the mean gradient of the logit at it.

  `L = max(sum_k a_k A_k, 0)` with `a_k = mean_ij d logit[y] / d A_kij`, where A
  are the feature maps.

  Selvaraju et al. 2016, arXiv 1610.02391.

  Args:
    features_fn: Images `[B, H, W, C]` to feature maps `[B, h, w, K]`, by
      custom those of the last convolution.
    head_fn: Feature maps to logits `[B, N]`.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`, each in [0, N).
    upsample: Whether the map is brought to the size of the image, bilinearly;
      static.

  Returns:
    `[B, H, W]`, or `[B, h, w]` where it is not upsampled; in the dtype of the
    images.

  Raises:
    ValueError: if an argument is not as above.

  Example:
    >>> features_fn = lambda images: images[:, ::2, ::2]
    >>> head_fn = lambda maps: maps.mean((1, 2)) @ jnp.array([[4.0, -4.0]])
    >>> images, labels = jnp.ones((2, 4, 4, 1)), jnp.array([0, 1])
    >>> grad_cam(features_fn, head_fn, images, labels).mean((1, 2))
    Array([1., 0.], dtype=float32)
  """
  images, labels = check_images('features_fn', features_fn, images, labels)
  arguments.check_callable('head_fn', head_fn)
  maps = arguments.call(output_shape, features_fn, images)
  maps = _check_maps(maps, images)
  check_logits(arguments.call(output_shape, head_fn, maps), labels)
  return _grad_cam(
    features_fn, head_fn, images, labels, upsample=bool(upsample)
  )


def cam(
  features_fn: FeaturesFn,
  class_weights: Array,
  images: Array,
  labels: Array,
  *,
  upsample: bool = True,
) -> Array:
  """Feature maps, each weighted by the class's weight behind global pooling.

  `M = sum_k w_ky A_k`. It is signed: positive values are evidence for the
  class, negative ones against it. As the logit is
  `sum_k w_ky mean_ij A_kij + b_y`, the mean of the map (not upsampled) plus the
  bias is the logit.

  Zhou et al. 2015, arXiv 1512.04150.

  Args:
    features_fn: Images `[B, H, W, C]` to the feature maps `[B, h, w, K]` that
      are averaged over all places.
    class_weights: Kernel of the dense layer on these averages, `[K, N]`.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`.
    upsample: Whether the map is brought to the size of the image, bilinearly;
      static.

  Returns:
    `[B, H, W]`, or `[B, h, w]` where it is not upsampled; in the dtype of the
    images.

  Raises:
    ValueError: if an argument is not as above.

  Example:
    >>> images = jnp.ones((1, 4, 4, 2))
    >>> weights = jnp.array([[1.0, 0.0], [2.0, 5.0]])
    >>> cam(lambda images: images, weights, images, jnp.array([0]))[0, 0]
    Array([3., 3., 3., 3.], dtype=float32)
  """
  images, labels = check_images('features_fn', features_fn, images, labels)
  if getattr(class_weights, 'ndim', None) != 2:
    allowed = '[K, N], the kernel of the dense layer behind global pooling'
    raise arguments.error('class_weights', class_weights, allowed)
  arguments.check_classes('labels', labels, class_weights.shape[1])
  return _cam(
    features_fn, class_weights, images, labels, upsample=bool(upsample)
  )


@compile_per_callable
def _grad_cam(
  features_fn: FeaturesFn,
  head_fn: HeadFn,
  images: Array,
  labels: Array,
  *,
  upsample: bool,
) -> Array:
  maps = _check_maps(features_fn(images), images)
  gradient = class_gradient(head_fn, maps, labels)
  weights = gradient.astype(wide(maps)).mean((1, 2))
  weighted = jnp.einsum('bijk,bk->bij', maps.astype(weights.dtype), weights)
  return _sized(jnp.maximum(weighted, 0), images, upsample)


@compile_per_callable
def _cam(
  features_fn: FeaturesFn,
  class_weights: Array,
  images: Array,
  labels: Array,
  *,
  upsample: bool,
) -> Array:
  maps = _check_maps(features_fn(images), images)
  if len(class_weights) != maps.shape[-1]:
    allowed = f'[{maps.shape[-1]}, N], a row for each of the feature maps'
    raise arguments.error('class_weights', class_weights, allowed)
  dtype = wide(maps)
  weights = class_weights.T[labels].astype(dtype)
  weighted = jnp.einsum('bijk,bk->bij', maps.astype(dtype), weights)
  return _sized(weighted, images, upsample)


def _check_maps(maps: Any, images: Array) -> Any:
  if getattr(maps, 'ndim', None) != 4 or maps.shape[0] != len(images):
    allowed = f'[{len(images)}, h, w, K]'
    raise arguments.error('features_fn(images)', maps, allowed)
  return maps


def _sized(maps: Array, images: Array, upsample: bool) -> Array:
  if upsample:
    maps = jax.image.resize(maps, images.shape[:3], 'bilinear')
  return maps.astype(images.dtype)
