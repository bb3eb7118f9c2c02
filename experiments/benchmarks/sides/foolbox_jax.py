"""The side of foolbox on JAX.

It runs in a venv with foolbox and jax, and neither imports nor needs anything
of this project but what is in this folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import foolbox
import foolbox_attacks
import jax
import jax.numpy as jnp
import numpy as np
from serve import serve, timed

Arrays = dict[str, Any]

# Prepared attacks, by name.
_PREPARED: dict[str, Callable[[], jax.Array]] = {}


def logits(params: Arrays, images: jax.Array) -> jax.Array:
  """The network of NSL's tutorial, with weights by the names of Flax."""
  hidden = images
  for index in range(3):
    hidden = jax.lax.conv_general_dilated(
      hidden,
      params[f'Conv_{index}/kernel'],
      (1, 1),
      'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    hidden = jax.nn.relu(hidden + params[f'Conv_{index}/bias'])
    if index < 2:
      window = (1, 2, 2, 1)
      hidden = jax.lax.reduce_window(
        hidden, -jnp.inf, jax.lax.max, window, window, 'VALID'
      )
  hidden = hidden.reshape(len(hidden), -1)
  for index in range(2):
    hidden = jax.nn.relu(hidden) if index else hidden
    hidden = (
      hidden @ params[f'Dense_{index}/kernel'] + params[f'Dense_{index}/bias']
    )
  return hidden


def run_prepare(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Makes an attack on a batch and returns what it finds."""
  images, labels = (jnp.asarray(arrays.pop(k)) for k in ('images', 'labels'))
  params = jax.tree.map(jnp.asarray, arrays)
  logits_fn: Callable[[jax.Array], jax.Array] = partial(logits, params)
  if job['jit']:
    logits_fn = jax.jit(logits_fn)
  model = foolbox.JAXModel(logits_fn, bounds=(0, 1))
  attack = foolbox_attacks.make(job)

  def run() -> jax.Array:
    found = attack.run(model, images, labels, epsilon=job['epsilon'])
    return jax.block_until_ready(found)

  _PREPARED[job['name']] = run
  return {'perturbed': np.asarray(run())}


def run_attack(job: dict[str, Any], arrays: Arrays) -> Arrays:
  """Runs it; the seconds."""
  del arrays
  return {'seconds': timed(_PREPARED[job['name']])[1]}


def main() -> None:
  serve(
    {'prepare_attack': run_prepare, 'attack': run_attack},
    f'foolbox {foolbox.__version__}, jax {jax.__version__}',
  )


if __name__ == '__main__':
  main()
