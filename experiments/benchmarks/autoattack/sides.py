"""What takes turns: our attacks and torchattacks'."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import advjax
from experiments.benchmarks.autoattack import network, rows
from experiments.benchmarks.autoattack.network import Reference
from experiments.benchmarks.peers.process import RunJob
from experiments.benchmarks.turns import timed

# The standard version's, which torchattacks has to be told.
NUM_STEPS = 100
NUM_QUERIES = 5000


def our_attack(reference: Reference) -> rows.RunAttack:
  """Returns our side of `rows.compare_attacks`.

  Args:
    reference: Network and images.

  Returns:
    `(norm, attack) -> (who stands it, seconds)`.
  """
  logits_fn = Partial(network.logits, _on_device(reference.kernels))

  def run(norm: str, attack: str) -> tuple[np.ndarray, float]:
    result, seconds = timed(
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
  reference: Reference, run_job: RunJob, seed: int = 0
) -> rows.RunAttack:
  """Returns torchattacks' side of `rows.compare_attacks`.

  Args:
    reference: Network and images.
    run_job: Runs a job of the other side.
    seed: Of its random draws.

  Returns:
    `(norm, attack) -> (who stands it, seconds)`.
  """

  def run(norm: str, attack: str) -> tuple[np.ndarray, float]:
    job = {
      'task': 'flags',
      'attack': attack,
      'norm': norm,
      'epsilon': network.EPSILONS[norm],
      'seed': seed,
      'num_steps': NUM_STEPS,
      'num_queries': NUM_QUERIES,
    }
    found = run_job(job, arrays_of(reference))
    return found['robust'], float(found['seconds'])

  return run


def arrays_of(reference: Reference) -> dict[str, np.ndarray]:
  """What the other side needs of a reference."""
  images, labels = reference.images, reference.labels
  return {**reference.kernels, 'images': images, 'labels': labels}


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
