"""The convolutional networks of the two tutorials."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from advjax.models import layers

# Keras' Dense and Conv2D and MATLAB's layers start alike.
_glorot = nn.initializers.glorot_uniform()


class CNN(nn.Module):
  """NSL's network: convolutions with ReLU, pooled between, then dense layers.

  The defaults have 93,322 parameters on 28 x 28 x 1 images and 10 classes.

  Attributes:
    num_classes: Logits.
    conv_filters: Channels of each convolution (VALID, stride 1).
    kernel_size: Of every convolution.
    pool_size: Window and stride of the pools between the convolutions.
    num_fc_units: Units of the dense layers before the logits.
    batch_norm: Whether a BatchNorm stands before each convolution's ReLU.
    axis_name: Mapped axis over which BatchNorm averages its statistics.
  """

  num_classes: int
  conv_filters: Sequence[int] = (32, 64, 64)
  kernel_size: Sequence[int] = (3, 3)
  pool_size: Sequence[int] = (2, 2)
  num_fc_units: Sequence[int] = (64,)
  batch_norm: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    hidden = images
    height, width = self.pool_size
    for index, filters in enumerate(self.conv_filters):
      if index > 0:
        hidden = layers.max_pool(hidden, (height, width), (height, width))
      hidden = _conv(filters, self.kernel_size, 'VALID')(hidden)
      if self.batch_norm:
        hidden = nn.BatchNorm(
          use_running_average=not train, axis_name=self.axis_name
        )(hidden)
      hidden = nn.relu(hidden)
    hidden = _flatten(hidden)
    for units in self.num_fc_units:
      hidden = nn.relu(nn.Dense(units, kernel_init=_glorot)(hidden))
    return nn.Dense(self.num_classes, kernel_init=_glorot)(hidden)


class MatlabCNN(nn.Module):
  """The network of MATLAB's example: two padded convolutions, one pool.

  144,266 parameters on 28 x 28 x 1 images and 10 classes.

  Attributes:
    num_classes: Logits.
  """

  num_classes: int

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    del train  # Nothing in it behaves differently.
    hidden = nn.relu(_conv(32, (3, 3), 'SAME')(images))
    hidden = nn.relu(_conv(64, (3, 3), 'SAME')(hidden))
    hidden = layers.max_pool(hidden, (2, 2), (2, 2))
    return nn.Dense(self.num_classes, kernel_init=_glorot)(_flatten(hidden))


class MLP(nn.Module):
  """Dense layers with ReLU.

  Attributes:
    num_classes: Logits.
    hidden_units: Units of each hidden layer; none is logistic regression.
  """

  num_classes: int
  hidden_units: Sequence[int] = (256, 128)

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    del train  # Nothing in it behaves differently.
    hidden = _flatten(images)
    for units in self.hidden_units:
      hidden = nn.relu(nn.Dense(units, kernel_init=_glorot)(hidden))
    return nn.Dense(self.num_classes, kernel_init=_glorot)(hidden)


def _conv(filters: int, kernel_size: Sequence[int], padding: str) -> nn.Conv:
  return nn.Conv(
    filters,
    tuple(kernel_size),
    padding=padding,
    kernel_init=_glorot,
    conv_general_dilated=layers.conv_general_dilated,
  )


def _flatten(images: Array) -> Array:
  return images.reshape(images.shape[0], -1)
