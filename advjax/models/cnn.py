"""The networks of the two tutorials: convolutions, dense layers."""

from collections.abc import Callable, Sequence

from flax import linen as nn
from jax import Array

from advjax.models import layers

# Keras' Dense and Conv2D and MATLAB's layers start alike.
_glorot = nn.initializers.glorot_uniform()


class CNN(nn.Module):
  """NSL's network: convolutions with ReLU, pooled between, then dense layers.

  The defaults have 93,322 parameters on 28 x 28 x 1 images and 10 classes.
  """

  num_classes: int
  conv_filters: Sequence[int] = (32, 64, 64)  # VALID, stride 1
  kernel_size: Sequence[int] = (3, 3)
  pool_size: Sequence[int] = (2, 2)  # window and stride, between convolutions
  num_fc_units: Sequence[int] = (64,)
  batch_norm: bool = False  # before each convolution's ReLU
  # The mapped axis over which BatchNorm averages, in groups of its indices.
  axis_name: str | None = None
  axis_index_groups: Sequence[Sequence[int]] | None = None

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    hidden = images
    for index, filters in enumerate(self.conv_filters):
      is_last = index == len(self.conv_filters) - 1
      pool_size = None if is_last or self.batch_norm else self.pool_size
      name = f'Conv_{index}'
      hidden = _conv(filters, self.kernel_size, 'VALID', pool_size, name=name)(
        hidden
      )
      if self.batch_norm:
        hidden = nn.BatchNorm(
          use_running_average=not train,
          axis_name=self.axis_name,
          axis_index_groups=self.axis_index_groups,
        )(hidden)
        if not is_last:
          hidden = layers.max_pool(hidden, self.pool_size, self.pool_size)
      hidden = nn.relu(hidden)
    return _dense(hidden, (*self.num_fc_units, self.num_classes))


class MatlabCNN(nn.Module):
  """The network of MATLAB's example: two padded convolutions, one pool.

  144,266 parameters on 28 x 28 x 1 images and 10 classes.
  """

  num_classes: int

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    del train  # Nothing in it behaves differently.
    hidden = nn.relu(_conv(32, (3, 3), 'SAME', name='Conv_0')(images))
    convolution = _conv(64, (3, 3), 'SAME', (2, 2), name='Conv_1')
    return _dense(nn.relu(convolution(hidden)), (self.num_classes,))


class MLP(nn.Module):
  """Dense layers with ReLU; without hidden units, logistic regression."""

  num_classes: int
  hidden_units: Sequence[int] = (256, 128)
  zero_init: bool = False  # of the last layer

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    del train  # Nothing in it behaves differently.
    last_init = nn.initializers.zeros if self.zero_init else _glorot
    return _dense(images, (*self.hidden_units, self.num_classes), last_init)


class ConvMaxPool(nn.Conv):
  """`nn.Conv` with a max-pool, under a name of its own in summaries."""


def _conv(
  filters: int,
  kernel_size: Sequence[int],
  padding: str,
  pool_size: Sequence[int] | None = None,
  *,
  name: str,
) -> nn.Conv:
  """The pool comes before bias and ReLU, which is the same and faster."""
  kind: type[nn.Conv] = nn.Conv
  convolve: Callable[..., Array] = layers.conv_general_dilated
  if pool_size is not None:
    kind, convolve = ConvMaxPool, layers.conv_then_max_pool(pool_size)
  return kind(
    filters,
    tuple(kernel_size),
    padding=padding,
    kernel_init=_glorot,
    conv_general_dilated=convolve,
    name=name,
  )


def _dense(
  images: Array,
  units: Sequence[int],
  last_init: nn.initializers.Initializer = _glorot,
) -> Array:
  """Flattens, and applies dense layers with ReLU between."""
  hidden = images.reshape(images.shape[0], -1)
  for size in units[:-1]:
    hidden = nn.relu(nn.Dense(size, kernel_init=_glorot)(hidden))
  return nn.Dense(units[-1], kernel_init=last_init)(hidden)
