"""Random variables of networks, and what holds for every trainable one."""

import jax
import numpy as np

import advjax

# Of the attacks: so short that the loss must rise. In deep networks as they
# are drawn it turns within a grey level.
STEP_SIZE = 1e-5
AXIS = 'devices'


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


def check_training_and_attack(
  model, params, state, images, labels, *, synchronized
):
  """A step of FGSM training on two devices, which average BatchNorm or not."""

  def loss_fn(params, state, images, labels):
    logits, new = model.apply(params, state, images, train=True)
    return advjax.losses.cross_entropy(logits, labels).mean(), new

  def step(params, state, images, labels):
    def logits_fn(images):
      return model.apply(params, state, images, train=False)[0]

    attacked = advjax.fgsm(logits_fn, images, labels, STEP_SIZE)
    losses = [
      advjax.losses.cross_entropy(logits_fn(x), labels)
      for x in (images, attacked)
    ]
    gradient, new = jax.grad(loss_fn, has_aux=True)(
      params, state, attacked, labels
    )
    gradient = jax.lax.pmean(gradient, AXIS)
    params = jax.tree.map(lambda p, g: p - 1e-5 * g, params, gradient)
    return params, new, losses, attacked

  batch = images.reshape(2, -1, *images.shape[1:]), labels.reshape(2, -1)
  new_params, new_state, (clean, adversarial), attacked = jax.pmap(
    step, AXIS, in_axes=(None, None, 0, 0)
  )(params, state, *batch)
  for old, new in zip(
    jax.tree.leaves(params), jax.tree.leaves(new_params), strict=True
  ):
    assert np.isfinite(new).all()
    assert old.ndim == 1 or (new[0] != old).any()
    np.testing.assert_array_equal(new[0], new[1])
  for old, new in zip(
    jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True
  ):
    if synchronized:
      assert np.isfinite(new).all() and (new[0] != old).any()
      np.testing.assert_array_equal(new[0], new[1])
  assert np.abs(attacked - batch[0]).max() <= STEP_SIZE + 1e-7
  assert (adversarial > clean).all()
