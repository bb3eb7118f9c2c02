"""What residual networks are made of: convolutions, norms and blocks."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from advjax.models import layers

# Of the channels, which the images' gradient sees (He et al. 2015), as in the
# papers' code. The scales of all norms start at 1, also those that end a block.
_he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Style(NamedTuple):
  """What all layers of a network have in common.

  Attributes:
    normalization: 'batch' or 'group'.
    dtype: Of the computation, 'float32' or 'bfloat16'; parameters and
      statistics are float32.
    axis_name: Mapped axis over which BatchNorm averages its statistics.
    axis_index_groups: Places on it that are averaged over together.
  """

  normalization: str = 'batch'
  dtype: str = 'float32'
  axis_name: str | None = None
  axis_index_groups: Any = None

  @property
  def compute_dtype(self) -> Any:
    """Flax's dtype: None takes that of images and parameters, if wider."""
    return jnp.bfloat16 if self.dtype == 'bfloat16' else None


def convolve(
  hidden: Array,
  channels: int,
  size: int,
  stride: int,
  style: Style,
  *,
  name: str,
  groups: int = 1,
) -> Array:
  """A convolution without bias, padded as PyTorch does: the same on all sides.

  'SAME' would pad an even image at stride 2 on one side only.

  Args:
    hidden: `[B, H, W, I]`.
    channels: Those of the result.
    size: Height and width of the kernel, odd.
    stride: In both directions.
    style: Names the dtype.
    name: Of the layer, in the module that calls this.
    groups: Groups of channels that do not see each other.

  Returns:
    `[B, ceil(H / stride), ceil(W / stride), channels]`.
  """
  pad = size // 2
  return nn.Conv(
    channels,
    (size, size),
    strides=(stride, stride),
    padding=((pad, pad), (pad, pad)),
    feature_group_count=groups,
    use_bias=False,
    dtype=style.compute_dtype,
    kernel_init=_he_normal,
    conv_general_dilated=layers.conv_general_dilated,
    name=name,
  )(hidden)


def normalize(hidden: Array, style: Style, train: bool, *, name: str) -> Array:
  """BatchNorm, or GroupNorm with 16 channels in a group (Wu and He 2018).

  Args:
    hidden: `[B, H, W, C]`.
    style: Names the normalization.
    train: Whether BatchNorm uses, and learns from, this batch's statistics.
    name: Of the layer, in the module that calls this.

  Returns:
    `[B, H, W, C]`.
  """
  if style.normalization == 'group':
    # A network may be narrower than 16, or end in an odd number of them.
    return nn.GroupNorm(
      num_groups=None,
      group_size=math.gcd(hidden.shape[-1], 16),
      epsilon=1e-5,
      dtype=style.compute_dtype,
      name=name,
    )(hidden)
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=style.compute_dtype,
    axis_name=style.axis_name,
    axis_index_groups=style.axis_index_groups,
    name=name,
  )(hidden)


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions (He et al. 2015, arXiv 1512.03385).

  Where the shape changes, the shortcut is `conv_0`, 1 x 1, and `norm_0`.

  Attributes:
    width: Channels.
    stride: Of the first convolution.
    style: Common to the network.
  """

  width: int
  stride: int
  style: Style

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    style = self.style
    hidden = convolve(images, self.width, 3, self.stride, style, name='conv_1')
    hidden = nn.relu(normalize(hidden, style, train, name='norm_1'))
    hidden = convolve(hidden, self.width, 3, 1, style, name='conv_2')
    hidden = normalize(hidden, style, train, name='norm_2')
    shortcut = _shortcut(images, hidden, self.stride, style, train)
    return nn.relu(hidden + shortcut)


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3 and 1 x 1 convolution; 3 x 3 in groups is ResNeXt's.

  The stride is that of the 3 x 3 convolution, as in torchvision (the paper
  has it in the first). ResNeXt: Xie et al. 2016, arXiv 1611.05431.

  Attributes:
    width: A quarter of the channels.
    stride: Of the 3 x 3 convolution.
    style: Common to the network.
    groups: Of the 3 x 3 convolution.
    group_width: Channels of a group, where width is 64.
  """

  width: int
  stride: int
  style: Style
  groups: int = 1
  group_width: int = 64

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    style = self.style
    inner = self.width * self.group_width // 64 * self.groups
    hidden = convolve(images, inner, 1, 1, style, name='conv_1')
    hidden = nn.relu(normalize(hidden, style, train, name='norm_1'))
    hidden = convolve(
      hidden, inner, 3, self.stride, style, name='conv_2', groups=self.groups
    )
    hidden = nn.relu(normalize(hidden, style, train, name='norm_2'))
    hidden = convolve(hidden, 4 * self.width, 1, 1, style, name='conv_3')
    hidden = normalize(hidden, style, train, name='norm_3')
    shortcut = _shortcut(images, hidden, self.stride, style, train)
    return nn.relu(hidden + shortcut)


class PreActivationBlock(nn.Module):
  """Norm and ReLU before each of two 3 x 3 convolutions.

  Where the shape changes, the shortcut is a 1 x 1 convolution, `conv_0`, of
  what the first ReLU returns. He et al. 2016, arXiv 1603.05027.

  Attributes:
    width: Channels.
    stride: Of the first convolution.
    style: Common to the network.
  """

  width: int
  stride: int
  style: Style

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    style = self.style
    active = nn.relu(normalize(images, style, train, name='norm_1'))
    hidden = convolve(active, self.width, 3, self.stride, style, name='conv_1')
    hidden = nn.relu(normalize(hidden, style, train, name='norm_2'))
    hidden = convolve(hidden, self.width, 3, 1, style, name='conv_2')
    if images.shape == hidden.shape:
      return hidden + images
    return hidden + convolve(
      active, self.width, 1, self.stride, style, name='conv_0'
    )


class PoolingBlock(nn.Module):
  """A convolution and max-pooling, or two convolutions around a shortcut.

  With a stride, a 3 x 3 convolution `conv_1`, a max-pool of the stride's size,
  norm and ReLU; with stride 1, images + ReLU(norm(conv(...))) of two 3 x 3
  convolutions. The blocks of Page's ResNet-9 (2018, "How to train your
  ResNet"), with the pool before the norm, which then sees a quarter of the
  numbers.

  Attributes:
    width: Channels; with stride 1 those of the images.
    stride: 1, or a divisor of the images' height and width.
    style: Common to the network.
  """

  width: int
  stride: int
  style: Style

  @nn.compact
  def __call__(self, images: Array, train: bool) -> Array:
    style = self.style
    hidden = convolve(images, self.width, 3, 1, style, name='conv_1')
    if self.stride > 1:
      # On all platforms: XLA's own gradient of a pool is a scatter on GPUs.
      hidden = layers.max_pool_by_blocks(hidden, (self.stride, self.stride))
    hidden = nn.relu(normalize(hidden, style, train, name='norm_1'))
    if self.stride > 1:
      return hidden
    hidden = convolve(hidden, self.width, 3, 1, style, name='conv_2')
    return images + nn.relu(normalize(hidden, style, train, name='norm_2'))


def _shortcut(
  images: Array, hidden: Array, stride: int, style: Style, train: bool
) -> Array:
  """The block's images, through a convolution where the shape changes."""
  channels = hidden.shape[-1]
  if stride == 1 and images.shape[-1] == channels:
    return images
  shortcut = convolve(images, channels, 1, stride, style, name='conv_0')
  return normalize(shortcut, style, train, name='norm_0')
