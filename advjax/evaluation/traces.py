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
from advjax.attacks import scores
from advjax.attacks.apgd import make_apgd
from advjax.attacks.inputs import Inputs
from advjax.attacks.search import problem_of
from advjax.attacks.space import make_space
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
    make_walk = _search_walk if attack.name == 'apgd' else _ascent_walk
    walk = make_walk(attack, network, images, labels, epsilon, keys)

    def summed(images: Array) -> tuple[Array, tuple[Array, Array]]:
      logits = network(images)
      losses = cross_entropy(logits, labels)
      return losses.sum(), (losses, logits.argmax(-1) == labels)

    ask = jax.grad(summed, has_aux=True)

    def step(state: Any, t: Array) -> tuple[Any, tuple[Array, Array]]:
      gradient, seen = ask(walk.images(state))
      return walk.move(state, gradient, t), seen

    times = jnp.arange(attack.num_steps, dtype=jnp.int32)
    state, seen = jax.lax.scan(step, walk.start, times)
    _, last = summed(walk.images(state))
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


# ------------------------------------------------------ attacks, taken to parts


class _Walk(NamedTuple):
  """An attack, one step at a time.

  Attributes:
    start: The state before the first step.
    images: `images(state)`, the perturbed images that are recorded.
    move: `move(state, gradient at them, t) -> state`, step t from 0 on.
  """

  start: Any
  images: Callable[[Any], Array]
  move: Callable[[Any, Array, Array], Any]


def _prepare(
  attack: Attack,
  network: Callee,
  images: Array,
  labels: Array,
  epsilon: Array,
  keys: Array,
) -> tuple[Inputs, Array]:
  """What an attack starts with, and the keys of its first restart."""
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
    decay=1.0 if attack.name == 'mifgsm' else None,
  )
  return inputs, scores.fold(inputs_lib.example_keys(keys, len(images)), 0)


def _ascent_walk(attack: Attack, *arguments: Any) -> _Walk:
  inputs, keys = _prepare(attack, *arguments)
  space = make_space(inputs, norms.get(attack.norm))
  delta = still = space.still(jnp.zeros(space.batch))
  if attack.name == 'pgd':
    delta = space.start(scores.fold(keys, 0))

  def move(state: Any, gradient: Array, t: Array) -> Any:
    del t
    delta, velocity = state
    return space.move(delta, velocity, [gradient])

  return _Walk(
    (delta, None if space.decay is None else still),
    lambda state: space.images(state[0])[0],
    move,
  )


def _search_walk(
  attack: Attack,
  network: Callee,
  images: Array,
  labels: Array,
  epsilon: Array,
  keys: Array,
) -> _Walk:
  """The best point so far; a search asks for its own gradients."""
  inputs, keys = _prepare(attack, network, images, labels, epsilon, keys)
  problem = problem_of(inputs._replace(key=keys))
  search = make_apgd(
    norm=attack.norm,
    num_steps=attack.num_steps,
    loss_fn=cross_entropy,
    targeted=False,
    eot_samples=None,
  )

  def step(state: Any, t: Array) -> Any:
    times = jnp.full(len(images), t, jnp.int32)
    return search.step(network, problem, state, times)

  # Its first step is the look at the random start.
  return _Walk(
    step(search.start(problem), jnp.int32(0)),
    lambda state: search.found(problem, state).images,
    lambda state, _, t: step(state, t + 1),
  )
