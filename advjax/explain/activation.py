"""Activation maximization: images that a network takes for a class."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from advjax import _arguments as arguments
from advjax.callables import compile_per_callable, output_shape
from advjax.explain.saliency import check_logits, class_gradient
from advjax.types import Array, ArrayLike, LogitsFn


def activation_maximization(
  logits_fn: LogitsFn,
  classes: Array,
  shape: Sequence[int],
  *,
  num_steps: int = 256,
  step_size: ArrayLike = 0.02,
  l2_penalty: ArrayLike = 0.0,
  variation_penalty: ArrayLike = 0.3,
  jitter: int = 2,
  key: Array,
) -> Array:
  """Gradient ascent from noise to an image that maximises a class's logit.

  `x <- clip(x + step_size * (g / rms(g) - l2 * (x - 1/2) - tv * dTV(x)), 0, 1)`
  where g is the gradient of the class's logit, rms its root mean square, so
  that the penalties weigh the same for every network, and TV the sum of the
  absolute differences of neighbours. Before each step the image is shifted by
  up to `jitter` pixels at random, and back after it, so that no pixel matters
  by itself.

  Erhan et al. 2009, Visualizing higher-layer features of a deep network;
  Simonyan et al. 2013, arXiv 1312.6034.

  Args:
    logits_fn: Images `[B, H, W, C]` in [0, 1] to logits `[B, K]`.
    classes: int `[B]`; one image is made for each.
    shape: Height, width and channels of the images.
    num_steps: Steps, at least 1; static.
    step_size: Mean change of a pixel in a step; may be traced, as the
      penalties.
    l2_penalty: Weight of the squared distance from gray.
    variation_penalty: Weight of the total variation.
    jitter: Largest shift, in pixels; static.
    key: One key, folded with the row, or `[B]` keys.

  Returns:
    float32 `[B, H, W, C]` in [0, 1].

  Raises:
    ValueError: if an argument is not as above.

  Example:
    >>> logits_fn = lambda images: images.mean((1, 2))
    >>> images = activation_maximization(
    ...   logits_fn,
    ...   jnp.array([0]),
    ...   (2, 2, 1),
    ...   num_steps=40,
    ...   key=jax.random.key(0),
    ... )
    >>> bool((images > 0.95).all())
    True
  """
  arguments.check_callable('logits_fn', logits_fn)
  if len(shape) != 3 or min(shape) < 1:
    allowed = '(height, width, channels), each >= 1'
    raise arguments.error('shape', shape, allowed)
  shape = tuple(int(size) for size in shape)
  batch = len(classes) if jnp.ndim(classes) else 0
  classes = arguments.check_labels('classes', classes, batch)
  arguments.check_key(key, len(classes))
  example = jax.ShapeDtypeStruct((len(classes), *shape), jnp.float32)
  logits = arguments.call(output_shape, logits_fn, example)
  check_logits(logits, classes, 'classes')
  return _maximize(
    logits_fn,
    classes,
    key,
    arguments.number('step_size', step_size, jnp.float32),
    arguments.number('l2_penalty', l2_penalty, jnp.float32),
    arguments.number('variation_penalty', variation_penalty, jnp.float32),
    shape=shape,
    num_steps=arguments.count('num_steps', num_steps),
    jitter=arguments.count('jitter', jitter, 0),
  )


@compile_per_callable
def _maximize(
  logits_fn: LogitsFn,
  classes: Array,
  key: Array,
  step_size: Array,
  l2_penalty: Array,
  variation_penalty: Array,
  *,
  shape: tuple[int, int, int],
  num_steps: int,
  jitter: int,
) -> Array:
  keys = arguments.example_keys(key, len(classes))

  def gradient_of(images: Array, shifts: Array) -> Array:
    roll = jax.vmap(lambda x, s: jnp.roll(x, s, (0, 1)))
    gradient = class_gradient(
      lambda images: logits_fn(roll(images, shifts)), images, classes
    )
    return gradient.astype(jnp.float32)

  def variation(images: Array) -> Array:
    down, across = jnp.diff(images, axis=1), jnp.diff(images, axis=2)
    return jnp.abs(down).sum() + jnp.abs(across).sum()

  def step(images: Array, t: Array) -> tuple[Array, None]:
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t + 1)
    shifts = jax.vmap(
      lambda k: jax.random.randint(k, (2,), -jitter, jitter + 1, jnp.int32)
    )(step_keys)
    gradient = gradient_of(images, shifts)
    size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
    direction = gradient / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    direction -= l2_penalty * (images - 0.5)
    direction -= variation_penalty * jax.grad(variation)(images)
    return jnp.clip(images + step_size * direction, 0, 1), None

  start_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
  noise = jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(
    start_keys
  )
  images = jnp.clip(0.5 + 0.05 * noise, 0, 1)
  images, _ = jax.lax.scan(step, images, jnp.arange(num_steps))
  return images
