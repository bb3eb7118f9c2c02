"""Gradients of a class's logit with respect to the image."""

from typing import Any

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax import losses
from advjax._arguments import wide
from advjax.callables import compile_per_callable, output_shape
from advjax.types import Array, ArrayLike, LogitsFn


def saliency(logits_fn: LogitsFn, images: Array, labels: Array) -> Array:
  """The gradient of a class's logit: evidence for and against the class.

  `g_i = d logits_fn(x_i)[y_i] / d x_i`. It is the logit, not the probability:
  a softmax would mix in the evidence for other classes. `positive_map` and
  `negative_map` make the two pictures of it.

  Simonyan et al. 2013, arXiv 1312.6034.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, K]`, normalisation
      included; no example may depend on another one.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`.

  Returns:
    `[B, H, W, C]`, in the dtype of the images.

  Raises:
    ValueError: if an argument is not as above.

  Example:
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), x[:, 0, 0, 0]], 1)
    >>> images, labels = jnp.ones((1, 2, 2, 1)), jnp.array([1])
    >>> saliency(logits_fn, images, labels)[0, :, :, 0]
    Array([[1., 0.],
           [0., 0.]], dtype=float32)
  """
  images, labels = check(logits_fn, images, labels)
  return _saliency(logits_fn, images, labels)


def positive_map(gradient: Array) -> Array:
  """Evidence for the class: `max_c max(g_c, 0)` over the channels.

  Args:
    gradient: `[B, H, W, C]`, from any method that returns such.

  Returns:
    `[B, H, W]`, at least 0.

  Example:
    >>> positive_map(jnp.array([[[[1.0, -3.0]]]]))
    Array([[[1.]]], dtype=float32)
  """
  return jnp.max(jnp.maximum(gradient, 0), axis=-1)


def negative_map(gradient: Array) -> Array:
  """Evidence against the class: `max_c max(-g_c, 0)` over the channels.

  Args:
    gradient: `[B, H, W, C]`, from any method that returns such.

  Returns:
    `[B, H, W]`, at least 0: the size of the strongest negative value.

  Example:
    >>> negative_map(jnp.array([[[[1.0, -3.0]]]]))
    Array([[[3.]]], dtype=float32)
  """
  return positive_map(-gradient)


def integrated_gradients(
  logits_fn: LogitsFn,
  images: Array,
  labels: Array,
  *,
  baseline: ArrayLike = 0.0,
  num_steps: int = 32,
) -> Array:
  """Gradients along the straight path from a baseline, times the difference.

  `(x - b) * mean_k g(b + (k + 1/2) / n * (x - b))`, k = 0 .. n - 1: the
  midpoint rule. It is complete: the values of an image sum to the difference
  of the logit between image and baseline, as n grows.

  Sundararajan et al. 2017, arXiv 1703.01365.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, K]`.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`.
    baseline: The image without evidence, black by default: a number or an
      array that broadcasts to the images; may be traced.
    num_steps: Points n on the path, at least 1; static.

  Returns:
    `[B, H, W, C]`, in the dtype of the images.

  Raises:
    ValueError: if an argument is not as above.

  Example:
    >>> logits_fn = lambda x: (x**2).sum((1, 2, 3))[:, None]
    >>> images = jnp.full((1, 1, 1, 1), 3.0)
    >>> integrated_gradients(logits_fn, images, jnp.array([0]))
    Array([[[[9.]]]], dtype=float32)
  """
  images, labels = check(logits_fn, images, labels)
  num_steps = arguments.count('num_steps', num_steps)
  if not isinstance(baseline, jax.Array):
    baseline = arguments.real_array(
      'baseline', baseline, images.dtype, 'numbers'
    )
  try:
    # A wider one would widen the gradients, and not fit the sum of the scan.
    baseline = jnp.broadcast_to(baseline, images.shape).astype(images.dtype)
  except ValueError:
    allowed = f'what broadcasts to the images, {images.shape}'
    raise arguments.error('baseline', baseline, allowed) from None
  return _integrated(logits_fn, images, labels, baseline, num_steps=num_steps)


def smooth_grad(
  logits_fn: LogitsFn,
  images: Array,
  labels: Array,
  *,
  std: ArrayLike = 0.15,
  num_samples: int = 16,
  key: Array,
) -> Array:
  """The mean gradient over noisy copies of the image.

  `mean_s g(x + std * n_s)`, with n_s standard normal. With std 0 it is
  `saliency`.

  Smilkov et al. 2017, arXiv 1706.03825.

  Args:
    logits_fn: Images `[B, H, W, C]` to logits `[B, K]`.
    images: Floating `[B, H, W, C]`.
    labels: The classes to explain, int `[B]`.
    std: Of the noise, in the units of the images, a number; the paper takes 10
      to 20 % of their range. May be traced.
    num_samples: Copies, at least 1; static.
    key: One key, folded with the row, or `[B]` keys: what is drawn for an
      example does not depend on the others.

  Returns:
    `[B, H, W, C]`, in the dtype of the images.

  Raises:
    ValueError: if an argument is not as above.

  Example:
    >>> logits_fn = lambda x: 2 * x[:, 0, 0]
    >>> images, key = jnp.ones((1, 1, 1, 1)), jax.random.key(0)
    >>> smooth_grad(logits_fn, images, jnp.array([0]), key=key)
    Array([[[[2.]]]], dtype=float32)
  """
  images, labels = check(logits_fn, images, labels)
  arguments.check_key(key, len(images))
  std = arguments.number('std', std, wide(images))
  num_samples = arguments.count('num_samples', num_samples)
  return _smooth(logits_fn, images, labels, std, key, num_samples=num_samples)


def check(logits_fn: LogitsFn, images: Any, labels: Any) -> tuple[Array, Array]:
  """Returns images and labels as arrays, once they are seen to fit."""
  images, labels = check_images('logits_fn', logits_fn, images, labels)
  check_logits(arguments.call(output_shape, logits_fn, images), labels)
  return images, labels


def check_images(
  name: str, function: Any, images: Any, labels: Any
) -> tuple[Array, Array]:
  """The same before the function of the images, of this name, is called."""
  arguments.check_callable(name, function)
  images = arguments.as_array('images', images)
  if images.ndim != 4 or not arguments.is_floating(images):
    raise arguments.error('images', images, 'floating [B, H, W, C]')
  return images, arguments.check_labels('labels', labels, len(images))


def check_logits(logits: Any, labels: Array, name: str = 'labels') -> None:
  """Checks for a row of logits per label, and among them one of its class."""
  losses.check_logits(logits, len(labels), least=1)
  arguments.check_classes(name, labels, logits.shape[1])


def class_gradient(logits_fn: LogitsFn, images: Array, labels: Array) -> Array:
  """The gradient of the logit of each row's class, like the images."""

  def total(images: Array) -> Array:
    logits = logits_fn(images)
    check_logits(logits, labels)
    logits = logits.astype(wide(logits))
    return jnp.take_along_axis(logits, labels[:, None], axis=1).sum()

  return jax.grad(total)(images)


_saliency = compile_per_callable(class_gradient)


@compile_per_callable
def _integrated(
  logits_fn: LogitsFn,
  images: Array,
  labels: Array,
  baseline: Array,
  *,
  num_steps: int,
) -> Array:
  difference, dtype = images - baseline, wide(images)

  def add(total: Array, step: Array) -> tuple[Array, None]:
    share = ((step.astype(dtype) + 0.5) / num_steps).astype(images.dtype)
    gradient = class_gradient(logits_fn, baseline + share * difference, labels)
    return total + gradient.astype(dtype), None

  total = jnp.zeros(images.shape, dtype)
  total, _ = jax.lax.scan(add, total, jnp.arange(num_steps))
  total = difference.astype(dtype) * total
  return (total / num_steps).astype(images.dtype)


@compile_per_callable
def _smooth(
  logits_fn: LogitsFn,
  images: Array,
  labels: Array,
  std: Array,
  key: Array,
  *,
  num_samples: int,
) -> Array:
  keys = arguments.example_keys(key, len(images))
  dtype = wide(images)

  def draw(key: Array) -> Array:
    return jax.random.normal(key, images.shape[1:], dtype)

  def add(total: Array, sample: Array) -> tuple[Array, None]:
    sample_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
    noisy = images.astype(dtype) + std * jax.vmap(draw)(sample_keys)
    gradient = class_gradient(logits_fn, noisy.astype(images.dtype), labels)
    return total + gradient.astype(dtype), None

  total = jnp.zeros(images.shape, dtype)
  total, _ = jax.lax.scan(add, total, jnp.arange(num_samples))
  return (total / num_samples).astype(images.dtype)
