"""What the methods share: checked inputs, and the logit of a class."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.callables import output_shape
from advjax.types import Array, LogitsFn


def require(fits: Any, name: str, value: Any, allowed: str) -> None:
  """Raises a ValueError that names an argument unless it fits."""
  if not fits:
    is_array = hasattr(value, 'shape') and hasattr(value, 'dtype')
    found = f'{value.dtype} {value.shape}' if is_array else repr(value)
    raise ValueError(f'{name} = {found}; allowed: {allowed}')


def check(logits_fn: LogitsFn, images: Any, labels: Any) -> tuple[Array, Array]:
  """Returns images and labels as arrays, once they are seen to fit."""
  require(callable(logits_fn), 'logits_fn', logits_fn, 'a callable')
  images = check_images(images)
  labels = check_labels('labels', labels, len(images))
  check_classes('labels', labels, output_shape(logits_fn, images))
  return images, labels


def check_images(images: Any) -> Array:
  """Returns images as an array, if they are floating `[B, H, W, C]`."""
  images = _as_array(images)
  fits = images.ndim == 4 and jnp.issubdtype(images.dtype, jnp.floating)
  require(fits, 'images', images, 'floating [B, H, W, C]')
  return images


def check_labels(name: str, labels: Any, batch: int) -> Array:
  """Returns classes as an array, if they are one integer per image."""
  labels = _as_array(labels)
  whole = jnp.issubdtype(labels.dtype, jnp.integer)
  require(whole and labels.shape == (batch,), name, labels, f'int [{batch}]')
  return labels


def check_classes(name: str, labels: Array, logits: Any) -> None:
  """Checks that there is a row of logits per label, and one for its class."""
  check_logits(logits, labels)
  if _is_concrete(labels) and labels.size:
    values = np.asarray(labels)  # On the host, where nothing compiles.
    fits = values.min() >= 0 and values.max() < logits.shape[1]
    allowed = f'integers in [0, {logits.shape[1]}), the number of logits'
    require(fits, name, np.unique(values).tolist(), allowed)


def check_logits(logits: Any, labels: Array) -> None:
  """Checks that there is a row of logits for each label."""
  fits = getattr(logits, 'ndim', None) == 2 and len(labels) == logits.shape[0]
  require(fits, 'logits', logits, f'[{len(labels)}, K]')


def check_key(key: Any, batch: int) -> None:
  """Checks for one key or one per example, typed or raw."""
  shape, dtype = getattr(key, 'shape', None), getattr(key, 'dtype', np.void)
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    fits = shape in ((), (batch,))
  else:
    # The words of a raw key: two of threefry, four of rbg.
    raw = [(2,), (4,), (batch, 2), (batch, 4)]
    fits = dtype == np.uint32 and shape in raw
  allowed = f'one key of jax.random.key (or PRNGKey), or {batch}, one per image'
  require(fits, 'key', key, allowed)


def example_keys(key: Any, batch: int) -> Array:
  """One threefry key per example, `[B]`: one key is folded with the row."""
  words = key
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    words = jax.random.key_data(key)
  if words is key or words.shape[-1] != 2:
    # Of the four words of an rbg key the first two.
    key = jax.random.wrap_key_data(words[..., :2], impl='threefry2x32')
  if key.ndim:
    return key
  rows = jnp.arange(batch, dtype=jnp.uint32)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def count(name: str, value: Any, low: int = 1) -> int:
  """Returns a static number of steps, samples or pixels as an int."""
  try:
    result = operator.index(value)
  except TypeError:
    result = low - 1
  require(result >= low, name, value, f'a static integer >= {low}')
  return result


def number(name: str, value: Any, dtype: Any) -> Any:
  """Returns a number of at least 0 as an array, which may be traced."""
  if _is_concrete(value):
    try:
      # On the host: one dtype for Python, NumPy and JAX numbers is one
      # compilation, and the cast of a JAX array would be another.
      value = np.asarray(value, dtype)
    except (TypeError, ValueError):
      require(False, name, value, 'a number >= 0')
    require(np.all(value >= 0), name, value.tolist(), 'a number >= 0')
  require(value.shape == (), name, value, 'a number >= 0')
  return value


def class_logits(logits: Array, labels: Array) -> Array:
  """The logit of each row's class, `[B]`, float32 or wider."""
  check_logits(logits, labels)
  logits = logits.astype(wide(logits))
  return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def wide(x: Array) -> Any:
  """The dtype of sums: that of an array, at least float32."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _is_concrete(x: Any) -> bool:
  if isinstance(x, jax.core.Tracer):
    return False
  return not isinstance(x, jax.Array) or x.is_fully_addressable


def _as_array(x: Any) -> Any:
  if isinstance(x, jax.Array):
    return x
  x = np.asarray(x)
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
