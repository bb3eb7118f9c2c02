"""Residual networks for small and for large images.

Parameters are those of the published networks, to the last one; each function
names its count. The images are in [0, 1] and are centred inside the network,
`(images - 0.5) / 0.25`, so that attacks see pixels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from advjax.config import choose
from advjax.models import layers
from advjax.models.blocks import (
  BasicBlock,
  Bottleneck,
  PreActivationBlock,
  Style,
  convolve,
  normalize,
)

# Kernel and stride of the first convolution.
_STEMS = {'cifar': (3, 1), 'strided': (3, 2), 'imagenet': (7, 2)}


class Stem(nn.Module):
  """The first convolution; 'imagenet' has a 3 x 3 max-pool of stride 2 too.

  Attributes:
    kind: 'cifar' (3 x 3), 'strided' (3 x 3, stride 2) or 'imagenet' (7 x 7,
      stride 2).
    width: Channels.
    activate: Whether norm and ReLU follow; pre-activation blocks bring theirs.
    style: Common to the network.
  """

  kind: str
  width: int
  activate: bool
  style: Style

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    size, stride = _STEMS[self.kind]
    # Centred before bfloat16 rounds, which is finest around 0.
    hidden = (images - 0.5) / 0.25
    hidden = convolve(hidden, self.width, size, stride, self.style, name='conv')
    if self.activate:
      hidden = nn.relu(normalize(hidden, self.style, train, name='norm'))
    if self.kind == 'imagenet':
      hidden = layers.max_pool(hidden, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return hidden


class Stage(nn.Module):
  """Blocks of one width; the first has the stride.

  Attributes:
    block: Makes a block from width, stride and style.
    depth: Blocks.
    width: Of the blocks.
    stride: Of the first block.
    activate: Whether norm and ReLU end the stage.
    style: Common to the network.
  """

  block: Callable[..., nn.Module]
  depth: int
  width: int
  stride: int
  activate: bool
  style: Style

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    hidden = images
    for index in range(self.depth):
      stride = self.stride if index == 0 else 1
      block = self.block(
        self.width, stride, self.style, name=f'block_{index + 1}'
      )
      hidden = block(hidden, train)
    if self.activate:
      hidden = nn.relu(normalize(hidden, self.style, train, name='norm'))
    return hidden


class Architecture(NamedTuple):
  """The shape of a network.

  Attributes:
    block: Makes a block from width, stride and style.
    depths: Blocks of each stage.
    widths: Widths of the stages.
    strides: Strides of the stages.
    stem_width: Channels of the stem.
    activate_stem: Whether norm and ReLU end the stem.
    activate_last: Whether norm and ReLU end the last stage.
  """

  block: Callable[..., nn.Module]
  depths: tuple[int, ...]
  widths: tuple[int, ...] = (64, 128, 256, 512)
  strides: tuple[int, ...] = (1, 2, 2, 2)
  stem_width: int = 64
  activate_stem: bool = True
  activate_last: bool = False


class ResNet(nn.Module):
  """A stem, stages of residual blocks, global average pooling, dense layer.

  Attributes:
    num_classes: Logits.
    architecture: The shape.
    kind: Of the stem: 'cifar', 'strided' or 'imagenet'.
    style: Common to all layers.
  """

  num_classes: int
  architecture: Architecture
  kind: str
  style: Style

  @property
  def stages(self) -> tuple[str, ...]:
    """Names of the parts in params, in the order that images pass them."""
    numbers = range(1, len(self.architecture.depths) + 1)
    return ('stem', *(f'stage_{number}' for number in numbers), 'head')

  def setup(self) -> None:
    shape, style = self.architecture, self.style
    parts: list[nn.Module] = [
      Stem(self.kind, shape.stem_width, shape.activate_stem, style, name='stem')
    ]
    sizes = zip(shape.depths, shape.widths, shape.strides, strict=True)
    for index, (depth, width, stride) in enumerate(sizes):
      activate = shape.activate_last and index == len(shape.depths) - 1
      name = f'stage_{index + 1}'
      parts.append(
        Stage(shape.block, depth, width, stride, activate, style, name=name)
      )
    self.parts = parts
    self.dense = nn.Dense(self.num_classes, name='head')

  def __call__(
    self, images: Array, *, train: bool = False, num_frozen: int = 0
  ) -> Array:
    maps = self.feature_maps(images, train=train, num_frozen=num_frozen)
    return self.logits(maps)

  def feature_maps(
    self, images: Array, *, train: bool = False, num_frozen: int = 0
  ) -> Array:
    """Returns `[B, h, w, C]`, which are pooled next."""
    hidden = images
    for index, part in enumerate(self.parts):
      hidden = part(hidden, train and index >= num_frozen)
    return hidden

  def logits(self, maps: Array) -> Array:
    """Returns `[B, K]` from the feature maps, in float32 at least."""
    wide = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    return self.dense(wide.mean(axis=(1, 2)))

  @nn.nowrap
  def class_weights(self, params: Any) -> Array:
    """Returns the dense layer's kernel `[C, K]`."""
    return params['head']['kernel']


def _wide(depth: int) -> Architecture:
  return Architecture(
    PreActivationBlock,
    (depth, depth, depth),
    (160, 320, 640),
    (1, 2, 2),
    stem_width=16,
    activate_stem=False,
    activate_last=True,
  )


RESIDUAL_NETWORKS = {
  'resnet18': Architecture(BasicBlock, (2, 2, 2, 2)),
  'resnet34': Architecture(BasicBlock, (3, 4, 6, 3)),
  'resnet50': Architecture(Bottleneck, (3, 4, 6, 3)),
  'preact_resnet18': Architecture(
    PreActivationBlock, (2, 2, 2, 2), activate_stem=False
  ),
  'wide_resnet28_10': _wide(4),
  'wide_resnet34_10': _wide(5),
  'resnext29': Architecture(
    functools.partial(Bottleneck, groups=8, group_width=64),
    (3, 3, 3),
    (64, 128, 256),
    (1, 2, 2),
  ),
  'resnext50': Architecture(
    functools.partial(Bottleneck, groups=32, group_width=4), (3, 4, 6, 3)
  ),
}


def residual_network(
  name: str,
  num_classes: int,
  *,
  stem: str = 'cifar',
  normalization: str = 'batch',
  dtype: str = 'float32',
  axis_name: str | None = None,
  axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> ResNet:
  """Builds a published network.

  Parameters with the 'cifar' stem and 10 classes, and with the 'imagenet'
  stem and 1,000 classes:

    resnet18          11,173,962  11,689,512
    resnet34          21,282,122  21,797,672
    resnet50          23,520,842  25,557,032
    preact_resnet18   11,171,146
    wide_resnet28_10  36,479,194
    wide_resnet34_10  46,160,474
    resnext29         34,426,634
    resnext50         22,992,714  25,028,904

  TODO
  """
  return _build(
    RESIDUAL_NETWORKS[choose('residual network', name, RESIDUAL_NETWORKS)],
    num_classes,
    stem,
    Style(normalization, dtype, axis_name, axis_index_groups),
  )


def small_resnet(
  num_classes: int,
  *,
  widths: Sequence[int] = (32, 64, 96),
  stem: str = 'strided',
  normalization: str = 'batch',
  dtype: str = 'float32',
  axis_name: str | None = None,
  axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> ResNet:
  """Builds a ResNet for CPUs: one basic block per stage.

  TODO
  """
  if not widths:
    raise ValueError('model.widths = (); allowed: one width or more')
  return _build(
    Architecture(
      BasicBlock,
      depths=(1,) * len(widths),
      widths=tuple(widths),
      # The last maps are not halved again: they are what CAM shows.
      strides=(*(2 for _ in widths[1:]), 1),
      stem_width=widths[0],
    ),
    num_classes,
    stem,
    Style(normalization, dtype, axis_name, axis_index_groups),
  )


def _build(
  architecture: Architecture, num_classes: int, stem: str, style: Style
) -> ResNet:
  choose('model.stem', stem, _STEMS)
  choose('model.normalization', style.normalization, ('batch', 'group'))
  choose('model.dtype', style.dtype, ('float32', 'bfloat16'))
  return ResNet(num_classes, architecture, stem, style)
