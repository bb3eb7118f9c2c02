"""What takes turns: our attacks, torchattacks' and foolbox's."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import advjax
from experiments.benchmarks.autoattack import network, rows
from experiments.benchmarks.autoattack.network import Reference
from experiments.benchmarks.autoattack.venv import Torch

# The standard version's, which torchattacks has to be told.
NUM_STEPS = 100
NUM_QUERIES = 5000
BIM_STEPS = 20


def our_attack(reference: Reference) -> rows.RunAttack:
  """Returns our side of `rows.compare_attacks`.

  Args:
    reference: Network and images.

  Returns:
    `(norm, attack) -> (who stands it, seconds)`.
  """
  logits_fn = Partial(network.logits, _on_device(reference.kernels))

  def run(norm: str, attack: str) -> tuple[np.ndarray, float]:
    result, seconds = rows.timed(
      lambda: advjax.autoattack(
        logits_fn,
        reference.images,
        reference.labels,
        network.EPSILONS[norm],
        key=jax.random.key(0),
        norm=norm,
        attacks=[attack],
      )
    )
    return np.asarray(result.robust), seconds

  return run


def their_attack(
  reference: Reference, torch: Torch, seed: int = 0
) -> rows.RunAttack:
  """Returns torchattacks' side of `rows.compare_attacks`.

  Args:
    reference: Network and images.
    torch: The other side.
    seed: Of its random draws.

  Returns:
    `(norm, attack) -> (who stands it, seconds)`.
  """

  def run(norm: str, attack: str) -> tuple[np.ndarray, float]:
    found = torch.run(
      arrays_of(reference),
      task='flags',
      attack=attack,
      norm=norm,
      epsilon=network.EPSILONS[norm],
      seed=seed,
      num_steps=NUM_STEPS,
      num_queries=NUM_QUERIES,
    )
    return found['robust'], float(found['seconds'])

  return run


def arrays_of(reference: Reference) -> dict[str, np.ndarray]:
  """What the other side needs of a reference."""
  images, labels = reference.images, reference.labels
  return {**reference.kernels, 'images': images, 'labels': labels}


def plain_logits(kernels: Mapping[str, Any], images: Any) -> Any:
  """`network.logits` as everyone would write it, without our layers.

  Args:
    kernels: As there.
    images: `[B, 28, 28, 1]`.

  Returns:
    Logits `[B, 10]`.
  """
  hidden = images
  for index, name in enumerate(network.KERNELS[:3]):
    hidden = jax.lax.conv_general_dilated(
      hidden,
      kernels[name],
      (1, 1),
      'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    hidden = jax.nn.relu(hidden)
    if index < 2:
      window = (1, 2, 2, 1)
      hidden = jax.lax.reduce_window(
        hidden, -jnp.inf, jax.lax.max, window, window, 'VALID'
      )
  hidden = hidden.reshape(len(hidden), -1)
  hidden = jax.nn.relu(hidden @ kernels[network.KERNELS[3]])
  return hidden @ kernels[network.KERNELS[4]]


def bim_variants(
  reference: Reference, torch: Torch
) -> dict[str, Callable[[], float]]:
  """BIM by three libraries, ours and foolbox with either kind of layers.

  Args:
    reference: Network and the images of one batch.
    torch: The other side.

  Returns:
    By name what runs BIM once and returns the seconds; ours first.
  """
  epsilon = network.EPSILONS['linf']
  step_size = epsilon / 10
  kernels = _on_device(reference.kernels)
  images, labels = jnp.asarray(reference.images), jnp.asarray(reference.labels)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import foolbox  # Here, since none but this needs it.

  def ours(apply: Callable[..., Any]) -> float:
    return rows.timed(
      lambda: advjax.bim(
        Partial(apply, kernels),
        images,
        labels,
        epsilon,
        step_size,
        num_steps=BIM_STEPS,
      )
    )[1]

  def by_foolbox(model: Any) -> float:
    attack = foolbox.attacks.LinfBasicIterativeAttack(
      abs_stepsize=step_size, steps=BIM_STEPS
    )
    return rows.timed(
      lambda: attack.run(model, images, labels, epsilon=epsilon)
    )[1]

  def by_torch() -> float:
    found = torch.run(
      arrays_of(reference),
      task='bim',
      epsilon=epsilon,
      step_size=step_size,
      num_steps=BIM_STEPS,
      rounds=1,
    )
    return float(found['seconds'][0])

  def model(apply: Callable[..., Any], jitted: bool) -> Any:
    logits_fn = functools.partial(apply, kernels)
    return foolbox.JAXModel(
      jax.jit(logits_fn) if jitted else logits_fn, bounds=(0, 1)
    )

  by = functools.partial
  return {
    'advjax': by(ours, network.logits),
    'advjax, plain layers': by(ours, plain_logits),
    'foolbox on JAX, plain layers': by(by_foolbox, model(plain_logits, False)),
    'foolbox on JAX, plain layers, jit': by(
      by_foolbox, model(plain_logits, True)
    ),
    "foolbox on JAX, advjax's layers, jit": by(
      by_foolbox, model(network.logits, True)
    ),
    'torchattacks': by_torch,
  }


def _on_device(kernels: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  return {name: jnp.asarray(kernel) for name, kernel in kernels.items()}


def first(reference: Reference, count: int) -> Reference:
  """Takes so many images of a reference, from its beginning again if it ends.

  Args:
    reference: Network and images.
    count: How many.

  Returns:
    The reference with other images; its flags are those of the old ones.
  """
  rows_taken = np.arange(count) % len(reference.labels)
  return reference._replace(
    images=reference.images[rows_taken], labels=reference.labels[rows_taken]
  )
