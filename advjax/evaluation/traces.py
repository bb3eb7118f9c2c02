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
from advjax.attacks._core import arguments, loop
from advjax.attacks.apgd import make_apgd
from advjax.attacks.gradient import make_ascent
from advjax.attacks.specs import Attack
from advjax.callables import Callee
from advjax.evaluation.batches import batches, check_images, check_labels
from advjax.evaluation.logits import Devices, full_precision, own_devices
from advjax.losses import cross_entropy
from advjax.processes.collectives import gather, own_ranks
from advjax.types import Array, LogitsFn

TRACED = ('fgsm', 'bim', 'mifgsm', 'pgd', 'apgd')
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


@full_precision
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
    key: Example i gets `fold_in(key, i)`, as in `attack_and_predict`.
    batch_size: Images per device and call.
    devices: Default: all local ones.

  Returns:
    The trace.

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
    ...   key=jax.random.key(0),
    ... )
    >>> found.accuracy.tolist(), found.zero_gradients
    ([1.0, 0.5, 0.0], 0.0)
  """
  if attack.name not in TRACED:
    raise ValueError(f'attack {attack.name!r}; allowed: {", ".join(TRACED)}')
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
    problem = arguments.check(
      network,
      images,
      labels,
      epsilon=epsilon,
      bounds=attack.bounds,
      key=keys if attack.name in ('pgd', 'apgd') else None,
    ).per_example()
    problem = problem._replace(keys=loop.fold(problem.keys, 0))
    search = _search(attack, network, epsilon)

    def summed(images: Array) -> tuple[Array, tuple[Array, Array]]:
      logits = network(images)
      losses = cross_entropy(logits, labels)
      return losses.sum(), (losses, logits.argmax(-1) == labels)

    def images_of(state: Any) -> Array:
      return search.found(problem, state).images

    def step(state: Any, t: Array) -> Any:
      times = jnp.full(len(images), t, jnp.int32)
      return search.step(network, problem, state, times)

    def record(state: Any, t: Array) -> tuple[Any, tuple[Array, Array]]:
      return step(state, t), summed(images_of(state))[1]

    times = jnp.arange(search.num_steps, dtype=jnp.int32)
    state = search.start(problem)
    if attack.name == 'apgd':  # Its first step is the look at the start.
      state, times = step(state, times[0]), times[1:]
    state, seen = jax.lax.scan(record, state, times)
    _, last = summed(images_of(state))
    losses, correct = (
      jnp.concatenate([x, y[None]]).T for x, y in zip(seen, last, strict=True)
    )
    gradient, _ = jax.grad(summed, has_aux=True)(images)
    flat = gradient.reshape(len(images), -1)
    return losses, correct, (flat == 0).all(1), ~jnp.isfinite(flat).all(1)

  return jax.pmap(
    per_device,
    in_axes=(0, 0, 0, None, None, None),
    devices=list(devices),
  )


def _search(attack: Attack, network: Callee, epsilon: Array) -> loop.Search:
  """The attack as a search, which finds its last iterate (apgd: the best)."""
  if attack.name == 'apgd':
    return make_apgd(
      norm=attack.norm, num_steps=attack.num_steps, loss_fn=cross_entropy
    )
  return make_ascent(
    network,
    cross_entropy,
    attack.step_at(epsilon),
    1.0 if attack.name == 'mifgsm' else None,
    norm=norms.get(attack.norm),
    num_steps=attack.num_steps,
  )
