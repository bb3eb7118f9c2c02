"""Convolution and max-pooling that are fast on every platform.

On GPU and TPU they are XLA's own. On the CPU, XLA's convolution is slow
inside loops and its gradient is slow everywhere, and so is the gradient of
`reduce_window`; there, a convolution is patches times a matrix, and a pool is
the maximum of strided slices. `jax.lax.platform_dependent` picks at lowering
time, so that one traced program serves every platform. Both forms are made of
differentiable operations: gradients of any order, forward mode, vmap, scan
and pmap all work.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

Padding = str | Sequence[tuple[int, int]]

_NHWC = lax.conv_dimension_numbers(
  (1, 1, 1, 1), (1, 1, 1, 1), ('NHWC', 'HWIO', 'NHWC')
)


def conv(
  images: Array,
  kernel: Array,
  strides: tuple[int, int] = (1, 1),
  padding: Padding = 'SAME',
) -> Array:
  """Convolves NHWC images with an HWIO kernel, as `nn.Conv` does."""
  return conv_general_dilated(images, kernel, strides, padding)


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
  """`jax.lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=...)`."""

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
    or feature_group_count != 1
    or dimension_numbers != _NHWC
  ):
    return plain(lhs, rhs)
  pads = _explicit_pads(lhs.shape, rhs.shape[:2], window_strides, padding)

  def cpu(lhs: Array, rhs: Array) -> Array:
    return conv_by_matmul(lhs, rhs, tuple(window_strides), pads, precision)

  return lax.platform_dependent(lhs, rhs, cpu=cpu, default=plain)


def conv_by_matmul(
  images: Array,
  kernel: Array,
  strides: tuple[int, ...],
  pads: Sequence[tuple[int, int]],
  precision: lax.PrecisionLike = None,
) -> Array:
  """The convolution as patches times a matrix.

  Args:
    images: `[B, H, W, I]`.
    kernel: `[KH, KW, I, O]`.
    strides: two integers.
    pads: zeros before and after each of height and width.
    precision: of the matrix product.

  Returns:
    `[B, H', W', O]`, in the dtype of images.
  """
  windows = _windows(_pad(images, pads, 0), kernel.shape[:2], strides)
  patches = jnp.concatenate(windows, axis=-1)
  # Two dimensions each: for the kernel's gradient, XLA would transpose an
  # array of four dimensions in memory first (a fifth of a training step).
  product = jnp.matmul(
    patches.reshape(-1, patches.shape[-1]),
    kernel.reshape(-1, kernel.shape[-1]),
    precision=precision,
  )
  return product.reshape(*patches.shape[:-1], kernel.shape[-1])


def max_pool(
  images: Array,
  window: tuple[int, int],
  strides: tuple[int, int] | None = None,
  padding: Padding = 'VALID',
) -> Array:
  """The maximum of each window, as `nn.max_pool`.

  Args:
    images: `[B, H, W, C]`.
    window: height and width of the window.
    strides: two integers; (1, 1) by default, as in `nn.max_pool`.
    padding: 'VALID', 'SAME' or pairs of integers.

  Returns:
    `[B, H', W', C]`; the gradient goes to the first maximum of a window.
  """
  strides = strides or (1, 1)
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
    return max_pool_by_slices(images, window, strides, pads)

  return lax.platform_dependent(images, cpu=cpu, default=plain)


def max_pool_by_slices(
  images: Array,
  window: tuple[int, int],
  strides: tuple[int, int],
  pads: Sequence[tuple[int, int]],
) -> Array:
  """The maximum of strided slices, one per place in the window."""
  first, *others = _windows(_pad(images, pads, -jnp.inf), window, strides)
  maximum = first
  for other in others:
    # A strict comparison keeps the first of equal ones, and so the gradient.
    take = (other > maximum) | jnp.isnan(other)
    maximum = jnp.where(take, other, maximum)
  return maximum


def _explicit_pads(
  shape: Sequence[int],
  window: Sequence[int],
  strides: Sequence[int],
  padding: Padding,
) -> list[tuple[int, int]]:
  if isinstance(padding, str):
    return lax.padtype_to_pads(shape[1:3], window, strides, padding)
  return [(low, high) for low, high in padding]


def _pad(images: Array, pads: Sequence[tuple[int, int]], value: float) -> Array:
  config = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
  return lax.pad(images, jnp.asarray(value, images.dtype), config)


def _windows(
  images: Array, window: Sequence[int], strides: Sequence[int]
) -> list[Array]:
  """One strided slice `[B, H', W', C]` per place in the window, in order."""
  batch, height, width, channels = images.shape
  rows = (height - window[0]) // strides[0] + 1
  columns = (width - window[1]) // strides[1] + 1
  return [
    lax.slice(
      images,
      (0, i, j, 0),
      (
        batch,
        i + (rows - 1) * strides[0] + 1,
        j + (columns - 1) * strides[1] + 1,
        channels,
      ),
      (1, *strides, 1),
    )
    for i, j in itertools.product(range(window[0]), range(window[1]))
  ]
