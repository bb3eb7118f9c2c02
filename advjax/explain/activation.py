"""Activation maximization: images that a network takes for a class."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from advjax.callables import compile_per_callable, output_shape
from advjax.explain import _inputs
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
  require = _inputs.require
  require(callable(logits_fn), 'logits_fn', logits_fn, 'a callable')
  is_image = len(shape) == 3 and min(shape) >= 1
  require(is_image, 'shape', shape, '(height, width, channels), each >= 1')
  shape = tuple(int(size) for size in shape)
  classes = _inputs.check_labels('classes', classes, len(classes))
  _inputs.check_key(key, len(classes))
  example = jax.ShapeDtypeStruct((len(classes), *shape), jnp.float32)
  _inputs.check_classes('classes', classes, output_shape(logits_fn, example))
  return _maximize(
    logits_fn,
    classes,
    key,
    _inputs.number('step_size', step_size, jnp.float32),
    _inputs.number('l2_penalty', l2_penalty, jnp.float32),
    _inputs.number('variation_penalty', variation_penalty, jnp.float32),
    shape=shape,
    num_steps=_inputs.count('num_steps', num_steps),
    jitter=_inputs.count('jitter', jitter, low=0),
  )


@functools.partial(
  compile_per_callable, static_argnames=('shape', 'num_steps', 'jitter')
)
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
  keys = _inputs.example_keys(key, len(classes))

  def logits_of(images: Array, shifts: Array) -> Array:
    shifted = jax.vmap(lambda x, s: jnp.roll(x, s, (0, 1)))(images, shifts)
    return _inputs.class_logits(logits_fn(shifted), classes).sum()

  def variation(images: Array) -> Array:
    down, across = jnp.diff(images, axis=1), jnp.diff(images, axis=2)
    return jnp.abs(down).sum() + jnp.abs(across).sum()

  def step(images: Array, t: Array) -> tuple[Array, None]:
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t + 1)
    shifts = jax.vmap(
      lambda k: jax.random.randint(k, (2,), -jitter, jitter + 1)
    )(step_keys)
    gradient = jax.grad(logits_of)(images, shifts).astype(jnp.float32)
    size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
    direction = gradient / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    direction -= l2_penalty * (images - 0.5)
    direction -= variation_penalty * jax.grad(variation)(images)
    return jnp.clip(images + step_size * direction, 0, 1), None

  start_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
  noise = jax.vmap(lambda k: jax.random.normal(k, shape))(start_keys)
  images = jnp.clip(0.5 + 0.05 * noise, 0, 1)
  images, _ = jax.lax.scan(step, images, jnp.arange(num_steps))
  return images
