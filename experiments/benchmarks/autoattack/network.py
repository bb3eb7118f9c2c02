"""A small network without biases, and what attacks of a reference leave of it.

One npz file holds both: `images` `[N, 28, 28, 1]` in [0, 1], `labels` `[N]`,
the kernels that `logits` names, and per norm and attack
`robust_{linf,l2}_{apgd_ce,apgd_t,fab_t,square,autoattack}`, bool `[N]` or
`[seeds, N]`: True where the image is classified correctly, clean and under
that attack ('autoattack': under all four).
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from advjax.models import layers

KERNELS = tuple(
  f'{name}_kernel' for name in ('conv1', 'conv2', 'conv3', 'dense1', 'dense2')
)
# The standard version of AutoAttack, in its order.
ATTACKS = ('apgd-ce', 'apgd-t', 'fab-t', 'square')
# What the flags in these files are for.
EPSILONS = {'linf': 0.1, 'l2': 1.0}
OWN = (
  pathlib.Path(__file__).parents[3] / 'tests/evaluation/autoattack_digits.npz'
)

_convolve_and_pool = layers.conv_then_max_pool((2, 2))


class Reference(NamedTuple):
  """A network, images, and what attacks of a reference leave standing.

  Attributes:
    kernels: By name.
    images: float32 `[N, 28, 28, 1]`.
    labels: int32 `[N]`.
    robust: norm -> attack -> bool `[seeds, N]`; 'autoattack' is all four.
  """

  kernels: Mapping[str, np.ndarray]
  images: np.ndarray
  labels: np.ndarray
  robust: Mapping[str, Mapping[str, np.ndarray]]


def logits(kernels: Mapping[str, Array], images: Array) -> Array:
  """Three convolutions (VALID, ReLU, two max-pools between), two dense layers.

  Args:
    kernels: conv1_kernel, conv2_kernel, conv3_kernel `[3, 3, I, O]`,
      dense1_kernel and dense2_kernel `[I, O]`; no biases.
    images: `[B, 28, 28, 1]` in [0, 1].

  Returns:
    Logits `[B, 10]`.

  Example:
    >>> import jax.numpy as jnp
    >>> shapes = [(3, 3, 1, 2), (3, 3, 2, 2), (3, 3, 2, 2), (18, 4), (4, 10)]
    >>> kernels = dict(zip(KERNELS, map(jnp.ones, shapes), strict=True))
    >>> logits(kernels, jnp.ones((5, 28, 28, 1))).shape
    (5, 10)
  """
  hidden = images
  for name in KERNELS[:2]:
    hidden = jax.nn.relu(
      _convolve_and_pool(hidden, kernels[name], (1, 1), 'VALID')
    )
  hidden = jax.nn.relu(
    layers.conv_general_dilated(hidden, kernels[KERNELS[2]], (1, 1), 'VALID')
  )
  hidden = hidden.reshape(len(hidden), -1)
  return jax.nn.relu(hidden @ kernels[KERNELS[3]]) @ kernels[KERNELS[4]]


def load(path: pathlib.Path) -> Reference:
  """Reads such a file.

  Args:
    path: The npz file.

  Returns:
    Its content.

  Raises:
    ValueError: if it is not there, or lacks a name.
  """
  if not path.is_file():
    raise ValueError(f"--golden: there is no file '{path}'")
  with np.load(path) as file:
    arrays = dict(file)
  keys = {
    (norm, name): f'robust_{norm}_{name.replace("-", "_")}'
    for norm in EPSILONS
    for name in (*ATTACKS, 'autoattack')
  }
  missing = sorted({'images', 'labels', *KERNELS, *keys.values()} - set(arrays))
  if missing:
    raise ValueError(f"--golden: '{path}' lacks {', '.join(missing)}")
  return Reference(
    kernels={name: arrays[name] for name in KERNELS},
    images=arrays['images'],
    labels=arrays['labels'],
    robust={
      norm: {
        name: np.atleast_2d(arrays[keys[norm, name]])
        for name in (*ATTACKS, 'autoattack')
      }
      for norm in EPSILONS
    },
  )
