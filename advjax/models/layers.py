"""Convolution and max-pooling that are fast on every platform.

On GPU and TPU they are XLA's own. On the CPU, whose gradients of both are slow,
a convolution is patches times a matrix, and a pool the maximum of blocks or of
strided slices. `jax.lax.platform_dependent` picks at lowering time. All forms
are made of differentiable operations: gradients of any order work.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Padding = str | Sequence[tuple[int, int]]
Pair = tuple[Array, Array]

# On the CPU, batches of this size or more go through a convolution in parts.
_LARGE_BATCH = 128
_PART_SIZES = range(8, 17)

_NHWC = lax.conv_dimension_numbers(
  (1, 1, 1, 1), (1, 1, 1, 1), ('NHWC', 'HWIO', 'NHWC')
)


def conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: Padding,
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: lax.ConvDimensionNumbers = _NHWC,
  feature_group_count: int = 1,
  precision: lax.PrecisionLike = None,
) -> Array:
  """`jax.lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=...)`.

  With dilation, or in other than two dimensions, it is JAX's own convolution.
  """
  plain = functools.partial(
    lax.conv_general_dilated,
    window_strides=window_strides,
    padding=padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
  )
  is_dilated = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
  if lhs.ndim != 4 or is_dilated or dimension_numbers != _NHWC:
    return plain(lhs, rhs)
  pads = _explicit_pads(lhs.shape, rhs.shape, window_strides, padding)

  def cpu(lhs: Array, rhs: Array) -> Array:
    return _in_parts(
      lambda part: _conv_by_matmul(
        part, rhs, window_strides, pads, feature_group_count, precision
      ),
      lhs,
    )

  return lax.platform_dependent(lhs, rhs, cpu=cpu, default=plain)


def _conv_by_matmul(
  images: Array,
  kernel: Array,
  strides: Sequence[int],
  pads: Sequence[tuple[int, int]],
  groups: int,
  precision: lax.PrecisionLike,
) -> Array:
  """The convolution as patches times a matrix."""
  parts = _windows(_pad(images, pads, 0), kernel.shape, strides)
  if groups > 1:
    # XLA's own has a kernel gradient that takes 15 to 200 times as long on the
    # CPU. One product per group would be faster still, but has so many more
    # operations to compile.
    *shape, channels = parts[0].shape
    patches = jnp.stack(
      [part.reshape(-1, groups, channels // groups) for part in parts], axis=2
    )
    product = lax.dot_general(
      patches.reshape(*patches.shape[:2], -1),
      kernel.reshape(-1, groups, kernel.shape[-1] // groups),
      (((2,), (0,)), ((1,), (1,))),
      precision=precision,
    )
    return jnp.moveaxis(product, 0, 1).reshape(*shape, -1)
  patches = jnp.concatenate(parts, axis=-1)
  # In two dimensions: for the kernel's gradient of an array of four, XLA
  # copies the outputs' gradient transposed first (a fifth of a step).
  product = _matmul(
    patches.reshape(-1, patches.shape[-1]),
    kernel.reshape(-1, kernel.shape[-1]),
    precision,
  )
  return product.reshape(*patches.shape[:-1], kernel.shape[-1])


def _windows(
  images: Array, window: Sequence[int], strides: Sequence[int]
) -> list[Array]:
  """A strided slice `[B, H', W', C]` per place in the window, row by row."""
  batch, height, width, channels = images.shape
  rows = (height - window[0]) // strides[0] * strides[0] + 1
  columns = (width - window[1]) // strides[1] * strides[1] + 1
  return [
    lax.slice(
      images,
      (0, i, j, 0),
      (batch, i + rows, j + columns, channels),
      (1, *strides, 1),
    )
    for i, j in _places(window)
  ]


def _places(window: Sequence[int]) -> list[tuple[int, int]]:
  return list(itertools.product(range(window[0]), range(window[1])))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _matmul(
  patches: Array, kernel: Array, precision: lax.PrecisionLike
) -> Array:
  """`patches @ kernel`, whose kernel gradient XLA's CPU multiplies faster."""
  return jnp.matmul(patches, kernel, precision=precision)


@_matmul.defjvp
def _matmul_jvp(
  precision: lax.PrecisionLike, primals: Pair, tangents: Pair
) -> Pair:
  # The gradient of a kernel [K, N] is a product over the many rows of both
  # factors. Its narrow factor should come first: for 3,200 rows, K = 288 and
  # N = 64, `(gradient.T @ patches).T` is faster than `patches.T @ gradient`,
  # which is what XLA makes of either unless a barrier precedes the last
  # transpose. The rule is a formula of differentiable operations, so that
  # derivatives of any order and direction work.
  (patches, kernel), (patches_dot, kernel_dot) = primals, tangents
  product = _matmul(patches, kernel, precision)
  by_patches = _matmul(patches_dot, kernel, precision)
  if kernel.shape[0] <= kernel.shape[1]:
    return product, by_patches + _matmul(patches, kernel_dot, precision)
  by_kernel = lax.dot_general(
    lax.optimization_barrier(kernel_dot.T),
    patches,
    (((1,), (1,)), ((), ())),
    precision=precision,
  )
  return product, by_patches + by_kernel.T


def max_pool(
  images: Array,
  window: Sequence[int],
  strides: Sequence[int] = (1, 1),
  padding: Padding = 'VALID',
) -> Array:
  """The maximum of each window, as `nn.max_pool`; of equal ones the first."""
  pads = _explicit_pads(images.shape, window, strides, padding)

  def plain(images: Array) -> Array:
    return lax.reduce_window(
      images,
      -jnp.inf,
      lax.max,
      (1, *window, 1),
      (1, *strides, 1),
      ((0, 0), *pads, (0, 0)),
    )

  def cpu(images: Array) -> Array:
    if tuple(window) != tuple(strides):
      first, *others = _windows(_pad(images, pads, -jnp.inf), window, strides)
      for other in others:
        # A strict comparison keeps the first of equal ones, and the gradient.
        first = jnp.where((other > first) | jnp.isnan(other), other, first)
      return first
    # Negative padding crops the rows and columns that no window reads.
    used = [
      (low, high - (size + low + high) % width)
      for size, (low, high), width in zip(
        images.shape[1:3], pads, window, strict=True
      )
    ]
    return max_pool_by_blocks(_pad(images, used, -jnp.inf), tuple(window))

  return lax.platform_dependent(images, cpu=cpu, default=plain)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_pool_by_blocks(images: Array, window: tuple[int, int]) -> Array:
  """The maximum of adjacent blocks, which fill the images.

  Its derivative is a selection by a mask. That of `jnp.max` shares among equal
  maxima; that of strided slices pads and adds, and makes a training step a
  tenth and an attack a fifth slower.
  """
  blocks = _blocks(images, window)
  # Not `max(axis=(2, 4))`: from some size on, XLA's takes NaN for the smallest.
  return functools.reduce(
    jnp.maximum, (blocks[:, :, i, :, j] for i, j in _places(window))
  )


@max_pool_by_blocks.defjvp
def _max_pool_by_blocks_jvp(
  window: tuple[int, int], primals: tuple[Array], tangents: tuple[Array]
) -> Pair:
  blocks = _blocks(primals[0], window)
  maximum = max_pool_by_blocks(primals[0], window)
  row = jnp.full(maximum.shape, window[0] - 1, jnp.int32)
  column = jnp.full(maximum.shape, window[1] - 1, jnp.int32)
  # Backwards, so that the first of equal ones is taken last.
  for i, j in _places(window)[-2::-1]:
    equal = blocks[:, :, i, :, j] == maximum
    row = jnp.where(equal, i, row)
    column = jnp.where(equal, j, column)
  # Two comparisons with bare iotas: XLA moves a sum of iotas out of the loop
  # of training steps, once for each use, and then does not find what the clean
  # passes of NSL's objective have in common (a fifth of a step).
  first = (
    row[:, :, None, :, None] == lax.broadcasted_iota(jnp.int32, blocks.shape, 2)
  ) & (
    column[:, :, None, :, None]
    == lax.broadcasted_iota(jnp.int32, blocks.shape, 4)
  )
  tangent = jnp.where(first, _blocks(tangents[0], window), 0).sum(axis=(2, 4))
  return maximum, tangent


def _blocks(images: Array, window: tuple[int, int]) -> Array:
  """`[B, H, W, C]` as `[B, H / KH, KH, W / KW, KW, C]`."""
  batch, height, width, channels = images.shape
  rows, columns = height // window[0], width // window[1]
  return images.reshape(batch, rows, window[0], columns, window[1], channels)


def conv_then_max_pool(window: Sequence[int]) -> Callable[..., Array]:
  """A convolution and the maximum of each window, for `nn.Conv` to call.

  `nn.Conv` then adds its bias to one number per window. Outputs that no window
  reads (an odd size has some) are not computed.
  """

  def convolve(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    **options: Any,
  ) -> Array:
    pads = _explicit_pads(lhs.shape, rhs.shape, window_strides, padding)
    used = []
    for axis, (low, high) in enumerate(pads):
      span = lhs.shape[axis + 1] + low + high - rhs.shape[axis]
      unread = (span // window_strides[axis] + 1) % window[axis]
      used.append((low, high - unread * window_strides[axis]))

    def whole(lhs: Array, rhs: Array) -> Array:
      # Negative padding crops.
      outputs = conv_general_dilated(lhs, rhs, window_strides, used, **options)
      return max_pool(outputs, window, window)

    def cpu(lhs: Array, rhs: Array) -> Array:
      return _in_parts(lambda part: whole(part, rhs), lhs)

    # Two branches of the same would be traced.
    if not _part_size(lhs.shape[0]):
      return whole(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=cpu, default=whole)

  return convolve


def _in_parts(function: Callable[[Array], Array], images: Array) -> Array:
  """Applies it to a few rows at a time, whose patches stay in the caches."""
  size = _part_size(images.shape[0])
  if not size:
    return function(images)
  parts = images.reshape(-1, size, *images.shape[1:])
  results = lax.map(function, parts)
  return results.reshape(images.shape[0], *results.shape[2:])


def _part_size(batch: Any) -> int:
  """The rows of a part, or 0 for batches that stay whole.

  As those of a free size do, `jax.export.symbolic_shape('b')`.
  """
  if not isinstance(batch, int):
    return 0
  sizes = [size for size in _PART_SIZES if batch % size == 0]
  return max(sizes, default=0) if batch >= _LARGE_BATCH else 0


def _explicit_pads(
  shape: Sequence[int],
  window: Sequence[int],
  strides: Sequence[int],
  padding: Padding,
) -> list[tuple[int, int]]:
  if isinstance(padding, str):
    pads = lax.padtype_to_pads(shape[1:3], window[:2], strides, padding)
    return [(int(low), int(high)) for low, high in pads]
  return [(low, high) for low, high in padding]


def _pad(images: Array, pads: Sequence[tuple[int, int]], value: float) -> Array:
  config = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
  return lax.pad(images, jnp.asarray(value, images.dtype), config)
