"""FGSM where it is exact: on a network of two classes with linear logits.

`f(x) = w . x + b` is the first class's logit less the second's. With y = +1 for
the first class and -1 for the second, the cross-entropy is softplus(-y f(x)),
and the worst image within epsilon of x in linf is `x - epsilon * y * sign(w)`,
whose loss is softplus(epsilon * |w|_1 - y f(x)) (Goodfellow et al. 2014, arXiv
1412.6572, section 5).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax.attacks import fgsm
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits, full_precision
from advjax.types import Array, LogitsFn


class LinearFunction(NamedTuple):
  """`w . x + b`: the first class's logit less the second's."""

  weights: np.ndarray  # float32 [H, W, C]
  bias: float


def linear_function(
  logits_fn: LogitsFn, shape: Sequence[int]
) -> LinearFunction:
  """Reads weights and bias off a linear network, whatever its parameters."""

  def difference(image: Array) -> Array:
    first, second = logits_fn(image[None])[0]
    return first - second

  bias, weights = jax.value_and_grad(difference)(jnp.zeros(shape))
  return LinearFunction(np.asarray(weights), float(bias))


def closed_form(
  weights: np.ndarray, images: np.ndarray, labels: np.ndarray, epsilon: float
) -> np.ndarray:
  """The worst perturbation of a linear network, without any gradient.

  x - epsilon * y * sign(w), with y = +1 for label 0, which w speaks for, and
  y = -1 for label 1

  Goodfellow et al. 2014, arXiv 1412.6572, section 5.

  The perturbed images are not clipped, and in the dtype of the images.

  Example:
    >>> closed_form(np.array([3.0, -4.0]), np.zeros((1, 2)), np.array([0]), 0.5)
    array([[-0.5,  0.5]])
  """
  y = (1 - 2 * labels).astype(images.dtype)
  y = y.reshape(-1, *[1] * weights.ndim)
  delta = -epsilon * y * np.sign(weights).astype(images.dtype)
  return images + delta.astype(images.dtype)


class Measured(NamedTuple):
  """A linear network, and FGSM on it beside the closed form.

  Attributes:
    function: The network.
    perturbed: By FGSM, not clipped, `[N, H, W, C]`.
    predictions: For the clean images, int `[N]`.
    perturbed_predictions: For the perturbed ones, int `[N]`.
    entry: The numbers.
  """

  function: LinearFunction
  perturbed: np.ndarray
  predictions: np.ndarray
  perturbed_predictions: np.ndarray
  entry: dict[str, Any]


@full_precision
def measure(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  devices: Sequence[jax.Device],
) -> Measured:
  """Attacks a linear network by FGSM, and compares with the closed form.

  Where a network is so sure of an image that the gradient of its loss is 0 in
  float32, FGSM does not move a pixel that has a weight. Such images are
  counted, and left out of the difference between the two.

  Example:
    >>> logits_fn = lambda x: jnp.concatenate([3 * x - 0.2, -x], -1)
    >>> images, labels = np.array([[0.0], [0.5]], np.float32), np.array([1, 0])
    >>> found = measure(logits_fn, images, labels, 0.25, jax.devices()[:1])
    >>> found.perturbed
    array([[0.25],
           [0.25]], dtype=float32)
    >>> found.entry['clean_error'], found.entry['fgsm_error']
    (0.0, 0.5)
  """
  function = linear_function(logits_fn, images.shape[1:])
  weights = function.weights
  free = np.asarray(fgsm(logits_fn, images, labels, epsilon, bounds=None))
  boxed = np.asarray(fgsm(logits_fn, images, labels, epsilon))
  exact = closed_form(weights, images, labels, epsilon)
  axes = tuple(range(1, images.ndim))
  still = ((free == images) & (exact != images)).any(axes)
  differences = np.abs(free - exact)[~still]
  size = float(np.abs(weights.astype(np.float64)).sum())
  entry: dict[str, Any] = {
    'weights_l1': size,
    'weights_max': float(np.abs(weights).max()),
    'zero_weights': float((weights == 0).mean()),
    'bias': function.bias,
    # By so much FGSM moves w . x + b towards the wrong class.
    'shift': epsilon * size,
  }
  answers = {}
  for name, shown in (
    ('clean', images),
    ('fgsm', free),
    ('fgsm_in_box', boxed),
    ('closed_form', exact),
  ):
    logits = compute_logits(logits_fn, shown, Batching(devices=devices))
    answers[name] = logits.argmax(-1)
    entry[f'{name}_error'] = float(np.mean(answers[name] != labels))
  entry |= {
    'largest_difference': float(differences.max(initial=0.0)),
    'num_compared': int((~still).sum()),
    'num_vanished': int(still.sum()),
  }
  return Measured(function, free, answers['clean'], answers['fgsm'], entry)
