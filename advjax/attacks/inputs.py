"""Checks what an attack is given and brings it into one form.

Shapes, dtypes and Python values are always checked; the values of arrays only
where they are concrete. Nothing here compiles on the CPU, so that a loop over
epsilons costs one compilation, that of the attack.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses
from advjax.attacks.callables import output_shape
from advjax.types import Array, Bounds, Images, Labels, LogitsFn, LossFn

# Losses that read labels as classes, so that a label out of range is a mistake.
_CLASS_LOSSES = (losses.cross_entropy, losses.margin, losses.dlr)


class Inputs(NamedTuple):
  """The traced arguments of an attack.

  `lower`, `upper` and `mask` are lists over the floating leaves of `images`, and
  their entries broadcast to these; a bound that is not there is infinite.
  """

  images: Images
  labels: Labels
  targets: Labels | None
  epsilon: Any | None  # scalar or [B]
  step_size: Any  # scalar or [B]
  decay: Any | None
  lower: list[Any]
  upper: list[Any]
  mask: list[Any] | None
  key: Any | None


def prepare(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  *,
  epsilon: Any,
  step_size: Any,
  loss_fn: LossFn,
  bounds: Bounds,
  targets: Labels | None,
  mask: Any,
  key: Any = None,
  decay: Any = None,
  eot_samples: int | None = None,
) -> Inputs:
  """Checks the arguments that all gradient attacks share."""
  _check_callable('logits_fn', logits_fn)
  _check_callable('loss_fn', loss_fn)
  images = jax.tree.map(_as_array, images)
  batch = _check_images(images)
  dtype = compute_dtype(images)
  labels = _check_labels('labels', labels, batch)
  if targets is not None:
    targets = _check_labels('targets', targets, batch)
  key = _check_key(key, batch)
  lower, upper = _check_bounds(bounds, images)
  if loss_fn in _CLASS_LOSSES:
    example = (images,) if eot_samples is None else _one(images, key)
    _check_classes(logits_fn, example, {'labels': labels, 'targets': targets})
  if mask is not None:
    mask = _spread('mask', mask, images)
    for x, m in zip(floating(images), mask, strict=True):
      if m is None or not _holds(_in_box, _shaped(m, x), 0, 1):
        raise ValueError('mask must hold values in [0, 1] for every leaf')
  return Inputs(
    images=images,
    labels=labels,
    targets=targets,
    epsilon=number('epsilon', epsilon, dtype, batch, optional=True),
    step_size=number('step_size', step_size, dtype, batch),
    decay=number('decay', decay, dtype, batch, optional=True),
    lower=lower,
    upper=upper,
    mask=mask,
    key=key,
  )


def count(name: str, value: Any) -> int:
  """Checks a static count, such as num_steps."""
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


def number(
  name: str, value: Any, dtype: Any, batch: int, *, optional: bool = False
) -> Any:
  """Checks a number that is at least 0: a scalar or one per example."""
  if value is None and optional:
    return None
  if not isinstance(value, jax.core.Tracer):
    try:
      # On the host: the same dtype for Python, NumPy and JAX numbers means
      # one compilation, and casting a JAX array would be another.
      value = np.asarray(value, dtype)
    except (TypeError, ValueError):
      raise ValueError(
        f'{name} must be a number or an array of shape () or ({batch},); '
        f'got {value!r}'
      ) from None
    if not np.all(value >= 0):
      raise ValueError(f'{name} must be at least 0; got {value}')
  if value.shape not in ((), (batch,)):
    raise ValueError(
      f'{name} must have shape () or ({batch},), one per example; '
      f'got {value.shape}'
    )
  return value


def floating(images: Images) -> list[Any]:
  """The leaves that an attack perturbs."""
  return [x for x in jax.tree.leaves(images) if _is_floating(x)]


def compute_dtype(images: Images) -> Any:
  """The dtype of norms and losses: that of the images, at least float32."""
  return jnp.result_type(jnp.float32, *(x.dtype for x in floating(images)))


def replace_floating(images: Images, perturbed: Sequence[Any]) -> Images:
  """Puts perturbed leaves in the place of the floating ones."""
  leaves, treedef = jax.tree.flatten(images)
  source = iter(perturbed)
  return jax.tree.unflatten(
    treedef, [next(source) if _is_floating(x) else x for x in leaves]
  )


def example_keys(key: Any, batch: int) -> Array:
  """One key per example, `[B]`: a scalar key is folded with the row."""
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = _threefry(key)
  elif jax.random.key_data(key).shape[-1] == 4:
    key = _threefry(jax.random.key_data(key))
  if key.ndim:
    return key
  return jax.vmap(jax.random.fold_in, (None, 0))(
    key, jnp.arange(batch, dtype=jnp.uint32)
  )


def _threefry(data: Array) -> Array:
  """A threefry key from the words of a key, two of them or the four of `rbg`.

  What `rbg` draws under vmap depends on the batch; threefry draws do not.
  """
  return jax.random.wrap_key_data(data[..., :2], impl='threefry2x32')


# ---------------------------------------------------------------------- checks


def _as_array(x: Any) -> Any:
  if isinstance(x, jax.Array):
    return x
  x = np.asarray(x)
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)


def _is_floating(x: Any) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)


def _check_callable(name: str, function: Any) -> None:
  if not callable(function):
    raise ValueError(f'{name} must be callable; got {type(function).__name__}')


def _check_images(images: Images) -> int:
  leaves = jax.tree.leaves(images)
  if not leaves or not floating(images):
    raise ValueError(
      'images must be a floating array [B, ...] or a pytree with at least one; '
      f'got {[str(x.dtype) for x in leaves]}'
    )
  shapes = [x.shape for x in leaves]
  if any(len(s) == 0 or s[0] != shapes[0][:1][0] for s in shapes):
    raise ValueError(
      f'images must share the leading batch axis; got shapes {shapes}'
    )
  return shapes[0][0]


def _check_labels(name: str, labels: Labels, batch: int) -> Labels:
  labels = jax.tree.map(_as_array, labels)
  for x in jax.tree.leaves(labels):
    if x.ndim == 0 or x.shape[0] != batch:
      raise ValueError(
        f'{name} must have a leading axis of {batch}, as the images; '
        f'got shape {x.shape}'
      )
  return labels


def _check_classes(
  logits_fn: LogitsFn, example: tuple[Any, ...], given: dict[str, Any]
) -> None:
  concrete = {
    name: np.asarray(x)
    for name, x in given.items()
    if isinstance(x, jax.Array | np.ndarray)
    and jnp.issubdtype(x.dtype, jnp.integer)
    and x.size
    and _is_concrete(x)
  }
  leaves = jax.tree.leaves(example)
  if not concrete or any(isinstance(x, jax.core.Tracer) for x in leaves):
    return
  logits = output_shape(logits_fn, *example)
  if getattr(logits, 'ndim', None) != 2:
    return  # The loss says what is wrong with the logits.
  for name, x in concrete.items():
    if x.min() < 0 or x.max() >= logits.shape[1]:
      raise ValueError(
        f'{name} must lie in [0, {logits.shape[1]}); got values from '
        f'{x.min()} to {x.max()}'
      )


def _one(images: Images, key: Any) -> tuple[Any, ...]:
  """The first example and a key, as a randomised model is called."""
  image = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), images
  )
  if key is None or isinstance(key, jax.core.Tracer):
    return image, key
  return image, jax.eval_shape(lambda k: example_keys(k, 1)[0], key)


def _check_key(key: Any, batch: int) -> Any:
  if key is None:
    return None
  shape = getattr(key, 'shape', None)
  dtype = getattr(key, 'dtype', None)
  if shape is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    fits = shape in ((), (batch,))
  else:
    fits = dtype == np.uint32 and shape in (
      *((words,) for words in (2, 4)),
      *((batch, words) for words in (2, 4)),
    )
  if not fits:
    raise ValueError(
      f'key must be one key or {batch} keys, one per example, made by '
      'jax.random.key (or PRNGKey); got '
      + (f'{dtype} {shape}' if shape is not None else repr(key))
    )
  return key


def _check_bounds(
  bounds: Bounds, images: Images
) -> tuple[list[Any], list[Any]]:
  if bounds is None:
    bounds = (None, None)
  if not isinstance(bounds, tuple | list) or len(bounds) != 2:
    raise ValueError(
      f'bounds must be None or a pair (lower, upper); got {bounds!r}'
    )
  sides = []
  for side, missing in zip(bounds, (-np.inf, np.inf), strict=True):
    values = _spread('bounds', side, images)
    sides.append([missing if v is None else v for v in values])
  lower, upper = (
    [_shaped(v, x) for v, x in zip(side, floating(images), strict=True)]
    for side in sides
  )
  for x, low, high in zip(floating(images), lower, upper, strict=True):
    if not _holds(_ordered, low, high):
      raise ValueError(
        f'bounds must have lower <= upper; got {low.squeeze()} and '
        f'{high.squeeze()}'
      )
    if not _holds(_in_box, x, low, high):
      raise ValueError(
        'images must be finite and inside bounds '
        f'{_summary(low)} to {_summary(high)}; got values from '
        f'{jnp.min(x)} to {jnp.max(x)}'
      )
  return lower, upper


def _spread(name: str, prefix: Any, images: Images) -> list[Any]:
  """One entry of a pytree prefix per floating leaf of images."""
  try:
    full = jax.tree.broadcast(prefix, images, is_leaf=lambda x: x is None)
  except ValueError as error:
    raise ValueError(
      f'{name} must be a number, an array or a pytree prefix of images: {error}'
    ) from None
  values = jax.tree.leaves(full, is_leaf=lambda x: x is None)
  leaves = jax.tree.leaves(images)
  return [v for v, x in zip(values, leaves, strict=True) if _is_floating(x)]


def _shaped(value: Any, like: Any) -> Any:
  """Adds leading axes, so that value broadcasts to `like` rank by rank."""
  if not isinstance(value, jax.Array):
    value = np.asarray(value, jnp.promote_types(like.dtype, jnp.float32))
  elif _is_concrete(value) and value.ndim < like.ndim:
    value = np.asarray(value)  # Reshaping a JAX array would compile.
  try:
    fits = np.broadcast_shapes(value.shape, like.shape) == like.shape
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(
      f'bounds and mask must broadcast to the images, {like.shape}; '
      f'got shape {value.shape}'
    )
  return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)


def _summary(bound: Any) -> str:
  return str(np.unique(np.asarray(bound)))


def _is_concrete(x: Any) -> bool:
  if isinstance(x, jax.core.Tracer):
    return False
  return not isinstance(x, jax.Array) or x.is_fully_addressable


def _holds(test: Callable[..., Any], *args: Any) -> bool:
  """Whether a test of values holds; True where they cannot be looked at."""
  if not all(_is_concrete(x) for x in args):
    return True
  if any(isinstance(x, jax.Array) and not _on_cpu(x) for x in args):
    return bool(jax.jit(test)(*args))  # Without fetching the images.
  return bool(test(*(np.asarray(x) for x in args)))


def _on_cpu(x: Array) -> bool:
  return all(device.platform == 'cpu' for device in x.devices())


def _in_box(x: Any, lower: Any, upper: Any) -> Any:
  return ((x >= lower) & (x <= upper) & (abs(x) < np.inf)).all()


def _ordered(lower: Any, upper: Any) -> Any:
  return (lower <= upper).all()
