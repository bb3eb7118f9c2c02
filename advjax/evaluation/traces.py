"""The loss of an attack step by step, and whether it has gradients at all.

An attack whose loss does not rise, or for which many gradients are exactly 0,
says little about a network: its gradients are masked (Athalye et al. 2018,
arXiv 1802.00420).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import _arguments as arguments
from advjax import norms
from advjax.attacks._core import loop
from advjax.attacks.apgd import make_apgd
from advjax.attacks.gradient import make_ascent
from advjax.attacks.specs import Attack
from advjax.callables import Callee
from advjax.devices import Batching, map_examples
from advjax.evaluation.logits import full_precision
from advjax.losses import cross_entropy
from advjax.results import Trace
from advjax.types import Array, LogitsFn

TRACED = ('fgsm', 'bim', 'mifgsm', 'pgd', 'apgd')
_MAX_IMAGES = 1000


@full_precision
def trace(
  logits_fn: LogitsFn,
  attack: Attack,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  batching: Batching | None = None,
) -> Trace:
  """Records the mean loss and accuracy at every step of one of `TRACED`.

  On the first 1,000 images and from the first start, at the points of the
  attack itself: fgsm, bim and mifgsm return the last of them, pgd the best. Of
  apgd, whose steps in l1 lead through larger balls, the points are the best so
  far.
  """
  found = map_examples(
    _record,
    [images[:_MAX_IMAGES], labels[:_MAX_IMAGES]],
    Callee.of(logits_fn),
    np.float32(epsilon),
    static=(attack,),
    batching=batching or Batching(),
  )
  # Means over all images at once, in float64: they do not depend on batches.
  loss, correct, zero, not_finite = (
    rows.astype(np.float64).mean(0) for rows in found
  )
  return Trace(
    loss=loss.tolist(),
    accuracy=correct.tolist(),
    zero_gradients=float(zero),
    not_finite_gradients=float(not_finite),
  )


def _record(
  attack: Attack,
  images: Array,
  labels: Array,
  keys: Array,
  network: Callee,
  epsilon: Array,
) -> tuple[Array, Array, Array, Array]:
  """Losses and correctness `[B, steps + 1]`, flags of two gradients `[B]`."""
  assert attack.num_steps is not None  # All of `TRACED` have steps.
  problem = arguments.check(
    network,
    images,
    labels,
    epsilon=epsilon,
    bounds=attack.bounds,
    key=keys if attack.name in ('pgd', 'apgd') else None,
  ).per_example()
  # Keys of the first restart.
  problem = problem._replace(keys=loop.fold(problem.keys, 0))
  if attack.name == 'apgd':
    search = make_apgd(
      norm=attack.norm, num_steps=attack.num_steps, loss_fn=cross_entropy
    )
  else:
    search = make_ascent(
      network,
      cross_entropy,
      attack.step_at(epsilon),
      1.0 if attack.name == 'mifgsm' else None,
      norm=norms.get(attack.norm),
      num_steps=attack.num_steps,
    )

  def summed(images: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = network(images)
    losses = cross_entropy(logits, labels)
    return losses.sum(), (losses, logits.argmax(-1) == labels)

  def measure(state: Any) -> tuple[Array, Array]:
    return summed(search.found(problem, state).images)[1]

  def step(state: Any, t: Array) -> Any:
    times = jnp.full(len(images), t, jnp.int32)
    return search.step(network, problem, state, times)

  times = jnp.arange(search.num_steps, dtype=jnp.int32)
  state = search.start(problem)
  if attack.name == 'apgd':  # Its first step evaluates the start.
    state, times = step(state, times[0]), times[1:]
  state, seen = jax.lax.scan(
    lambda state, t: (step(state, t), measure(state)), state, times
  )
  losses, correct = (
    jnp.concatenate([x, last[None]]).T
    for x, last in zip(seen, measure(state), strict=True)
  )
  gradient, _ = jax.grad(summed, has_aux=True)(images)
  flat = gradient.reshape(len(images), -1)
  return losses, correct, (flat == 0).all(1), ~jnp.isfinite(flat).all(1)
