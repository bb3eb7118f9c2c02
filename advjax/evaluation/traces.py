"""The loss of an attack step by step, and whether it has gradients at all.

An attack whose loss does not rise, or for which many gradients are exactly 0,
says little about a network: its gradients are masked (Athalye et al. 2018,
arXiv 1802.00420).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import norms
from advjax.attacks import inputs as inputs_lib
from advjax.attacks import scores
from advjax.attacks.apgd import make_apgd
from advjax.attacks.search import problem_of
from advjax.attacks.space import make_space
from advjax.attacks.specs import Attack
from advjax.callables import Callee
from advjax.devices import Batching, map_examples
from advjax.evaluation.checks import check_images, check_labels
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
  """Records an attack's loss and accuracy at every step.

  `L_t = mean_i loss(f(x_i^t), y_i)`, where x_i^0 is the image (for pgd the
  first random start) and x_i^t what t steps of the attack make of it, on the
  first 1,000 images. The points are those of the attack itself: fgsm, bim and
  mifgsm return the last of them, pgd returns the best. Of apgd, whose steps in
  l1 lead through larger balls, x_i^t is the best point so far (the image, until
  there is one in the ball); it returns the last.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    attack: A gradient attack on the cross-entropy, one of `TRACED` by name. Of
      several restarts, the first is recorded.
    images: `[N, ...]`, floating, in the pixel range.
    labels: int `[N]`.
    epsilon: Radius, in the units of the pixels.
    batching: Batch size, devices and key, as in `attack_and_predict`.

  Returns:
    Mean loss and accuracy at the start and after every step, and the shares of
    images whose gradient, at the image itself, is 0 everywhere, and is NaN or
    infinite anywhere.

  Raises:
    ValueError: if attack, images, labels or epsilon are not as described.

  Example:
    >>> from advjax.attacks.specs import parse_attack
    >>> found = trace(
    ...   lambda x: 10 * x,
    ...   parse_attack('bim-2', step_size=0.25),
    ...   np.array([[0.75, 0.25], [0.5, 0.75]], np.float32),
    ...   np.array([0, 1]),
    ...   0.5,
    ... )
    >>> found.accuracy, found.zero_gradients
    ([1.0, 0.5, 0.0], 0.0)
  """
  if attack.name not in TRACED:
    raise ValueError(f'attack {attack.name!r}; allowed: {", ".join(TRACED)}')
  images = np.asarray(images)
  check_images(images, attack.bounds)
  labels = check_labels(labels, images, logits_fn)
  if not 0 <= epsilon < float('inf'):
    raise ValueError(f'epsilon = {epsilon!r}; allowed: a number >= 0')
  found = map_examples(
    _trace_function(attack),
    [images[:_MAX_IMAGES], labels[:_MAX_IMAGES]],
    Callee.of(logits_fn),
    np.float32(epsilon),
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


class _Steps(NamedTuple):
  """An attack step by step."""

  start: Any  # the state before the first step
  images: Callable[[Any], Array]  # of a state
  step: Callable[[Any, Array, Array], Any]  # (state, gradient, t) -> state


@functools.lru_cache(maxsize=64)
def _trace_function(attack: Attack) -> Callable[..., tuple[Array, ...]]:
  """Records `[B, ...]` images: `[B, steps + 1]` twice, and two flags `[B]`."""

  def record(
    images: Array, labels: Array, keys: Array, network: Callee, epsilon: Array
  ) -> tuple[Array, Array, Array, Array]:
    step_size = attack.step_at(epsilon)
    inputs = inputs_lib.prepare(
      network,
      images,
      labels,
      epsilon=epsilon,
      step_size=0.0 if step_size is None else step_size,
      loss_fn=cross_entropy,
      bounds=attack.bounds,
      targets=None,
      mask=None,
      # Those of the first restart.
      key=scores.fold(inputs_lib.threefry(keys), 0),
      decay=1.0 if attack.name == 'mifgsm' else None,
    )
    make_steps = _apgd_steps if attack.name == 'apgd' else _gradient_steps
    steps = make_steps(attack, network, inputs)

    def summed(images: Array) -> tuple[Array, tuple[Array, Array]]:
      logits = network(images)
      losses = cross_entropy(logits, labels)
      return losses.sum(), (losses, logits.argmax(-1) == labels)

    gradient_fn = jax.grad(summed, has_aux=True)

    def step(state: Any, t: Array) -> tuple[Any, tuple[Array, Array]]:
      gradient, seen = gradient_fn(steps.images(state))
      return steps.step(state, gradient, t), seen

    times = jnp.arange(attack.num_steps, dtype=jnp.int32)
    state, seen = jax.lax.scan(step, steps.start, times)
    _, last = summed(steps.images(state))
    losses, correct = (
      jnp.concatenate([x, y[None]]).T for x, y in zip(seen, last, strict=True)
    )
    gradient, _ = gradient_fn(images)
    flat = gradient.reshape(len(images), -1)
    return losses, correct, (flat == 0).all(1), ~jnp.isfinite(flat).all(1)

  return record


def _gradient_steps(attack: Attack, network: Callee, inputs: Any) -> _Steps:
  del network
  space = make_space(inputs, norms.get(attack.norm))
  delta = zero = space.still(jnp.zeros(space.batch))
  if attack.name == 'pgd':
    delta = space.start(scores.fold(inputs.key, 0))
  return _Steps(
    (delta, None if space.decay is None else zero),
    lambda state: space.images(state[0])[0],
    lambda state, gradient, t: space.move(state[0], state[1], [gradient]),
  )


def _apgd_steps(attack: Attack, network: Callee, inputs: Any) -> _Steps:
  """Of the best point so far; APGD computes its own gradients."""
  problem = problem_of(inputs)
  search = make_apgd(
    norm=attack.norm,
    num_steps=attack.num_steps,
    loss_fn=cross_entropy,
    targeted=False,
    eot_samples=None,
  )

  def step(state: Any, t: Array) -> Any:
    times = jnp.full(len(inputs.images), t, jnp.int32)
    return search.step(network, problem, state, times)

  # Its first step evaluates the random start.
  return _Steps(
    step(search.start(problem), jnp.int32(0)),
    lambda state: search.found(problem, state).images,
    lambda state, gradient, t: step(state, t + 1),
  )
