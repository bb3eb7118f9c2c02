"""An objective, a model, a data set, an attack and more: docs/extend.md."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import advjax
from advjax.data import Dataset, Split
from advjax.training import reads


@reads('epsilon', 'step_size', beta=5.0)
def mart(*, norm='linf', num_steps=10):
  """MART: misclassified examples count more (Wang et al. 2020, ICLR).

  loss = mean_i BCE(f(x'_i), y_i) + beta KL(f(x_i) || f(x'_i)) (1 - p_i),
  with p_i the probability of y_i at the clean image x_i, x'_i from PGD and
  BCE(z, y) = -log softmax(z)_y - log(1.0001 - max_{k != y} softmax(z)_k).
  """

  def objective(apply, params, model_state, batch, hparams, key):
    images, labels = batch['image'], batch['label']

    def frozen(images):
      return apply(params, model_state, images, train=False)[0]

    adversarial = advjax.bim(
      frozen,
      images,
      labels,
      hparams['epsilon'],
      hparams['step_size'],
      num_steps=num_steps,
      key=key,
      norm=norm,
    )
    clean_logits, model_state = apply(params, model_state, images, train=True)
    logits, model_state = apply(params, model_state, adversarial, train=True)
    is_true = jax.nn.one_hot(labels, logits.shape[-1])
    probabilities = jax.nn.softmax(logits)
    wrong = jnp.max(probabilities - 2 * is_true, axis=-1)
    true = (jax.nn.softmax(clean_logits) * is_true).sum(-1)
    boosted = advjax.losses.cross_entropy(logits, labels) - jnp.log(
      1.0001 - wrong
    )
    divergence = advjax.losses.kl(logits, clean_logits)
    metrics = {
      'loss': boosted + hparams['beta'] * divergence * (1 - true),
      'clean_accuracy': 1.0 * (clean_logits.argmax(-1) == labels),
      'adversarial_accuracy': 1.0 * (logits.argmax(-1) == labels),
    }
    # The weights of a batch sum to 1; padding has weight 0.
    return (batch['weight'] * metrics['loss']).sum(), (model_state, metrics)

  return objective


class Net(nnx.Module):
  """A convolution and a dense layer, on images of 28 x 28 x 1."""

  def __init__(self, num_classes, *, width=16, rngs):
    self.conv = nnx.Conv(1, width, (5, 5), strides=4, rngs=rngs)
    self.head = nnx.Linear(49 * width, num_classes, rngs=rngs)

  def __call__(self, images):
    hidden = nnx.relu(self.conv(images))
    return self.head(hidden.reshape(images.shape[0], -1))


def stripes(num_images=400, noise=0.2):
  """Horizontal against vertical stripes, with uniform noise."""
  draws = np.random.default_rng(0)

  def split(count):
    labels = np.arange(count) % 2
    lines = np.broadcast_to(np.arange(28)[:, None] % 4 < 2, (count, 28, 28))
    images = np.where(labels[:, None, None] == 0, lines, lines.swapaxes(1, 2))
    images = images * (1 - noise) + noise * draws.random(images.shape)
    return Split(images[..., None].astype('float32'), labels.astype('int32'))

  names = ('horizontal', 'vertical')
  return Dataset('stripes', split(num_images), split(100), 2, names)


def sign_noise(logits_fn, images, labels, epsilon, key, *, norm, bounds):
  """The worst of ten random corners of the linf ball."""
  del norm

  def draw(best, number):
    keys = jax.vmap(jax.random.fold_in, (0, None))(key, number)
    shape = images.shape[1:]
    signs = jax.vmap(lambda key: jax.random.rademacher(key, shape))(keys)
    moved = jnp.clip(images + epsilon * signs, *(bounds or (None, None)))
    better = loss(logits_fn(moved)) > loss(logits_fn(best))
    return jnp.where(better[:, None, None, None], moved, best), None

  loss = functools.partial(margin, labels=labels)
  return jax.lax.scan(draw, images, jnp.arange(10))[0]


def margin(logits, labels):
  """The largest other logit minus that of the label."""
  is_true = jax.nn.one_hot(labels, logits.shape[-1])
  other = jnp.max(logits - 1e9 * is_true, axis=-1)
  return other - (logits * is_true).sum(-1)


def darken(key, image):
  """Multiplies an image by a factor in [0.8, 1]."""
  return image * jax.random.uniform(key, minval=0.8, maxval=1.0)
