"""Random variables of networks."""

import jax
import numpy as np


def draw(model, images):
  """What `model.init` returns, as after some training, without compiling."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  random = np.random.default_rng(0)

  def leaf(path, shape):
    kind = path[-1].key
    if kind == 'seed_generator_state':
      return np.array([3, 4], 'uint32')
    if len(shape.shape) > 1:
      # As He: the fan-in of a depthwise kernel is one channel's.
      fan_in = np.prod(shape.shape[:-1])
      if 'depthwise' in str(path) or shape.shape[-1] == 1:
        fan_in = np.prod(shape.shape[:2])
      values = random.normal(0, (2 / fan_in) ** 0.5, shape.shape)
    elif kind in ('scale', 'var', 'gamma', 'moving_variance', 'variance'):
      values = random.uniform(0.8, 1.2, shape.shape)
    else:
      values = random.normal(0, 0.1, shape.shape)
    return values.astype(shape.dtype)

  return jax.tree_util.tree_map_with_path(leaf, shapes)
