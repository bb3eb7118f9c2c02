"""Gradients of residual networks, a train step and an attack on each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import advjax
from advjax.devices import AXIS
from advjax.models import create_model
from advjax.models.resnet import RESIDUAL_NETWORKS
from advjax.training.objectives import adversarial_regularization
from advjax.training.step import TrainState, make_train_step
from tests.models import tiny

NETWORKS = ('small_resnet', *RESIDUAL_NETWORKS)
# Of the attacks: so short that the loss must rise. In deep networks as they
# are drawn it turns within a grey level.
STEP_SIZE = 1e-5


def _check_gradient(model, params, state, images, labels, *, train):
  """Against central differences, along itself and at random."""
  wide = functools.partial(
    jax.tree.map, lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64)
  )
  params, state, images = wide(params), wide(state), wide(images)

  @jax.jit
  def both(params, state, images):
    def loss_fn(images):
      logits, _ = model.apply(params, state, images, train=train)
      return advjax.losses.cross_entropy(logits, labels).sum()

    return jax.value_and_grad(loss_fn)(images)

  value, gradient = both(params, state, images)
  assert gradient.dtype == value.dtype == jnp.float64
  norm = float(np.linalg.norm(gradient))
  assert norm > 1e-4
  draw = np.random.default_rng(0)
  for direction in (np.asarray(gradient), draw.normal(size=images.shape)):
    direction = direction / np.linalg.norm(direction)
    slope = float((np.asarray(gradient) * direction).sum())
    errors = []
    # At a longer step, a ReLU may change its side on the way.
    for step in (1e-7, 1e-8):
      up, down = (
        float(both(params, state, images + sign * step * direction)[0])
        for sign in (1, -1)
      )
      errors.append(abs((up - down) / (2 * step) - slope) / norm)
    assert min(errors) < 1e-5


@pytest.mark.parametrize(
  ('name', 'train'), [('basic', True), ('bottleneck', False)]
)
def test_gradient_of_tiny_networks(name, train):
  params, state = tiny.variables(name)
  with jax.enable_x64(True):
    model, images = tiny.tiny(name), np.asarray(tiny.make_images(2))
    labels = np.arange(2)
    _check_gradient(model, params, state, images, labels, train=train)


def _check_train_step(model, params, state, images, labels):
  """One step of adversarial regularization, half of the batch per device."""
  optimizer = optax.identity()
  step = make_train_step(
    model.apply,
    adversarial_regularization(bounds=(0.0, 1.0)),
    optimizer,
    optax.constant_schedule(1.0),
  )
  before = TrainState(
    jnp.zeros((), jnp.int32), params, state, optimizer.init(params), None
  )
  batch = {
    'image': images.reshape(2, 2, *images.shape[1:]),
    'label': labels.reshape(2, 2),
    'weight': jnp.full((2, 2), 0.25),
  }
  hparams = {'learning_rate': 0.01, 'multiplier': 0.5, 'step_size': STEP_SIZE}
  after, metrics = jax.pmap(
    step, axis_name=AXIS, in_axes=(None, 0, 0, None, 0)
  )(
    before,
    batch,
    jnp.ones((2, 2)),
    hparams,
    jax.random.split(jax.random.key(0), 2),
  )
  for old, new in zip(
    jax.tree.leaves((params, state)),
    jax.tree.leaves((after.params, after.model_state)),
    strict=True,
  ):
    assert np.isfinite(new).all()
    assert not np.array_equal(new[0], old)
    np.testing.assert_array_equal(new[0], new[1])
  assert (metrics['adversarial_loss'] > metrics['clean_loss']).all()


def _check_attack(model, params, state, images, labels):
  @jax.jit
  def attack(params, state, images):
    def logits_fn(images):
      return model.apply(params, state, images, train=False)[0]

    attacked = advjax.pgd(
      logits_fn,
      images,
      labels,
      2 * STEP_SIZE,
      STEP_SIZE,
      num_steps=2,
      key=jax.random.key(1),
    )
    return attacked, *(
      advjax.losses.cross_entropy(logits_fn(pixels), labels)
      for pixels in (images, attacked)
    )

  attacked, clean, adversarial = attack(params, state, images)
  assert np.abs(attacked - images).max() <= 2 * STEP_SIZE + 1e-7
  assert (adversarial > clean).all()


def test_a_small_resnet_trains_and_is_attacked():
  config = {'name': 'small_resnet', 'widths': (4,)}
  model = create_model(config, tiny.NUM_CLASSES, axis_name=AXIS)
  images, labels = tiny.make_images(), np.arange(4)
  params, state = tiny.draw(model)
  _check_train_step(model, params, state, images, labels)
  _check_attack(model, params, state, images, labels)


@pytest.mark.slow
@pytest.mark.parametrize('name', NETWORKS)
def test_published_networks(name):
  """The gradient, a train step and an attack, of a network as it is drawn."""
  model, mapped = (
    create_model({'name': name}, tiny.NUM_CLASSES, axis_name=axis)
    for axis in (None, AXIS)
  )
  images, labels = np.asarray(tiny.make_images(4, 16)), np.arange(4)
  params, drawn = jax.jit(model.init)(jax.random.key(0), images)
  _, moved = jax.jit(functools.partial(model.apply, train=True))(
    params, drawn, images
  )
  # The statistics of this batch: with means 0 and variances 1, activations
  # would grow from block to block, and some classes have no gradient left.
  state = jax.tree.map(
    lambda new, old: (new - 0.9 * old) / (1 - 0.9), moved, drawn
  )
  params, state = jax.tree.map(np.asarray, (params, state))
  _check_train_step(mapped, params, state, images, labels)
  _check_attack(model, params, state, images, labels)
  with jax.enable_x64(True):
    for train in (True, False):
      _check_gradient(model, params, state, images[:2], labels[:2], train=train)
