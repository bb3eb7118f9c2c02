"""Brings what an attack is given into one checked form."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses
from advjax.attacks import checks
from advjax.types import Array, Bounds, Images, Labels, LogitsFn, LossFn

# Losses that read integer labels as classes: one out of range is a mistake.
_CLASS_LOSSES = (losses.cross_entropy, losses.margin, losses.dlr)


class Inputs(NamedTuple):
  """The traced arguments of an attack.

  `lower`, `upper` and `mask` are lists over the floating leaves of `images`;
  their entries broadcast to these, and a bound that is not there is infinite.
  """

  images: Images
  labels: Labels
  targets: Labels | None
  epsilon: Any | None  # scalar or [B]
  step_size: Any  # scalar or [B]
  decay: Any | None  # scalar
  lower: list[Any]
  upper: list[Any]
  mask: list[Any] | None
  key: Any | None  # scalar or [B]


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
  one_array: bool = False,
) -> Inputs:
  """Checks the arguments that the attacks share and gathers them.

  With `one_array` the images are no pytree: what a search takes.
  """
  checks.check_callable('logits_fn', logits_fn)
  checks.check_callable('loss_fn', loss_fn)
  if one_array:
    checks.check_one_array(images)
  images = jax.tree.map(_as_array, images)
  batch = checks.check_images(images)
  dtype = compute_dtype(images)
  if epsilon is not None:
    epsilon = checks.number('epsilon', epsilon, dtype, batch)
  if decay is not None:
    decay = checks.number('decay', decay, dtype)
  labels = jax.tree.map(_as_array, labels)
  checks.check_labels('labels', labels, batch)
  if targets is not None:
    targets = jax.tree.map(_as_array, targets)
    checks.check_labels('targets', targets, batch)
  if key is not None:
    checks.check_key(key, batch)
  lower, upper = _boxes(bounds, images)
  for x, low, high in zip(floating(images), lower, upper, strict=True):
    checks.check_box(x, low, high)
  if mask is not None:
    mask = _spread('mask', mask, images, missing=1)
    for x in mask:
      checks.check_mask(x)
  if loss_fn in _CLASS_LOSSES:
    example = (images,) if eot_samples is None else _first(images, key)
    checks.check_classes(logits_fn, example, labels=labels, targets=targets)
  return Inputs(
    images=images,
    labels=labels,
    targets=targets,
    epsilon=epsilon,
    step_size=checks.number('step_size', step_size, dtype, batch),
    decay=decay,
    lower=lower,
    upper=upper,
    mask=mask,
    key=key,
  )


def floating(images: Images) -> list[Any]:
  """The leaves that an attack perturbs."""
  return [x for x in jax.tree.leaves(images) if checks.is_floating(x)]


def replace_floating(images: Images, perturbed: Sequence[Any]) -> Images:
  """Puts perturbed leaves in the place of the floating ones."""
  leaves, treedef = jax.tree.flatten(images)
  source = iter(perturbed)
  return jax.tree.unflatten(
    treedef, [next(source) if checks.is_floating(x) else x for x in leaves]
  )


def compute_dtype(images: Images) -> Any:
  """The dtype of norms and scores: that of the images, at least float32."""
  return jnp.result_type(jnp.float32, *(x.dtype for x in floating(images)))


def example_keys(key: Any, batch: int) -> Array:
  """One key per example, `[B]`: a scalar key is folded with the row."""
  key = threefry(key)
  if key.ndim:
    return key
  rows = jnp.arange(batch, dtype=jnp.uint32)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def threefry(key: Array) -> Array:
  """Typed threefry keys from keys of any kind, typed or raw.

  What `rbg` draws under vmap depends on the batch; threefry's draws do not.
  """
  words = key
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    words = jax.random.key_data(key)
    if words.shape[-1] == 2:
      return key
  # Of the four words of an rbg key the first two.
  return jax.random.wrap_key_data(words[..., :2], impl='threefry2x32')


def _first(images: Images, key: Any) -> tuple[Any, Any]:
  """The shapes of one example and its key, as a random model is called."""
  return (
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), images
    ),
    jax.eval_shape(lambda key: example_keys(key, 1)[0], key),
  )


def _as_array(x: Any) -> Any:
  if isinstance(x, jax.Array):
    return x
  x = np.asarray(x)
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)


def _boxes(bounds: Bounds, images: Images) -> tuple[list[Any], list[Any]]:
  if bounds is None:
    bounds = (None, None)
  if not isinstance(bounds, tuple | list) or len(bounds) != 2:
    raise ValueError(
      f'bounds must be None or a pair (lower, upper); got {bounds!r}'
    )
  lower, upper = bounds
  return (
    _spread('bounds', lower, images, missing=-np.inf),
    _spread('bounds', upper, images, missing=np.inf),
  )


def _spread(
  name: str, prefix: Any, images: Images, missing: float
) -> list[Any]:
  """One array per floating leaf of images, from a pytree prefix of them."""
  leaves = jax.tree.leaves(images)
  if len(leaves) == 1 and not isinstance(prefix, dict):
    values = [prefix]
  else:
    try:
      full = jax.tree.broadcast(prefix, images, is_leaf=lambda x: x is None)
    except ValueError as error:
      raise ValueError(
        f'{name} must be a number, an array or a pytree prefix of images; '
        f'{error}'
      ) from None
    values = jax.tree.leaves(full, is_leaf=lambda x: x is None)
  return [
    _shaped(name, missing if value is None else value, x)
    for value, x in zip(values, leaves, strict=True)
    if checks.is_floating(x)
  ]


def _shaped(name: str, value: Any, like: Any) -> Any:
  """Adds leading axes, so that value broadcasts to `like` axis by axis."""
  if not isinstance(value, jax.Array):
    value = np.asarray(value, jnp.promote_types(like.dtype, jnp.float32))
  elif checks.is_concrete(value) and value.ndim < like.ndim:
    value = np.asarray(value)  # To reshape a JAX array would compile.
  try:
    fits = np.broadcast_shapes(value.shape, like.shape) == like.shape
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(
      f'{name} must broadcast to the images, {like.shape}; '
      f'got shape {value.shape}'
    )
  return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)
