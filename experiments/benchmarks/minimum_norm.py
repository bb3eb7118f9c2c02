"""Compare the attacks for the smallest perturbation with foolbox's.

  python -m experiments.benchmarks.minimum_norm

from the project's folder, with the Python of .venv: a minute on two CPU
cores. The same steps for both, medians of distances and how many images were
missed, which count as infinitely far. foolbox's Carlini and Wagner returns a
black image where it found nothing: that counts as missed, for either side.

Network and images are by default those of the tests of AutoAttack. --network is
an npz of PyTorch's weights, `NAME.weight` and `NAME.bias` in the order of the
layers: convolutions of stride 2 and padding 1, then dense ones, ReLU between.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import foolbox
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import advjax
from advjax import cli
from advjax.files import expand
from experiments.benchmarks import autoattack, harness
from experiments.benchmarks.harness import OURS, Row, timed

# (attack, norm) -> choices, and foolbox's with the same.
ATTACKS: Mapping[tuple[str, str], tuple[Row, foolbox.Attack]] = {
  ('fmn', 'linf'): ({}, foolbox.attacks.LInfFMNAttack(steps=100)),
  ('fmn', 'l2'): ({}, foolbox.attacks.L2FMNAttack(steps=100)),
  ('fmn', 'l1'): ({}, foolbox.attacks.L1FMNAttack(steps=100)),
  ('carlini_wagner', 'l2'): (
    {'num_searches': 9, 'num_steps': 100, 'learning_rate': 0.05},
    foolbox.attacks.L2CarliniWagnerAttack(9, 100, stepsize=0.05),
  ),
  ('deepfool', 'linf'): ({}, foolbox.attacks.LinfDeepFoolAttack()),
  ('deepfool', 'l2'): ({}, foolbox.attacks.L2DeepFoolAttack()),
}
_ORDERS = {'linf': np.inf, 'l2': 2, 'l1': 1}


def published(layers: Sequence[Any], images: jax.Array) -> jax.Array:
  """The logits of PyTorch's layers: strided convolutions, dense layers."""
  hidden = jnp.moveaxis(images, -1, 1)
  for i, (kernel, bias) in enumerate(layers):
    hidden = jax.nn.relu(hidden) if i else hidden
    if kernel.ndim == 4:
      pad = [(1, 1), (1, 1)]
      hidden = jax.lax.conv_general_dilated(hidden, kernel, (2, 2), pad)
      hidden = hidden + bias[:, None, None]
    else:
      hidden = hidden.reshape(len(hidden), -1) @ kernel.T + bias
  return hidden


def measure(network: Any, images: Any, labels: Any) -> list[Row]:
  """A row of distances for each attack and side."""
  predict = jax.jit(network)
  model = foolbox.JAXModel(predict, bounds=(0, 1))
  rows: list[Row] = []
  for (attack, norm), (choices, peer) in ATTACKS.items():
    options = {**choices, 'norm': norm}
    if attack == 'carlini_wagner':
      del options['norm']
    ours = functools.partial(
      getattr(advjax, attack), network, images, labels, **options
    )
    theirs = functools.partial(peer, model, images, labels, epsilons=None)
    for side, run in ((OURS, ours), ('foolbox', theirs)):
      result, seconds = timed(run)
      found = result if side == OURS else result[1]
      fooled = np.argmax(predict(found), axis=1) != labels
      fooled &= np.any(found, axis=(1, 2, 3))  # Not foolbox's black image.
      moved = np.asarray(found, float) - np.asarray(images, float)
      flat = moved.reshape(len(images), -1)
      sizes = np.linalg.norm(flat, _ORDERS[norm], axis=1)
      row = {'attack': attack, 'norm': norm, 'side': side, 'seconds': seconds}
      row['median'] = np.median(np.where(fooled, sizes, np.inf))
      rows.append({**row, 'missed': np.sum(~fooled)})
  return rows


def main() -> None:
  flag = flags.FLAGS
  reference = autoattack.load(autoattack.OWN)
  network = jax.tree_util.Partial(autoattack.logits, dict(reference.kernels))
  images: Any = reference.images
  labels: Any = reference.labels
  if flag.network:
    with np.load(expand(flag.network)) as file:
      arrays = iter(dict(file).values())
      layers = list(zip(arrays, arrays, strict=True))
    network = jax.tree_util.Partial(published, layers)
  if flag.images:
    with np.load(expand(flag.images)) as file:
      images, labels = file['images'], file['labels'].astype(np.int32)
  images, labels = (jnp.asarray(x[: flag.num_images]) for x in (images, labels))
  print(
    harness.table(
      measure(network, images, labels),
      ('attack', 'attack', ''),
      ('norm', 'norm', ''),
      ('', 'side', ''),
      ('median', 'median', '.4f'),
      ('missed', 'missed', 'd'),
      ('s, with compilation', 'seconds', '.1f'),
    )
  )


if __name__ == '__main__':
  flags.DEFINE_string('network', None, 'Weights of another network, an npz.')
  flags.DEFINE_string('images', None, 'Its images and labels, an npz.')
  flags.DEFINE_integer('num_images', 200, 'The first images that are taken.')
  cli.run(main)
