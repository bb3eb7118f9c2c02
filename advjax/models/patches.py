"""The patches of images under a window, and their products with kernels."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax


def windows(
  images: Array, window: Sequence[int], strides: Sequence[int]
) -> list[Array]:
  """Returns what each place in a window reads, over all its positions.

  Args:
    images: `[B, H, W, C]`, padded.
    window: Height and width of the window first.
    strides: Two integers.

  Returns:
    A strided slice `[B, H', W', C]` per place, row by row.

  Example:
    >>> [part.shape for part in windows(jnp.ones((1, 5, 5, 2)), (1, 2), (2, 2))]
    [(1, 3, 2, 2), (1, 3, 2, 2)]
  """
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def matmul(
  patches: Array, kernel: Array, precision: lax.PrecisionLike = None
) -> Array:
  """`patches @ kernel`, whose kernel gradient XLA's CPU multiplies faster.

  The gradient of a kernel `[K, N]` is a product over the many rows of both
  factors. Its narrow factor should come first: for 3,200 rows, K = 288 and
  N = 64, `(gradient.T @ patches).T` is faster than
  `patches.T @ gradient`, which is what XLA makes of either unless a barrier
  stands before the last transpose. The rule is a formula of differentiable
  operations, so that derivatives of any order and direction work.
  """
  return jnp.matmul(patches, kernel, precision=precision)


@matmul.defjvp
def _matmul_jvp(
  precision: lax.PrecisionLike,
  primals: tuple[Array, Array],
  tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
  (patches, kernel), (patches_dot, kernel_dot) = primals, tangents
  product = matmul(patches, kernel, precision)
  by_patches = matmul(patches_dot, kernel, precision)
  if kernel.shape[0] <= kernel.shape[1]:
    return product, by_patches + matmul(patches, kernel_dot, precision)
  by_kernel = lax.dot_general(
    lax.optimization_barrier(kernel_dot.T),
    patches,
    (((1,), (1,)), ((), ())),
    precision=precision,
  )
  return product, by_patches + by_kernel.T


def grouped_product(
  parts: Sequence[Array],
  kernel: Array,
  groups: int,
  precision: lax.PrecisionLike = None,
) -> Array:
  """A convolution in groups of channels, as one batched product over them.

  XLA's own has a kernel gradient that takes 15 to 200 times as long on the
  CPU. One product per group would be faster still, but has so many more
  operations to compile.

  Args:
    parts: The images' `windows`, `[B, H', W', I]` each.
    kernel: `[KH, KW, I / groups, O]`.
    groups: Groups of channels that do not see each other.
    precision: Of the product.

  Returns:
    `[B, H', W', O]`.

  Example:
    >>> images, kernel = jnp.ones((1, 5, 5, 4)), jnp.ones((1, 1, 2, 6))
    >>> grouped_product([images], kernel, 2).shape
    (1, 5, 5, 6)
  """
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
