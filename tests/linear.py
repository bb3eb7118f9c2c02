"""Logistic regression of two classes, beside its closed forms in float64."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from advjax.models import create_model

MODEL = create_model({'name': 'logistic_regression'}, 2)


def softplus(x):
  return np.logaddexp(0, x)


class Linear(NamedTuple):
  """`w . x + b`, the first class's logit less the second's, in float64."""

  weights: np.ndarray
  bias: float

  @classmethod
  def of(cls, params, shape):
    """Reads the params of the `logistic_regression` model."""
    layer = params['Dense_0']
    kernel, bias = (np.asarray(layer[k], float) for k in ('kernel', 'bias'))
    return cls(
      (kernel[:, 0] - kernel[:, 1]).reshape(shape), float(bias[0] - bias[1])
    )

  @property
  def size(self):
    """|w|_1"""
    return np.abs(self.weights).sum()

  def signed(self, labels):
    """y, `[N, 1, 1, 1]`: 1 for the first class and -1 for the second."""
    return np.where(labels == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)

  def worst(self, images, labels, epsilon):
    """The worst images within epsilon, by the closed form."""
    return images - epsilon * self.signed(labels) * np.sign(self.weights)

  def margins(self, images, labels):
    """y (w . x + b)"""
    products = (images.astype(float) * self.weights).sum((1, 2, 3))
    return self.signed(labels)[:, 0, 0, 0] * (products + self.bias)

  def losses(self, images, labels, epsilon=0.0):
    """softplus(epsilon |w|_1 - y (w . x + b))"""
    return softplus(epsilon * self.size - self.margins(images, labels))


def random_params(rng, shape, scale=1.0):
  """Params of a network in which two pixels weigh nothing, and one little.

  Those two have weights of 0, not equal ones: where a product is fused with the
  sum after it, equal ones leave a gradient of the product's rounding.
  """
  size = int(np.prod(shape))
  kernel = (scale * rng.normal(size=(size, 2))).astype(np.float32)
  kernel[:2] = 0
  kernel[2] *= 1e-6
  bias = rng.normal(size=2).astype(np.float32)
  return {'Dense_0': {'kernel': jnp.asarray(kernel), 'bias': jnp.asarray(bias)}}


def _apply(params, images):
  return MODEL.apply(params, {}, images, train=False)[0]


def network(params):
  """The network as attacks take it."""
  return Partial(_apply, params)
