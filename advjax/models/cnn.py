"""The convolutional networks of the two tutorials."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from advjax.models import layers


def flatten(images: Array) -> Array:
  return images.reshape(images.shape[0], -1)


class CNN(nn.Module):
  """Convolutions with ReLU, pooled between them, then dense layers.

  The defaults are the network of NSL's tutorial (93,322 parameters on
  28 x 28 x 1 images and 10 classes), with Keras' initialisers.
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
    for index, filters in enumerate(self.conv_filters):
      if index > 0:
        hidden = layers.max_pool(hidden, self.pool_size, self.pool_size)
      hidden = nn.Conv(
        filters,
        self.kernel_size,
        padding='VALID',
        kernel_init=nn.initializers.glorot_uniform(),
        conv_general_dilated=layers.conv_general_dilated,
      )(hidden)
      if self.batch_norm:
        hidden = nn.BatchNorm(
          use_running_average=not train, axis_name=self.axis_name
        )(hidden)
      hidden = nn.relu(hidden)
    hidden = flatten(hidden)
    for units in self.num_fc_units:
      hidden = nn.relu(_dense(units)(hidden))
    return _dense(self.num_classes)(hidden)


def _dense(units: int) -> nn.Dense:
  return nn.Dense(units, kernel_init=nn.initializers.glorot_uniform())
