"""Residual networks for small and for large images.

The images are in [0, 1] and are centred inside the network, so that attacks see
pixels.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from advjax.config import choose
from advjax.models import layers

# Kernel and stride of the first convolution: for images of 32 or 64 pixels, of
# 64, and of about 224.
_STEMS = {'cifar': (3, 1), 'strided': (3, 2), 'imagenet': (7, 2)}

# Fan-out, which the images' gradient sees (He et al. 2015), as in the papers'
# code. The scales of all norms start at 1, also those that end a block.
_he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Style(NamedTuple):
  """What all layers of a network have in common."""

  normalization: str = 'batch'
  dtype: str = 'float32'
  axis_name: str | None = None
  axis_index_groups: Any = None


class Part(nn.Module):
  """Makes the layers of a network in its style."""

  style: Style

  @property
  def dtype(self) -> Any:
    """Flax's dtype: None takes that of images and parameters, if wider."""
    return jnp.bfloat16 if self.style.dtype == 'bfloat16' else None

  def conv(
    self,
    hidden: Array,
    channels: int,
    size: int,
    stride: int = 1,
    *,
    name: str,
    groups: int = 1,
  ) -> Array:
    """Pads alike on all sides, as PyTorch does; 'SAME' would not."""
    pad = size // 2
    return nn.Conv(
      channels,
      (size, size),
      strides=(stride, stride),
      padding=((pad, pad), (pad, pad)),
      feature_group_count=groups,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_he_normal,
      conv_general_dilated=layers.conv_general_dilated,
      name=name,
    )(hidden)

  def norm(self, hidden: Array, train: bool, *, name: str) -> Array:
    """BatchNorm, or GroupNorm with 16 channels in a group (Wu and He 2018)."""
    if self.style.normalization == 'group':
      # A network may be narrower than 16, or end in an odd number of them.
      return nn.GroupNorm(
        num_groups=None,
        group_size=math.gcd(hidden.shape[-1], 16),
        epsilon=1e-5,
        dtype=self.dtype,
        name=name,
      )(hidden)
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name=self.style.axis_name,
      axis_index_groups=self.style.axis_index_groups,
      name=name,
    )(hidden)


class Block(Part):
  """What the residual blocks have in common."""

  width: int  # Channels; a quarter of them in a bottleneck.
  stride: int

  def shortcut(self, images: Array, channels: int, train: bool) -> Array:
    """The block's images, through `conv_0` and `norm_0` at a new shape."""
    if self.stride == 1 and images.shape[-1] == channels:
      return images
    shortcut = self.conv(images, channels, 1, self.stride, name='conv_0')
    return self.norm(shortcut, train, name='norm_0')


class BasicBlock(Block):
  """Two 3 x 3 convolutions (He et al. 2015, arXiv 1512.03385)."""

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    hidden = self.conv(images, self.width, 3, self.stride, name='conv_1')
    hidden = nn.relu(self.norm(hidden, train, name='norm_1'))
    hidden = self.conv(hidden, self.width, 3, name='conv_2')
    hidden = self.norm(hidden, train, name='norm_2')
    return nn.relu(hidden + self.shortcut(images, hidden.shape[-1], train))


class Bottleneck(Block):
  """1 x 1, 3 x 3 and 1 x 1 convolution; the 3 x 3 has the stride and groups."""

  groups: int = 1  # More: ResNeXt (Xie et al. 2016, arXiv 1611.05431).
  group_width: int = 64  # Channels of a group, where width is 64.

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    inner = self.width * self.group_width // 64 * self.groups
    hidden = self.conv(images, inner, 1, name='conv_1')
    hidden = nn.relu(self.norm(hidden, train, name='norm_1'))
    hidden = self.conv(
      hidden, inner, 3, self.stride, name='conv_2', groups=self.groups
    )
    hidden = nn.relu(self.norm(hidden, train, name='norm_2'))
    hidden = self.conv(hidden, 4 * self.width, 1, name='conv_3')
    hidden = self.norm(hidden, train, name='norm_3')
    return nn.relu(hidden + self.shortcut(images, hidden.shape[-1], train))


class PreActivationBlock(Block):
  """Norm and ReLU before each convolution (He et al. 2016, 1603.05027)."""

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    active = nn.relu(self.norm(images, train, name='norm_1'))
    hidden = self.conv(active, self.width, 3, self.stride, name='conv_1')
    hidden = nn.relu(self.norm(hidden, train, name='norm_2'))
    hidden = self.conv(hidden, self.width, 3, name='conv_2')
    if images.shape == hidden.shape:
      return hidden + images
    return hidden + self.conv(active, self.width, 1, self.stride, name='conv_0')


class PoolingBlock(Block):
  """A convolution and max-pooling, or two convolutions around a shortcut.

  The blocks of Page's ResNet-9, with the pool before the norm. The stride must
  divide the images' height and width.
  """

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    hidden = self.conv(images, self.width, 3, name='conv_1')
    if self.stride > 1:
      # On all platforms: XLA's own gradient of a pool is a scatter on GPUs.
      hidden = layers.max_pool_by_blocks(hidden, (self.stride, self.stride))
    hidden = nn.relu(self.norm(hidden, train, name='norm_1'))
    if self.stride > 1:
      return hidden
    hidden = self.conv(hidden, self.width, 3, name='conv_2')
    return images + nn.relu(self.norm(hidden, train, name='norm_2'))


class Stem(Part):
  """The first convolution; 'imagenet' has a 3 x 3 max-pool of stride 2 too."""

  kind: str
  width: int
  activate: bool  # By norm and ReLU; pre-activation blocks bring theirs.

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    size, stride = _STEMS[self.kind]
    # Centred before bfloat16 rounds, which is finest around 0.
    hidden = (images - 0.5) / 0.25
    hidden = self.conv(hidden, self.width, size, stride, name='conv')
    if self.activate:
      hidden = nn.relu(self.norm(hidden, train, name='norm'))
    if self.kind == 'imagenet':
      hidden = layers.max_pool(hidden, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return hidden


class Stage(Part):
  """Blocks of one width, of which the first has the stride."""

  block: Callable[..., nn.Module]
  depth: int
  width: int
  stride: int
  activate: bool  # By norm and ReLU, at the end.

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    hidden = images
    for index in range(self.depth):
      stride = self.stride if index == 0 else 1
      name = f'block_{index + 1}'
      block = self.block(self.style, self.width, stride, name=name)
      hidden = block(hidden, train)
    if self.activate:
      hidden = nn.relu(self.norm(hidden, train, name='norm'))
    return hidden


class Architecture(NamedTuple):
  """The shape of a network, stage by stage."""

  block: Callable[..., nn.Module]  # From style, width and stride.
  depths: tuple[int, ...]
  widths: tuple[int, ...] = (64, 128, 256, 512)
  strides: tuple[int, ...] = (1, 2, 2, 2)
  stem_width: int = 64
  activate_stem: bool = True
  activate_last: bool = False


class ResNet(nn.Module):
  """A stem, stages of blocks, global average pooling and a dense layer."""

  num_classes: int
  architecture: Architecture
  stem_kind: str
  style: Style

  @property
  def stages(self) -> tuple[str, ...]:
    """Names of the parts in params, in the order that images pass them."""
    numbers = range(1, len(self.architecture.depths) + 1)
    return ('stem', *(f'stage_{number}' for number in numbers), 'head')

  def setup(self) -> None:
    shape, style = self.architecture, self.style
    stem, *names, _ = self.stages
    parts: list[nn.Module] = [
      Stem(
        style, self.stem_kind, shape.stem_width, shape.activate_stem, name=stem
      )
    ]
    sizes = zip(shape.depths, shape.widths, shape.strides, strict=True)
    for name, (depth, width, stride) in zip(names, sizes, strict=True):
      activate = shape.activate_last and name == names[-1]
      parts.append(
        Stage(style, shape.block, depth, width, stride, activate, name=name)
      )
    self.parts = parts
    self.dense = nn.Dense(self.num_classes, name='head')

  def __call__(
    self, images: Array, *, train: bool = False, num_frozen: int = 0
  ) -> Array:
    """Returns logits `[B, K]`; so many stages run as in evaluation."""
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


_wide = functools.partial(
  Architecture,
  PreActivationBlock,
  widths=(160, 320, 640),
  strides=(1, 2, 2),
  stem_width=16,
  activate_stem=False,
  activate_last=True,
)
# Page 2018, "How to train your ResNet"; He et al. 2015 and 2016, arXiv
# 1512.03385 and 1603.05027; Zagoruyko and Komodakis 2016, arXiv 1605.07146; Xie
# et al. 2016, arXiv 1611.05431. resnet18, 34, 50 and resnext50 have
# torchvision's layers. preact_resnet18 has no norm and ReLU after its last
# block, as in the code for CIFAR that most papers on robustness use. resnet9
# pools its last maps by the mean, and its dense layer has a bias.
RESIDUAL_NETWORKS = {
  'resnet9': Architecture(PoolingBlock, (2, 1, 2), (128, 256, 512), (2, 2, 2)),
  'resnet18': Architecture(BasicBlock, (2, 2, 2, 2)),
  'resnet34': Architecture(BasicBlock, (3, 4, 6, 3)),
  'resnet50': Architecture(Bottleneck, (3, 4, 6, 3)),
  'preact_resnet18': Architecture(
    PreActivationBlock, (2, 2, 2, 2), activate_stem=False
  ),
  'wide_resnet28_10': _wide((4, 4, 4)),
  'wide_resnet34_10': _wide((5, 5, 5)),
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
  architecture: Architecture,
  num_classes: int,
  *,
  stem: str = 'cifar',
  normalization: str = 'batch',
  dtype: str = 'float32',
  axis_name: str | None = None,
  axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> ResNet:
  """Builds a residual network as it was published, without its weights."""
  choose('model.stem', stem, _STEMS)
  choose('model.normalization', normalization, ('batch', 'group'))
  choose('model.dtype', dtype, ('float32', 'bfloat16'))
  style = Style(normalization, dtype, axis_name, axis_index_groups)
  return ResNet(num_classes, architecture, stem, style)


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
  """Builds a ResNet for CPUs: a basic block per stage, 225,204 parameters."""
  if not widths:
    raise ValueError('model.widths = (); allowed: one integer >= 1 or more')
  architecture = Architecture(
    BasicBlock,
    depths=(1,) * len(widths),
    widths=tuple(widths),
    # The last maps are not halved again: they are what CAM shows.
    strides=(*(2 for _ in widths[1:]), 1),
    stem_width=widths[0],
  )
  return residual_network(
    architecture,
    num_classes,
    stem=stem,
    normalization=normalization,
    dtype=dtype,
    axis_name=axis_name,
    axis_index_groups=axis_index_groups,
  )
