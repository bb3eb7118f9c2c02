"""The residual networks' blocks in networks of two narrow stages."""

import functools

import jax
import numpy as np

from advjax.models import blocks, from_linen, resnet

NUM_CLASSES = 5
TINY = {
  'basic': resnet.Architecture(
    blocks.BasicBlock, (1, 1), (4, 6), (1, 2), stem_width=4
  ),
  'bottleneck': resnet.Architecture(
    functools.partial(blocks.Bottleneck, groups=2, group_width=32),
    (1, 1),
    (4, 6),
    (1, 2),
    stem_width=4,
  ),
  'preactivation': resnet.Architecture(
    blocks.PreActivationBlock,
    (1, 1),
    (4, 6),
    (1, 2),
    stem_width=4,
    activate_stem=False,
    activate_last=True,
  ),
  'pooling': resnet.Architecture(
    blocks.PoolingBlock, (2, 1), (4, 6), (2, 2), stem_width=4
  ),
}
STAGES = ('stem', 'stage_1', 'stage_2', 'head')


def tiny(name, stem='cifar', **style):
  """Returns a tiny network behind the seam."""
  return from_linen(
    resnet.ResNet(NUM_CLASSES, TINY[name], stem, blocks.Style(**style))
  )


def make_images(batch=4, size=8, seed=0):
  """Returns pixels at random."""
  return jax.random.uniform(jax.random.key(seed), (batch, size, size, 3))


@functools.cache
def variables(name, stem='cifar', normalization='batch'):
  """Returns params and statistics of a tiny network."""
  return draw(tiny(name, stem, normalization=normalization))


def draw(model):
  """Returns params and statistics at random, none of them 0 or 1."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), make_images())
  generator = np.random.default_rng(0)

  def leaf(path, shape):
    last = path[-1].key
    if last in ('scale', 'var'):
      values = generator.uniform(0.5, 1.5, shape.shape)
    else:
      fan_in = np.prod(shape.shape[:-1]) if last == 'kernel' else 10
      values = generator.normal(size=shape.shape) / np.sqrt(fan_in)
    return values.astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)
