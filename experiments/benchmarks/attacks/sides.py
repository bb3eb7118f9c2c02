"""What takes turns: attacks of ours, of foolbox and of torchattacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import advjax
from advjax.models import Model
from experiments.benchmarks.peers.process import RunJob
from experiments.benchmarks.turns import timed

EPSILON = 0.1
STEP_SIZE = 0.01


class Measured(NamedTuple):
  """An attack to measure.

  Attributes:
    attack: 'fgsm', 'bim' or 'pgd', as every library has it.
    num_steps: Steps; FGSM takes one.
  """

  attack: str
  num_steps: int


ATTACKS = {
  'fgsm': Measured('fgsm', 1),
  'bim-20': Measured('bim', 20),
  'pgd-40': Measured('pgd', 40),
}
# By peer, the variants: a name for the table, and what its side is told.
PEERS: dict[str, dict[str, dict[str, Any]]] = {
  'foolbox_jax': {
    'foolbox on JAX': {'jit': False},
    'foolbox on JAX, jitted network': {'jit': True},
  },
  'torch': {
    'foolbox on PyTorch': {'library': 'foolbox'},
    'torchattacks': {'library': 'torchattacks'},
  },
}

# Runs the attack, and returns the seconds.
Run = Callable[[], float]


def our_attack(
  measured: Measured,
  model: Model,
  params: Any,
  images: np.ndarray,
  labels: np.ndarray,
  devices: Sequence[jax.Device],
) -> tuple[Run, np.ndarray]:
  """Returns our side: one program for the batch, cut over the devices.

  Args:
    measured: Which attack.
    model: The network.
    params: Its parameters.
    images: `[B, H, W, C]` in [0, 1]; the devices divide B.
    labels: `[B]`.
    devices: The devices.

  Returns:
    What runs it, and the adversarial images that it finds.
  """

  def attack(params: Any, images: Any, labels: Any, key: Any) -> Any:
    def logits_fn(images: Any) -> Any:
      return model.apply(params, {}, images, train=False)[0]

    if measured.attack == 'fgsm':
      return advjax.fgsm(logits_fn, images, labels, EPSILON)
    arguments = (logits_fn, images, labels, EPSILON, STEP_SIZE)
    if measured.attack == 'bim':
      return advjax.bim(*arguments, num_steps=measured.num_steps)
    # The best of all iterates, where the other libraries return the last.
    return advjax.pgd(*arguments, num_steps=measured.num_steps, key=key)

  mapped = jax.pmap(attack, in_axes=(None, 0, 0, None), devices=devices)
  cut = (len(devices), len(images) // len(devices))
  arguments = (
    params,
    jnp.asarray(images).reshape(*cut, *images.shape[1:]),
    jnp.asarray(labels).reshape(cut),
    jax.random.key(0),
  )
  found = np.asarray(mapped(*arguments)).reshape(images.shape)
  return lambda: timed(lambda: mapped(*arguments))[1], found


def their_attack(
  run_job: RunJob,
  name: str,
  options: Mapping[str, Any],
  measured: Measured,
  params: Any,
  images: np.ndarray,
  labels: np.ndarray,
) -> tuple[Run, np.ndarray]:
  """Returns another side.

  Args:
    run_job: From `peers.process.started`.
    name: Of the variant.
    options: Its own.
    measured: Which attack.
    params: Parameters of the tutorial's network.
    images: `[B, 28, 28, 1]` in [0, 1].
    labels: `[B]`.

  Returns:
    What runs it, and the adversarial images that it finds.
  """
  job: dict[str, Any] = {
    'name': f'{name}/{measured.attack}-{measured.num_steps}',
    'attack': measured.attack,
    'num_steps': measured.num_steps,
    'epsilon': EPSILON,
    'step_size': STEP_SIZE,
    **options,
  }
  weights = {
    key: np.asarray(value)
    for key, value in traverse_util.flatten_dict(params, sep='/').items()
  }
  arrays = {**weights, 'images': images, 'labels': labels}
  found = run_job(job | {'task': 'prepare_attack'}, arrays)['perturbed']

  def run() -> float:
    return float(run_job(job | {'task': 'attack'}, {})['seconds'])

  return run, found
