"""Checks of the arguments of attacks, each a clear ValueError.

Shapes, dtypes and Python values are always checked, the values of arrays only
where they are concrete. On the CPU nothing here compiles, so that a loop over
epsilons costs one compilation, that of the attack.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.callables import output_shape
from advjax.types import Images, Labels, LogitsFn


def is_floating(x: Any) -> bool:
  """Whether an array holds floating-point numbers of any width."""
  return jnp.issubdtype(x.dtype, jnp.floating)


def is_concrete(x: Any) -> bool:
  """Whether the values of an array can be looked at from here."""
  if isinstance(x, jax.core.Tracer):
    return False
  return not isinstance(x, jax.Array) or x.is_fully_addressable


def check_callable(name: str, function: Any) -> None:
  """Checks that an argument can be called."""
  if not callable(function):
    raise ValueError(f'{name} must be callable; got {function!r}')


def count(name: str, value: Any) -> int:
  """Returns a static count, such as num_steps, as an int of at least 1."""
  try:
    result = operator.index(value)
  except TypeError:
    raise ValueError(
      f'{name} must be a Python integer of at least 1 (it is static); '
      f'got {value!r}'
    ) from None
  if result < 1:
    raise ValueError(f'{name} must be at least 1; got {value!r}')
  return result


def number(name: str, value: Any, dtype: Any, batch: int | None = None) -> Any:
  """Returns a number of at least 0, a scalar (or `[batch]`), as an array."""
  shapes = ((),) if batch is None else ((), (batch,))
  if value is None:
    raise ValueError(f'{name} must be a number; got None')
  if is_concrete(value):
    try:
      # On the host: one dtype for Python, NumPy and JAX numbers is one
      # compilation, and the cast of a JAX array would be another.
      value = np.asarray(value, dtype)
    except (TypeError, ValueError):
      raise ValueError(
        f'{name} must be a number or an array of shape '
        f'{" or ".join(map(str, shapes))}; got {value!r}'
      ) from None
    if not np.all(value >= 0):
      raise ValueError(f'{name} must be at least 0; got {value}')
  if value.shape not in shapes:
    raise ValueError(
      f'{name} must have shape {" or ".join(map(str, shapes))}; '
      f'got {value.shape}'
    )
  return value


def static_number(
  name: str, value: Any, low: float = 0, high: float = math.inf
) -> float:
  """Returns a static number between two bounds, finite, as a float."""
  allowed = f'in [{low}, {high}]' if high < math.inf else f'of at least {low}'
  if not isinstance(value, int | float | np.number) or not (
    low <= value <= high and value < math.inf
  ):
    raise ValueError(
      f'{name} must be a Python number {allowed} (it is static); got {value!r}'
    )
  return float(value)


def check_one_array(images: Any) -> None:
  """Checks that images are no pytree, for attacks that take none."""
  if getattr(images, 'ndim', 0) < 2:
    got = getattr(images, 'shape', type(images).__name__)
    raise ValueError(
      'images must be one array [B, ...] of at least 2 axes for this attack; '
      f'got {got}'
    )


def check_images(images: Images) -> int:
  """Returns the batch size."""
  leaves = jax.tree.leaves(images)
  if not any(is_floating(x) for x in leaves):
    raise ValueError(
      'images must be a floating array [B, ...] or a pytree with at least one; '
      f'got {[str(x.dtype) for x in leaves]}'
    )
  shapes = [x.shape for x in leaves]
  if any(shape[:1] != shapes[0][:1] or not shape for shape in shapes):
    raise ValueError(
      f'images must share the leading batch axis; got shapes {shapes}'
    )
  return shapes[0][0]


def check_labels(name: str, labels: Labels, batch: int) -> None:
  """Checks that labels have a row for each image."""
  for x in jax.tree.leaves(labels):
    if x.shape[:1] != (batch,):
      raise ValueError(
        f'{name} must have a leading axis of {batch}, as the images; '
        f'got shape {x.shape}'
      )


def check_integers(name: str, labels: Any, batch: int) -> None:
  """Checks for one integer class per image."""
  whole = hasattr(labels, 'dtype') and jnp.issubdtype(labels.dtype, jnp.integer)
  if not whole or labels.shape != (batch,):
    got = jax.tree.map(lambda x: f'{x.dtype} {x.shape}', labels)
    raise ValueError(f'{name} must be int [{batch}]; got {got}')


def check_classes(
  logits_fn: LogitsFn, example: tuple[Any, ...], **labels: Labels | None
) -> None:
  """Checks that integer labels lie below the number of logits."""
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(example)):
    return
  for name, x in labels.items():
    if not isinstance(x, jax.Array | np.ndarray) or not is_concrete(x):
      continue
    if not jnp.issubdtype(x.dtype, jnp.integer) or not x.size:
      continue
    logits = output_shape(logits_fn, *example)
    if getattr(logits, 'ndim', None) != 2:
      return  # The loss says what is wrong with the logits.
    values = np.asarray(x)
    if values.min() < 0 or values.max() >= logits.shape[1]:
      raise ValueError(
        f'{name} must lie in [0, {logits.shape[1]}), the number of logits; got '
        f'values from {values.min()} to {values.max()}'
      )


def check_key(key: Any, batch: int) -> None:
  """Checks for one key or one per example, typed or raw."""
  shape = getattr(key, 'shape', None)
  dtype = getattr(key, 'dtype', None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    fits = shape in ((), (batch,))
  else:
    # The words of a raw key: two of threefry, four of rbg.
    raw = [(2,), (4,), (batch, 2), (batch, 4)]
    fits = dtype == np.uint32 and shape in raw
  if not fits:
    got = repr(key) if shape is None else f'{dtype} of shape {shape}'
    raise ValueError(
      f'key must be one key or {batch} keys, one per example, made by '
      f'jax.random.key (or PRNGKey); got {got}'
    )


def check_box(images: Any, lower: Any, upper: Any) -> None:
  """Checks that the images of one leaf are finite and inside their bounds."""
  if not _holds(_ordered, lower, upper):
    raise ValueError(
      'bounds must have lower <= upper; got '
      f'{np.unique(lower)} and {np.unique(upper)}'
    )
  if not _holds(_inside, images, lower, upper):
    raise ValueError(
      'images must be finite and inside bounds, from '
      f'{np.unique(lower)} to {np.unique(upper)}; got values from '
      f'{jnp.min(images)} to {jnp.max(images)}'
    )


def check_mask(mask: Any) -> None:
  """Checks that the values of a mask are in [0, 1]."""
  if not _holds(_inside, mask, 0, 1):
    raise ValueError(
      'mask must hold values in [0, 1]; got values from '
      f'{jnp.min(mask)} to {jnp.max(mask)}'
    )


def _inside(x: Any, lower: Any, upper: Any) -> Any:
  return ((x >= lower) & (x <= upper) & (abs(x) < np.inf)).all()


def _ordered(lower: Any, upper: Any) -> Any:
  return (lower <= upper).all()


def _holds(test: Callable[..., Any], *args: Any) -> bool:
  """Whether a test of values holds; True where they cannot be looked at."""
  if not all(is_concrete(x) for x in args):
    return True
  if any(isinstance(x, jax.Array) and not _on_cpu(x) for x in args):
    return bool(jax.jit(test)(*args))  # Without fetching the images.
  return bool(test(*(np.asarray(x) for x in args)))


def _on_cpu(x: jax.Array) -> bool:
  return all(device.platform == 'cpu' for device in x.devices())
