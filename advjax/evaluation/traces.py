"""How an attack gets on, step by step, and whether it has gradients at all.

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
from advjax.attacks.callables import Callee
from advjax.attacks.space import Space, make_space
from advjax.evaluation.attack_specs import Attack
from advjax.evaluation.batches import batches, check_images, check_labels
from advjax.evaluation.logits import Devices, own_devices
from advjax.losses import cross_entropy
from advjax.processes.talk import gather, own_ranks
from advjax.types import Array, LogitsFn

_MAX_IMAGES = 1000


class Trace(NamedTuple):
  """An attack step by step, over images.

  Attributes:
    loss: Mean cross-entropy of the images at the start and after every step,
      float64 `[steps + 1]`.
    accuracy: Share that is classified correctly then, float64 `[steps + 1]`.
    zero_gradients: Share of images whose gradient is exactly 0 everywhere, at
      the image itself.
    not_finite_gradients: Share of images whose gradient is NaN or infinite
      anywhere, at the image itself.
  """

  loss: np.ndarray
  accuracy: np.ndarray
  zero_gradients: float
  not_finite_gradients: float


def trace(
  logits_fn: LogitsFn,
  attack: Attack,
  images: np.ndarray,
  labels: np.ndarray,
  epsilon: float,
  *,
  key: Array,
  batch_size: int = 64,
  devices: Devices | None = None,
) -> Trace:
  """Records an attack's loss and accuracy at every step.

  `L_t = mean_i loss(f(x_i^t), y_i)`, where x_i^0 is the image (for pgd the
  first random start) and x_i^t what t steps of the attack make of it, on the
  first 1,000 images. The iterates are those of the attack itself: bim, fgsm and
  mifgsm return the last of them, pgd the best.

  Args:
    logits_fn: Images `[B, ...]` to logits `[B, K]`.
    attack: From `parse_attack`. Of several restarts, the first is recorded.
    images: `[N, ...]`, floating, in the pixel range.
    labels: int `[N]`.
    epsilon: Radius, in the units of the pixels.
    key: Example i gets `fold_in(key, i)`, as in `attack_and_predict`.
    batch_size: Images per device and call.
    devices: Default: all local ones.

  Returns:
    The trace.

  Raises:
    ValueError: if images, labels or epsilon are not as described.

  Example:
    >>> from advjax.evaluation.attack_specs import parse_attack
    >>> found = trace(
    ...   lambda x: 10 * x,
    ...   parse_attack('bim-2', step_size=0.25),
    ...   np.array([[0.75, 0.25], [0.5, 0.75]], np.float32),
    ...   np.array([0, 1]),
    ...   0.5,
    ...   key=jax.random.key(0),
    ... )
    >>> found.accuracy.tolist(), found.zero_gradients
    ([1.0, 0.5, 0.0], 0.0)
  """
  images = np.asarray(images)
  check_images(images, batch_size, attack.bounds)
  labels = check_labels(labels, images, logits_fn)
  if not 0 <= epsilon < float('inf'):
    raise ValueError(f'epsilon = {epsilon!r}; allowed: a number >= 0')
  images, labels = images[:_MAX_IMAGES], labels[:_MAX_IMAGES]
  devices = tuple(devices or jax.local_devices())
  own = own_ranks(devices)
  program = _program(attack, own_devices(devices))
  network, radius = Callee.of(logits_fn), np.float32(epsilon)
  parts = []
  for batch in batches(images, labels, batch_size, len(devices)):
    found = program(
      batch.images[own],
      batch.labels[own],
      batch.indices[own],
      network,
      radius,
      key,
    )
    merged = [gather(values, devices) for values in found]
    parts.append(
      [x.reshape(-1, *x.shape[2:])[: batch.num_real] for x in merged]
    )
  # The means are over all images at once, in float64: no cut shows in them.
  loss, correct, zero, not_finite = (
    np.concatenate(rows).astype(np.float64).mean(0)
    for rows in zip(*parts, strict=True)
  )
  return Trace(loss, correct, float(zero), float(not_finite))


@functools.lru_cache(maxsize=64)
def _program(attack: Attack, devices: tuple[jax.Device, ...]) -> Callable:
  """Records `[B, ...]` images: `[B, steps + 1]` twice, and two flags `[B]`."""

  def per_device(
    images: Array,
    labels: Array,
    indices: Array,
    network: Callee,
    epsilon: Array,
    key: Array,
  ) -> tuple[Array, Array, Array, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    space, start = _start(attack, network, images, labels, epsilon, keys)

    def summed(images: Array) -> tuple[Array, tuple[Array, Array]]:
      logits = network(images)
      losses = cross_entropy(logits, labels)
      return losses.sum(), (losses, logits.argmax(-1) == labels)

    ask = jax.grad(summed, has_aux=True)

    def step(carry: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
      delta, velocity = carry
      (perturbed,) = space.images(delta)
      gradient, seen = ask(perturbed)
      return space.move(delta, velocity, [gradient]), seen

    velocity = None if space.decay is None else [0 * x for x in start]
    (delta, _), seen = jax.lax.scan(
      step, (start, velocity), None, attack.num_steps
    )
    _, last = summed(space.images(delta)[0])
    losses, correct = (
      jnp.concatenate([x, y[None]]).T for x, y in zip(seen, last, strict=True)
    )
    gradient, _ = ask(images)
    flat = gradient.reshape(len(images), -1)
    return losses, correct, (flat == 0).all(1), ~jnp.isfinite(flat).all(1)

  return jax.pmap(
    per_device,
    in_axes=(0, 0, 0, None, None, None),
    devices=list(devices),
  )


def _start(
  attack: Attack,
  network: Callee,
  images: Array,
  labels: Array,
  epsilon: Array,
  keys: Array,
) -> tuple[Space, list[Array]]:
  """The space that an attack moves in, and where it starts."""
  step_size: Array | float = epsilon * attack.step_ratio
  if attack.step_size is not None and attack.name != 'fgsm':
    step_size = attack.step_size
  inputs = inputs_lib.prepare(
    network,
    images,
    labels,
    epsilon=epsilon,
    step_size=step_size,
    loss_fn=cross_entropy,
    bounds=attack.bounds,
    targets=None,
    mask=None,
    key=keys,
    decay=1.0 if attack.name == 'mifgsm' else None,
  )
  space = make_space(inputs, norms.get(attack.norm))
  if attack.name != 'pgd':
    return space, space.still(jnp.zeros(space.batch))
  # The start of the first restart.
  fold = jax.vmap(jax.random.fold_in, (0, None))
  keys = fold(fold(inputs_lib.example_keys(keys, space.batch), 0), 0)
  return space, space.start(keys)
