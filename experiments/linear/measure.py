"""FGSM where it is exact: on a network of two classes with linear logits.

Goodfellow et al. 2014, arXiv 1412.6572, section 5.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from advjax.attacks import fgsm
from advjax.config import member_config
from advjax.data import Dataset
from advjax.devices import Batching
from advjax.evaluation.logits import compute_logits, full_precision
from advjax.types import Array, LogitsFn


def check(config: config_dict.ConfigDict, dataset: Dataset) -> None:
  """Checks data and networks of Goodfellow et al.'s demonstration.

  FGSM is exact on linear networks of two classes (Goodfellow et al. 2014, arXiv
  1412.6572, section 5); their weights are shown as pictures of one channel.
  """
  for name in config.get('members') or ():
    network = member_config(config, name).model.name
    if network != 'logistic_regression':
      raise ValueError(
        f"model.name = {network!r} (of {name}); allowed: 'logistic_regression',"
        ' the network whose weights the demonstration shows'
      )
  if dataset.num_classes != 2:
    raise ValueError(
      f'dataset.classes = {config.dataset.classes}: {dataset.name} has '
      f'{dataset.num_classes} classes then; allowed: two labels, such as (3, 7)'
    )
  if dataset.test.images.shape[-1] != 1:
    raise ValueError(
      f'dataset.name = {config.dataset.name!r}: images of shape '
      f'{dataset.test.images.shape[1:]}; allowed: one channel'
    )


def linear_function(
  logits_fn: LogitsFn, shape: Sequence[int]
) -> tuple[np.ndarray, float]:
  """Returns w, float32 [H, W, C], and b of a network of two classes.

  `w . x + b` is the first class's logit less the second's.
  """

  def difference(image: Array) -> Array:
    first, second = logits_fn(image[None])[0]
    return first - second

  bias, weights = jax.value_and_grad(difference)(jnp.zeros(shape))
  return np.asarray(weights), float(bias)


def closed_form(
  weights: np.ndarray, images: np.ndarray, labels: np.ndarray, epsilon: float
) -> np.ndarray:
  """`x - epsilon * y * sign(w)`, not clipped; y = +1 for label 0, -1 for 1."""
  y = (1 - 2 * labels).astype(images.dtype)
  y = y.reshape(-1, *[1] * weights.ndim)
  delta = -epsilon * y * np.sign(weights).astype(images.dtype)
  return images + delta.astype(images.dtype)


class Measured(NamedTuple):
  """A linear network, and FGSM on it beside the closed form."""

  weights: np.ndarray  # float32 [H, W, C]
  perturbed: np.ndarray  # by FGSM, not clipped, [N, H, W, C]
  predictions: np.ndarray  # int [N], clean
  perturbed_predictions: np.ndarray  # int [N]
  entry: dict[str, Any]


@full_precision
def measure(
  logits_fn: LogitsFn,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  devices: Sequence[jax.Device],
) -> Measured:
  """Attacks a linear network by FGSM, and compares with the closed form."""
  weights, bias = linear_function(logits_fn, images.shape[1:])
  free = np.asarray(fgsm(logits_fn, images, labels, epsilon, bounds=None))
  boxed = np.asarray(fgsm(logits_fn, images, labels, epsilon))
  exact = closed_form(weights, images, labels, epsilon)
  size = float(np.abs(weights.astype(np.float64)).sum())
  entry: dict[str, Any] = {
    'weights_l1': size,
    'weights_max': float(np.abs(weights).max()),
    'zero_weights': float((weights == 0).mean()),
    'bias': bias,
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
  entry['largest_difference'] = float(np.abs(free - exact).max())
  return Measured(weights, free, answers['clean'], answers['fgsm'], entry)
