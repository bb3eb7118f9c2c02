"""Convolution and max-pooling that are fast on every platform.

On GPU and TPU they are XLA's own. On the CPU, XLA's convolution is slow
inside loops and its gradient is slow everywhere, and so is the gradient of
`reduce_window`; there, a convolution is patches times a matrix, and a pool the
maximum of blocks or of strided slices. `jax.lax.platform_dependent` picks at
lowering time, so that one traced program serves every platform. All forms are
made of differentiable operations: gradients of any order, forward mode, vmap,
scan and pmap work.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from advjax.models.patches import grouped_product, matmul, windows

Padding = str | Sequence[tuple[int, int]]

# On the CPU, batches of this size or more go through a convolution in parts.
_LARGE_BATCH = 128
_ROWS_AT_ONCE = range(8, 17)

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

  Args:
    lhs: Images `[B, H, W, I]`.
    rhs: Kernel `[KH, KW, I / groups, O]`.
    window_strides: Two integers.
    padding: 'VALID', 'SAME' or pairs of integers.
    lhs_dilation: As in `jax.lax`; if not 1, its convolution is taken on every
      platform, and so it is for other than two dimensions.
    rhs_dilation: Likewise.
    dimension_numbers: Likewise.
    feature_group_count: Likewise.
    precision: Of the products.

  Returns:
    `[B, H', W', O]`.

  Example:
    >>> images, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
    >>> conv_general_dilated(images, kernel, (1, 1), 'VALID').shape
    (1, 3, 3, 4)
  """

  def plain(lhs: Array, rhs: Array) -> Array:
    return lax.conv_general_dilated(
      lhs,
      rhs,
      window_strides,
      padding,
      lhs_dilation=lhs_dilation,
      rhs_dilation=rhs_dilation,
      dimension_numbers=dimension_numbers,
      feature_group_count=feature_group_count,
      precision=precision,
    )

  dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
  if (
    lhs.ndim != 4
    or any(dilation != 1 for dilation in dilations)
    or dimension_numbers != _NHWC
  ):
    return plain(lhs, rhs)
  pads = _explicit_pads(lhs.shape, rhs.shape, window_strides, padding)

  def cpu(lhs: Array, rhs: Array) -> Array:
    return _in_parts(
      lambda part: conv_by_matmul(
        part, rhs, window_strides, pads, precision, feature_group_count
      ),
      lhs,
    )

  return lax.platform_dependent(lhs, rhs, cpu=cpu, default=plain)


def conv_by_matmul(
  images: Array,
  kernel: Array,
  strides: Sequence[int],
  pads: Sequence[tuple[int, int]],
  precision: lax.PrecisionLike = None,
  groups: int = 1,
) -> Array:
  """The convolution as patches times a matrix.

  Args:
    images: `[B, H, W, I]`.
    kernel: `[KH, KW, I / groups, O]`.
    strides: Two integers.
    pads: Zeros before and after, of the height and of the width.
    precision: Of the matrix product.
    groups: Groups of channels that do not see each other.

  Returns:
    `[B, H', W', O]`.
  """
  parts = windows(_pad(images, pads, 0), kernel.shape, strides)
  if groups > 1:
    return grouped_product(parts, kernel, groups, precision)
  patches = jnp.concatenate(parts, axis=-1)
  # In two dimensions: for the kernel's gradient of an array of four, XLA
  # copies the outputs' gradient transposed first (a fifth of a step).
  product = matmul(
    patches.reshape(-1, patches.shape[-1]),
    kernel.reshape(-1, kernel.shape[-1]),
    precision,
  )
  return product.reshape(*patches.shape[:-1], kernel.shape[-1])


def max_pool(
  images: Array,
  window: Sequence[int],
  strides: Sequence[int] = (1, 1),
  padding: Padding = 'VALID',
) -> Array:
  """The maximum of each window, as `nn.max_pool`.

  Args:
    images: `[B, H, W, C]`.
    window: Height and width of the window.
    strides: Two integers.
    padding: 'VALID', 'SAME' or pairs of integers.

  Returns:
    `[B, H', W', C]`; the gradient goes to the first maximum of a window.

  Example:
    >>> images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> max_pool(images, (2, 2), (2, 2))[0, :, :, 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
  """
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
      return max_pool_by_slices(images, window, strides, pads)
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

  Its derivative is a selection by a mask. That of `jnp.max` shares among
  equal maxima; that of strided slices pads and adds, and makes a training step
  a tenth and an attack a fifth slower. The rule is a formula, not a pair of
  passes: it is differentiated forwards, backwards and again as any other.
  """
  blocks = _blocks(images, window)
  # Not `max(axis=(2, 4))`: from some size on, XLA's takes NaN for the smallest.
  return functools.reduce(
    jnp.maximum, (blocks[:, :, i, :, j] for i, j in _places(window))
  )


@max_pool_by_blocks.defjvp
def _max_pool_by_blocks_jvp(
  window: tuple[int, int], primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
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
  # of training steps, once for each use, and is then blind to what the clean
  # passes of NSL's objective have in common (a fifth of a step).
  first = (
    row[:, :, None, :, None] == lax.broadcasted_iota(jnp.int32, blocks.shape, 2)
  ) & (
    column[:, :, None, :, None]
    == lax.broadcasted_iota(jnp.int32, blocks.shape, 4)
  )
  tangent = jnp.where(first, _blocks(tangents[0], window), 0).sum(axis=(2, 4))
  return maximum, tangent


def _places(window: Sequence[int]) -> list[tuple[int, int]]:
  return list(itertools.product(range(window[0]), range(window[1])))


def _blocks(images: Array, window: tuple[int, int]) -> Array:
  """`[B, H, W, C]` as `[B, H / KH, KH, W / KW, KW, C]`."""
  batch, height, width, channels = images.shape
  return images.reshape(
    batch,
    height // window[0],
    window[0],
    width // window[1],
    window[1],
    channels,
  )


def max_pool_by_slices(
  images: Array,
  window: Sequence[int],
  strides: Sequence[int],
  pads: Sequence[tuple[int, int]],
) -> Array:
  """The maximum of strided slices, one per place, for windows that overlap."""
  first, *others = windows(_pad(images, pads, -jnp.inf), window, strides)
  maximum = first
  for other in others:
    # A strict comparison keeps the first of equal ones, and so the gradient.
    take = (other > maximum) | jnp.isnan(other)
    maximum = jnp.where(take, other, maximum)
  return maximum


def conv_then_max_pool(window: Sequence[int]) -> Callable[..., Array]:
  """A convolution and the maximum of each window, for `nn.Conv` to call.

  `nn.Conv` then adds its bias to one number instead of one per place in the
  window, and a ReLU can follow: neither changes which number is the largest.
  Outputs that no window reads (an odd size has some) are not computed.

  Args:
    window: Height and width of the windows, which do not overlap.

  Returns:
    What `nn.Conv(conv_general_dilated=...)` takes, for two dimensions without
    dilation.

  Example:
    >>> images, kernel = jnp.ones((1, 7, 7, 2)), jnp.ones((3, 3, 2, 4))
    >>> conv_then_max_pool((2, 2))(images, kernel, (1, 1), 'VALID').shape
    (1, 2, 2, 4)
  """

  def convolve(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    **geometry: Any,
  ) -> Array:
    pads = _explicit_pads(lhs.shape, rhs.shape, window_strides, padding)
    used = []
    for axis, (low, high) in enumerate(pads):
      span = lhs.shape[axis + 1] + low + high - rhs.shape[axis]
      unread = (span // window_strides[axis] + 1) % window[axis]
      used.append((low, high - unread * window_strides[axis]))

    def whole(lhs: Array, rhs: Array) -> Array:
      # Negative padding crops.
      outputs = conv_general_dilated(lhs, rhs, window_strides, used, **geometry)
      return max_pool(outputs, window, window)

    def cpu(lhs: Array, rhs: Array) -> Array:
      return _in_parts(lambda part: whole(part, rhs), lhs)

    if not _part_size(len(lhs)):  # Two branches of the same would be traced.
      return whole(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=cpu, default=whole)

  return convolve


def _in_parts(function: Callable[[Array], Array], images: Array) -> Array:
  """Applies it to a few rows at a time, whose patches stay in the caches."""
  size = _part_size(len(images))
  if not size:
    return function(images)
  parts = images.reshape(-1, size, *images.shape[1:])
  results = lax.map(function, parts)
  return results.reshape(len(images), *results.shape[2:])


def _part_size(batch: int) -> int:
  """Returns the rows of a part, or 0 for batches that stay whole."""
  sizes = [size for size in _ROWS_AT_ONCE if batch % size == 0]
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
