"""Arguments, checked, and the perturbations that they allow.

Shapes, dtypes and Python values are always checked, the values of arrays only
where they are concrete. On the CPU the checks compile nothing, so that a loop
over epsilons costs one compilation, that of the attack.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses
from advjax.callables import output_shape
from advjax.norms import Norm, divide, expand, linf, scale
from advjax.types import Array, Bounds, Images, Labels, LogitsFn, LossFn, Tree

# The largest float32.
_MOST = float(np.finfo(np.float32).max)
# Losses that read integer labels as classes: one out of range is a mistake.
_CLASS_LOSSES = (losses.cross_entropy, losses.margin, losses.dlr)


class Problem(NamedTuple):
  """What an attack solves: `max loss(f(x + delta), y)` over its perturbations.

  Those are `|delta| <= epsilon` with x + delta between lower and upper. Where
  images are a pytree, `lower`, `upper` and `mask` have its structure with None
  in place of leaves that are not floating.
  """

  images: Images
  labels: Labels
  targets: Labels | None
  epsilon: Any  # scalar or [B]; None: no limit
  keys: Any  # one key, or one per example [B]; None: no draws
  lower: Tree  # broadcasts to the images, -inf where there is no bound
  upper: Tree
  mask: Tree | None = None

  @property
  def originals(self) -> Tree:
    """The floating leaves of the images, None for the others."""
    return jax.tree.map(lambda x: x if is_floating(x) else None, self.images)

  @property
  def dtype(self) -> Any:
    """The dtype of norms and losses: that of the images, at least float32."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves(self.originals))

  @property
  def batch(self) -> int:
    return int(jax.tree.leaves(self.images)[0].shape[0])

  def per_example(self) -> 'Problem':
    """The same with a radius and a key for each example."""
    problem: Problem = jax.lax.stop_gradient(self)
    images, labels, targets = jax.tree.map(jnp.asarray, problem[:3])
    originals, epsilon, keys = self.originals, problem.epsilon, problem.keys
    if epsilon is not None:
      epsilon = per_example(epsilon, self.dtype, self.batch)
    if keys is not None:
      keys = example_keys(keys, self.batch)
    lower, upper, mask = (
      jax.tree.map(lambda x, b: jnp.asarray(b, wide(x)), originals, bound)
      if bound is not None
      else None
      for bound in (problem.lower, problem.upper, problem.mask)
    )
    return Problem(images, labels, targets, epsilon, keys, lower, upper, mask)

  def zeros(self) -> Tree:
    """No perturbation, in float32 or better."""
    return jax.tree.map(
      lambda x: jnp.zeros_like(x, dtype=wide(x)), self.originals
    )

  def slack(self, delta: Tree | None = None) -> tuple[Tree, Tree]:
    """How far each coordinate can move down and up within the box."""
    lower, upper = (
      jax.tree.map(lambda x, b: b - x.astype(wide(x)), self.originals, bound)
      for bound in (self.lower, self.upper)
    )
    if delta is None:
      return lower, upper
    # Exactly 0 for what was clipped to the box.
    return (
      jax.tree.map(jnp.subtract, lower, delta),
      jax.tree.map(jnp.subtract, upper, delta),
    )

  def sample(self, norm: Norm, keys: Array, radius: Array) -> Tree:
    """A uniform draw from the ball of this radius, clipped to the box."""
    delta = jax.tree.map(
      lambda d: d * expand(radius, d).astype(d.dtype),
      norm.sample(keys, self.zeros()),
    )
    if self.mask is not None:  # What is masked out does not move at all.
      delta = jax.tree.map(
        lambda d, m: jnp.where(m > 0, d, 0), delta, self.mask
      )
    return jax.tree.map(jnp.clip, delta, *self.slack())

  def perturb(self, delta: Tree, norm: Norm) -> Tree:
    """originals + delta in the originals' dtype, still in the box and ball."""
    originals, delta = self.originals, jax.lax.stop_gradient(delta)

    def add(x: Array, d: Array, low: Array, high: Array) -> Array:
      y = jnp.clip(x.astype(d.dtype) + d, low, high).astype(x.dtype)
      rounded = y.astype(d.dtype)
      outside = (rounded < low) | (rounded > high)
      return jnp.where(d == 0, x, jnp.where(outside, jnp.nextafter(y, x), y))

    images = jax.tree.map(add, originals, delta, self.lower, self.upper)
    if self.epsilon is None:
      return images
    if norm == linf:
      moved = jax.tree.map(difference, images, originals)
      outside = norm.size(moved) > self.epsilon
    else:  # All a little shorter, before any coordinate is rounded down.
      excess = self.excess(images, norm)
      share = (1 - rounding(excess)) / jnp.maximum(excess, 1)
      delta = scale(delta, jnp.where(excess > 1, share, 1))
      images = jax.tree.map(add, originals, delta, self.lower, self.upper)
      outside = self.excess(images, norm) > 1

    def shrink(x: Array, y: Array, d: Array) -> Array:
      nearer = expand(outside, y) & (jnp.abs(difference(y, x)) > jnp.abs(d))
      if norm == linf:
        nearer |= distance(y, x) > expand(self.epsilon, y)
      return jnp.where(nearer, jnp.nextafter(y, x), y)

    return jax.tree.map(shrink, originals, images, delta)

  def excess(self, images: Tree, norm: Norm) -> Array:
    """|images - originals| / epsilon and nothing less by rounding, `[B]`."""
    # In units of epsilon: the squares of tiny ones would underflow.
    exact = norm == linf
    moved = jax.tree.map(
      distance if exact else difference, images, self.originals
    )
    excess = norm.size(divide(moved, self.epsilon))
    excess = excess if exact else excess * (1 + rounding(excess))
    beyond = (self.epsilon == 0) & (excess > 0)
    return jnp.where(beyond, jnp.inf, excess)


def check(
  logits_fn: LogitsFn,
  images: Images,
  labels: Labels,
  *,
  epsilon: Any = None,
  bounds: Bounds = None,
  targets: Labels | None = None,
  mask: Any = None,
  key: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  eot_samples: int | None = None,
  one_array: bool = False,
  integer_labels: bool = False,
) -> Problem:
  """Checks the arguments that attacks share and gathers them."""
  check_callable('logits_fn', logits_fn)
  check_callable('loss_fn', loss_fn)
  if one_array and getattr(images, 'ndim', 0) < 2:
    got = getattr(images, 'shape', type(images).__name__)
    raise error('images', got, 'one array [B, ...] of at least 2 axes')
  images = jax.tree.map(lambda x: as_array('images', x), images)
  leaves = jax.tree.leaves(images)
  shapes = sorted({x.shape for x in leaves})
  if not any(is_floating(x) for x in leaves):
    allowed = 'floating [B, ...], or a pytree with such an array'
    raise error('images.dtype', sorted({str(x.dtype) for x in leaves}), allowed)
  if any(0 in shape[1:] for shape in shapes):
    raise error('images.shape', shapes, 'no axis of 0 but the batch')
  if any(shape[:1] != shapes[0][:1] or not shape for shape in shapes):
    if isinstance(images, list | tuple) and shapes == [()]:
      raise error('images', type(images).__name__, 'an array (np.asarray)')
    raise error('images.shape', shapes, 'the same leading axis, the batch')
  batch = int(shapes[0][0])
  soft = loss_fn is losses.cross_entropy and not integer_labels
  if integer_labels or loss_fn in _CLASS_LOSSES:
    labels = check_labels('labels', labels, batch, soft)
    if targets is not None:
      targets = check_labels('targets', targets, batch, soft)
  else:
    labels = _own_labels('labels', labels, batch)
    targets = _own_labels('targets', targets, batch)
  if key is not None:
    check_key(key, batch)
  problem = Problem(images, labels, targets, None, key, None, None)
  lower, upper = _check_bounds(bounds, problem)
  if mask is not None:
    mask = _spread('mask', mask, problem, missing=1)
    jax.tree.map(check_mask, mask)
  if epsilon is not None:
    epsilon = number('epsilon', epsilon, problem.dtype, batch)
  if loss_fn in _CLASS_LOSSES:
    _check_network(logits_fn, problem, eot_samples)
  return problem._replace(epsilon=epsilon, lower=lower, upper=upper, mask=mask)


def _check_network(
  logits_fn: LogitsFn, problem: Problem, eot_samples: int | None
) -> None:
  """Checks the logits, against labels and targets that are known classes."""
  images, labels, targets, _, key, *_ = problem
  known = {
    name: x
    for name, x in (('labels', labels), ('targets', targets))
    if isinstance(x, jax.Array | np.ndarray)
    and is_concrete(x)
    and jnp.issubdtype(x.dtype, jnp.integer)
  }
  traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(images))
  if traced or not known:
    return
  example: tuple[Any, ...] = (images,)
  if eot_samples is not None:  # As a random model is called.
    one = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), images
    )
    example = one, jax.eval_shape(lambda key: example_keys(key, 1)[0], key)
  logits = call(output_shape, logits_fn, *example)
  batch = problem.batch if eot_samples is None else 1
  losses.check_logits(logits, batch)
  for name, x in known.items():
    check_classes(name, x, logits.shape[1])


def call(function: Callable[..., Any], *args: Any) -> Any:
  """`function(*args)`, which calls a network; it has to be written in JAX."""
  try:
    return function(*args)
  except TypeError as e:
    is_numpy = isinstance(e, jax.errors.TracerArrayConversionError)
    # The array is said to be a tracer by other frameworks than NumPy.
    if not is_numpy and (
      isinstance(e, jax.errors.JAXTypeError) or 'Tracer' not in str(e)
    ):
      raise
    raise ValueError(
      'logits_fn cannot be traced: it passes its images to NumPy or another '
      'framework; allowed: a function written in JAX'
    ) from e


def combine(floating: Tree, images: Images) -> Images:
  """Images with their floating leaves replaced."""
  return jax.tree.map(
    lambda x, y: y if x is None else x,
    floating,
    images,
    is_leaf=lambda x: x is None,
  )


def per_example(value: Any, dtype: Any, batch: int) -> Array:
  """A scalar or `[B]` as `[B]`."""
  return jnp.broadcast_to(jnp.asarray(value, dtype), (batch,))


def wide(x: Any) -> Any:
  """The dtype of an array, at least float32."""
  return jnp.promote_types(x.dtype, jnp.float32)


def difference(images: Array, originals: Array) -> Array:
  """The perturbation as it is after all rounding, in float32 or better."""
  return images.astype(wide(images)) - originals.astype(wide(originals))


def distance(images: Array, originals: Array) -> Array:
  """|images - originals|, rounded up: by what the difference lost (TwoSum)."""
  a, b = images.astype(wide(images)), originals.astype(wide(originals))
  moved = a - b
  back = moved - a
  lost = (a - (moved - back)) - (b + back)
  more = lost * jnp.sign(moved) > 0
  size = jnp.abs(moved)
  return jnp.where(
    more, jnp.nextafter(size, jnp.full_like(size, jnp.inf)), size
  )


def rounding(size: Array) -> Any:
  """More than the share by which rounding changes the norm of an example.

  XLA sums in trees: a few ulp, whatever the number of terms.
  """
  return 8 * jnp.finfo(size.dtype).eps


def example_keys(key: Any, batch: int) -> Array:
  """One key per example, `[B]`: a scalar key is folded with the row."""
  keys = threefry(key)
  if not keys.ndim:
    rows = jnp.arange(batch, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(keys, rows)
  return keys


def threefry(key: Any) -> Array:
  """Typed threefry keys of any: what `rbg` draws depends on the batch."""
  words: Array = key
  if jnp.issubdtype(words.dtype, jax.dtypes.prng_key):
    words = jax.random.key_data(words)
  # Of the four words of an rbg key the first two.
  words = words[..., :2]
  keys: Array = jax.random.wrap_key_data(words, impl='threefry2x32')
  return keys


# --------------------------------------------------------------- single checks


def error(name: str, value: Any, allowed: str) -> ValueError:
  """The error of an argument; of arrays it gives dtype and shape."""
  return ValueError(f'{name} = {losses.describe(value)}; allowed: {allowed}')


def as_array(name: str, x: Any) -> Any:
  """A JAX array as it is, anything else as a NumPy array in JAX's dtype."""
  if isinstance(x, jax.Array):
    return x
  array = _numbers(name, x, 'an array of numbers')
  dtype = jax.dtypes.canonicalize_dtype(array.dtype.newbyteorder('='))
  found = array.astype(dtype, copy=False)
  if jnp.issubdtype(dtype, jnp.integer) and (found != array).any():
    got = f'{array.min()} to {array.max()}'  # JAX's would wrap, too.
    raise error(name, got, f'numbers of {dtype}')
  return found


def real_array(name: str, x: Any, dtype: Any, allowed: str) -> np.ndarray:
  """Real numbers as a NumPy array of this dtype."""
  array = _numbers(name, x, allowed)
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise error(name, repr(x), allowed)
  with np.errstate(over='ignore'):  # Beyond the range it is infinite.
    return array.astype(dtype)


def _numbers(name: str, x: Any, allowed: str) -> np.ndarray:
  try:
    array = np.asarray(x)
  except (TypeError, ValueError):  # Of rows of different lengths, for one.
    raise error(name, repr(x), allowed) from None
  if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.number):
    raise error(name, array if array.ndim else repr(x), allowed)
  return array


def is_floating(x: Any) -> bool:
  """Whether an array holds floating-point numbers of any width."""
  return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_concrete(x: Any) -> bool:
  """Whether the values of an array are known here, on the host."""
  if isinstance(x, jax.core.Tracer):
    return False
  return not isinstance(x, jax.Array) or x.is_fully_addressable


def check_given(**arguments: Any) -> None:
  """Checks that an epsilon or a key is not None."""
  for name, value in arguments.items():
    if value is None:
      raise error(name, None, f'one {name}, or one per example')


def check_callable(name: str, function: Any) -> None:
  """Checks that an argument can be called."""
  if not callable(function):
    is_array = hasattr(function, 'dtype')
    raise error(name, function if is_array else repr(function), 'a callable')


def count(name: str, value: Any, least: int = 1) -> int:
  """A static count, such as num_steps, as an int."""
  try:
    result = operator.index(value)
  except TypeError:
    result = least - 1
  if result < least:
    raise error(name, repr(value), f'a Python integer >= {least} (static)')
  return result


def number(name: str, value: Any, dtype: Any, batch: int | None = None) -> Any:
  """A finite number >= 0, a scalar (or `[batch]`), as an array."""
  shapes: tuple[Any, ...] = ((),) if batch is None else ((), (batch,))
  allowed = 'a finite number >= 0'
  if batch is not None:
    allowed = f'finite numbers >= 0 of shape () or ({batch},)'
  if value is None:
    raise error(name, value, allowed)
  if is_concrete(value):
    # On the host: one dtype for Python, NumPy and JAX numbers is one
    # compilation, and the cast of a JAX array would be another.
    value = real_array(name, value, dtype, allowed)
    if not np.all((value >= 0) & (value < np.inf)):
      raise error(name, value if value.ndim == 0 else _range(value), allowed)
  if value.shape not in shapes:
    raise error(f'{name}.shape', value.shape, allowed)
  return value


def static_number(
  name: str, value: Any, low: float = 0, high: float = math.inf
) -> float:
  """A static number between two bounds, finite, as a float."""
  try:
    known = isinstance(value, int | float | np.number)
    number = float(value) if known else math.nan
  except (TypeError, ValueError, OverflowError):
    number = math.nan
  if not (low <= number <= high and number <= _MOST):
    allowed = f'in [{low}, {high}]' if high < math.inf else f'>= {low}'
    allowed += ', finite in float32' * (number > _MOST)
    raise error(name, repr(value), f'a Python number {allowed} (static)')
  return number


def check_labels(name: str, labels: Any, batch: int, soft: bool = False) -> Any:
  """Returns an array of one integer class per image, or soft labels."""
  allowed = f'int [{batch}]{f" or float [{batch}, K]" if soft else ""}'
  if not isinstance(labels, jax.Array):
    labels = _numbers(name, labels, allowed)
  per_class = labels.ndim == 2 and labels.shape[0] == batch
  fits = labels.shape == (batch,) and jnp.issubdtype(labels.dtype, jnp.integer)
  is_soft = per_class and labels.shape[1] > 1 and is_floating(labels)
  if fits or (soft and is_soft):
    return as_array(name, labels)
  if per_class:
    column = labels.shape[1] == 1
    allowed += f'; take {name}{"[:, 0]" if column else ".argmax(-1)"}'
  raise error(name, labels if labels.ndim else repr(labels), allowed)


def _own_labels(name: str, labels: Any, batch: int) -> Any:
  """Returns what an own loss takes as arrays; a list of numbers is one."""
  if isinstance(labels, list | tuple) and all(map(np.isscalar, labels)):
    labels = as_array(name, labels) if labels else labels
  labels = jax.tree.map(lambda x: as_array(name, x), labels)
  for x in jax.tree.leaves(labels):
    if x.shape[:1] != (batch,):
      raise error(name, x, f'a leading axis of {batch}, as the images')
  return labels


def check_classes(name: str, labels: Any, num_classes: int) -> None:
  """Checks that integer labels, where they are known, are classes."""
  if is_concrete(labels) and labels.size:
    values = np.asarray(labels)  # On the host, where nothing compiles.
    if values.min() < 0 or values.max() >= num_classes:
      allowed = f'classes in [0, {num_classes}), the logits'
      raise error(name, f'{values.min()} to {values.max()}', allowed)


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
    got = repr(key) if shape is None else f'{dtype} {list(shape)}'
    more = f', or {batch} keys' if batch > 1 else ''
    raise error('key', got, f'one key of jax.random.key{more}')


def check_mask(mask: Any) -> None:
  """Checks that the values of a mask are in [0, 1]."""
  if not _holds(_inside, mask, 0, 1):
    raise error('mask', _range(mask), 'values in [0, 1]')


def _check_bounds(bounds: Bounds, problem: Problem) -> tuple[Tree, Tree]:
  """Bounds over the floating leaves, with the images inside."""
  bounds = (None, None) if bounds is None else bounds
  if not isinstance(bounds, tuple | list) or len(bounds) != 2:
    raise error('bounds', repr(bounds), 'None or a pair (lower, upper)')
  lower = _spread('bounds', bounds[0], problem, missing=-np.inf)
  upper = _spread('bounds', bounds[1], problem, missing=np.inf)

  def check_leaf(images: Any, lower: Any, upper: Any) -> None:
    if not _holds(_ordered, lower, upper):
      raise error('bounds', _range(lower, upper), 'lower <= upper')
    if not _holds(_inside, images, lower, upper):
      allowed = f'finite and inside bounds, {_range(lower, upper)}'
      raise error('images', _range(images), allowed)

  jax.tree.map(check_leaf, problem.originals, lower, upper)
  return lower, upper


def _spread(name: str, prefix: Any, problem: Problem, missing: float) -> Tree:
  """One array per floating leaf of images, from a pytree prefix of them."""

  def shaped(like: Any, value: Any) -> Any:
    """Adds leading axes, so that value broadcasts to `like` axis by axis."""
    value = missing if value is None else value
    if not isinstance(value, jax.Array):
      value = real_array(name, value, wide(like), 'numbers or None')
    elif is_concrete(value) and value.ndim < like.ndim:
      value = np.asarray(value)  # To reshape a JAX array would compile.
    try:
      fits = np.broadcast_shapes(value.shape, like.shape) == like.shape
    except ValueError:
      fits = False
    if not fits:
      allowed = f'what broadcasts to the images, {like.shape}'
      raise error(f'{name}.shape', value.shape, allowed)
    return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)

  leaves, treedef = jax.tree.flatten(problem.images)
  if len(leaves) == 1 and not isinstance(prefix, dict):
    values = [prefix]
  else:
    try:
      full = jax.tree.broadcast(
        prefix, problem.images, is_leaf=lambda x: x is None
      )
    except ValueError as e:
      allowed = f'a number, an array or a pytree prefix of images; {e}'
      raise error(name, jax.tree.structure(prefix), allowed) from None
    values = jax.tree.leaves(full, is_leaf=lambda x: x is None)
  result = [
    shaped(like, value) if is_floating(like) else None
    for like, value in zip(leaves, values, strict=True)
  ]
  return jax.tree.unflatten(treedef, result)


def _range(lower: Any, upper: Any = None) -> str:
  upper = lower if upper is None else upper
  return f'{jnp.min(lower)} to {jnp.max(upper)}'


def _ordered(lower: Any, upper: Any) -> Any:
  return (lower <= upper).all()


def _inside(x: Any, lower: Any, upper: Any) -> Any:
  return ((x >= lower) & (x <= upper) & (abs(x) < np.inf)).all()


def _holds(test: Callable[..., Any], *args: Any) -> bool:
  """Whether a test of values holds; True where they are not known."""
  if not all(is_concrete(x) for x in args):
    return True
  on_cpu = all(
    device.platform == 'cpu'
    for x in args
    if isinstance(x, jax.Array)
    for device in x.devices()
  )
  if on_cpu:
    return bool(test(*(np.asarray(x) for x in args)))
  return bool(jax.jit(test)(*args))  # Without fetching the images.
