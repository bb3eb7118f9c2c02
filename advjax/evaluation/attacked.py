"""Networks attacked at many epsilons, and asked what they see.

Example i of the images gets the key `fold_in(key, i)`, and the last batch is
padded and masked, so that no random draw depends on the batch size, on the
padding or on the devices. The devices may be those of several processes: each
attacks the rows of its own, and all of them return the same.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import norms
from advjax.attacks.specs import FullAttack, MinimalAttack
from advjax.callables import Callee
from advjax.evaluation.autoattack import autoattack, summarise
from advjax.evaluation.batches import batches, check_images, check_labels
from advjax.evaluation.logits import Devices, full_precision, own_devices
from advjax.evaluation.top_k import in_top_k, predict_in_top_k
from advjax.processes.collectives import gather, own_ranks
from advjax.types import Array, LogitsFn

# attack(logits_fn, images, labels, epsilon, keys) -> images, pure, or what
# `parse_attack` returns.
AttackFn = Any


class AttackedPredictions(NamedTuple):
  """What an attack on one network does to it and to others.

  Attributes:
    predictions: For every network, its predictions on the perturbed images,
      int32 `[E, N]` over epsilons and images.
    sizes: Size of each perturbation in the norm asked for, float32 `[E, N]`.
    images: The perturbed images at one of the epsilons, `[N, ...]`.
    autoattack: Of AutoAttack, what it found at each epsilon, as `summarise`
      returns it; empty otherwise.
    in_top_k: For every network, whether the label is among the k classes that
      it holds for the likeliest, bool `[E, N]`; empty if k is 1.
  """

  predictions: dict[str, np.ndarray]
  sizes: np.ndarray
  images: np.ndarray
  autoattack: tuple[dict[str, Any], ...] = ()
  in_top_k: Mapping[str, np.ndarray] = MappingProxyType({})


@functools.lru_cache(maxsize=64)
def _predict_program(devices: tuple[jax.Device, ...], top_k: int) -> Callable:
  """Predicts `[E, B, ...]` images, one batch after the other.

  Returns the classes, and with top_k above 1 also whether the label is in it.
  """

  def predict(
    images: Array, labels: Array, network: Callee
  ) -> tuple[Array, ...]:
    def at_epsilon(images: Array) -> tuple[Array, ...]:
      logits = network(images)
      classes = logits.argmax(-1).astype(jnp.int32)
      if top_k == 1:
        return (classes,)
      return classes, in_top_k(logits, labels, top_k)

    return jax.lax.map(at_epsilon, images)

  return jax.pmap(predict, in_axes=(0, 0, None), devices=list(devices))


@functools.lru_cache(maxsize=64)
def _attack_program(
  attack: AttackFn, norm: str | norms.Norm, devices: tuple[jax.Device, ...]
) -> Callable:
  """Attacks `[B, ...]` images at all epsilons: `[E, B, ...]` and sizes."""

  def per_device(
    images: Array,
    labels: Array,
    indices: Array,
    source: Callee,
    epsilons: Array,
    key: Array,
  ) -> tuple[Array, Array]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)

    def size(perturbed: Array) -> Array:
      delta = perturbed.astype(jnp.float32) - images.astype(jnp.float32)
      return norms.get(norm).size(delta)

    if isinstance(attack, MinimalAttack):
      # It is made once, and counts wherever it is within the radius.
      nearest = attack(source, images, labels)

      def at_epsilon(epsilon: Array) -> tuple[Array, Array]:
        within = norms.expand(size(nearest) <= epsilon, images)
        perturbed = jnp.where(within, nearest, images)
        return perturbed, size(perturbed)
    else:

      def at_epsilon(epsilon: Array) -> tuple[Array, Array]:
        perturbed = attack(source, images, labels, epsilon, keys)
        return perturbed, size(perturbed)

    return jax.lax.map(at_epsilon, epsilons)

  return jax.pmap(
    per_device,
    in_axes=(0, 0, 0, None, None, None),
    devices=list(devices),
  )


@full_precision
def attack_and_predict(
  source: LogitsFn,
  targets: Mapping[str, LogitsFn],
  attack: AttackFn,
  images: np.ndarray,
  labels: np.ndarray,
  epsilons: Sequence[float],
  *,
  key: Array,
  kept: int = 0,
  norm: str | norms.Norm = 'linf',
  batch_size: int | None = None,
  devices: Devices | None = None,
  save_as: pathlib.Path | None = None,
  progress: bool = False,
  top_k: int = 1,
) -> AttackedPredictions:
  """Attacks one network at many epsilons, and asks several for the class.

  x'_i(epsilon) = attack(source, x_i, y_i, epsilon);  argmax_k f(x'_i)_k

  Where a target is the source, its accuracy is white box; where it is
  another network, the attack is transferred. All epsilons run in one
  compiled program per attack, which other params of the same network and
  other epsilons do not compile again.

  Args:
    source: The network whose gradients the attack follows.
    targets: The networks that predict, by name.
    attack: `attack(logits_fn, images, labels, epsilon, keys) -> images`, a
      pure function, or anything that `parse_attack` returns.
    images: `[N, ...]`, floating, in the pixel range.
    labels: int `[N]`.
    epsilons: Radii, in the units of the pixels.
    key: Example i gets `fold_in(key, i)`.
    kept: Index of the epsilon whose images are returned.
    norm: Measures the perturbations.
    batch_size: Images per device and call; default: 64, of AutoAttack its own.
    devices: Default: all local ones.
    save_as: Where AutoAttack saves what it has found, to go on from; a file for
      each epsilon, whose names begin like this.
    progress: Whether AutoAttack draws a progress bar.
    top_k: With k above 1 the result also says where the label is among the k
      likeliest classes, on the same images.

  Returns:
    Predictions, sizes and images.

  Raises:
    ValueError: if images, labels, epsilons or top_k are not as described.

  Example:
    >>> import numpy as np
    >>> from advjax.attacks.specs import parse_attack
    >>> network = lambda x: 10 * x
    >>> result = attack_and_predict(
    ...   network,
    ...   {'itself': network},
    ...   parse_attack('fgsm'),
    ...   np.eye(3, dtype=np.float32),
    ...   np.arange(3),
    ...   [0.1, 0.9],
    ...   key=jax.random.key(0),
    ... )
    >>> (result.predictions['itself'] == np.arange(3)[None]).mean(1).tolist()
    [1.0, 0.0]
  """
  images = np.asarray(images)
  size = 64 if batch_size is None else batch_size
  check_images(images, size, getattr(attack, 'bounds', None))
  labels = check_labels(labels, images, source)
  if not 0 <= kept < len(epsilons) or min(epsilons, default=-1) < 0:
    raise ValueError(
      f'epsilons = {list(epsilons)}; allowed: one number >= 0 or more, of '
      f'which kept = {kept} is an index'
    )
  devices = tuple(devices or jax.local_devices())
  if isinstance(attack, FullAttack):
    return _autoattack_and_predict(
      source, targets, attack, images, labels, epsilons,
      key=key, kept=kept, batch_size=batch_size, devices=devices,
      save_as=save_as, progress=progress, top_k=top_k,
    )  # fmt: skip
  own = own_ranks(devices)
  program = _attack_program(attack, norm, own_devices(devices))
  ask = _predict_program(own_devices(devices), top_k)
  networks = {name: Callee.of(target) for name, target in targets.items()}
  radii = np.asarray(epsilons, np.float32)
  # Member -> the parts of its predictions, and of what is in the top k.
  found: dict[str, list[list[np.ndarray]]] = {name: [] for name in targets}
  all_sizes, all_images = [], []
  for batch in batches(images, labels, size, len(devices)):
    perturbed, sizes = program(
      batch.images[own],
      batch.labels[own],
      batch.indices[own],
      Callee.of(source),
      radii,
      key,
    )
    merge = functools.partial(_merge, devices=devices, num_real=batch.num_real)
    for name, network in networks.items():
      said = ask(perturbed, batch.labels[own], network)
      found[name].append([merge(each) for each in said])
    all_sizes.append(merge(sizes))
    all_images.append(merge(np.asarray(perturbed)[:, kept, None])[0])
  # Of each member its predictions and, where asked for, what is in the top k.
  whole = {
    name: [np.concatenate(each, 1) for each in zip(*parts, strict=True)]
    for name, parts in found.items()
  }
  return AttackedPredictions(
    {name: parts[0] for name, parts in whole.items()},
    np.concatenate(all_sizes, 1),
    np.concatenate(all_images),
    in_top_k={n: parts[1] for n, parts in whole.items() if top_k > 1},
  )


def _autoattack_and_predict(
  source: LogitsFn,
  targets: Mapping[str, LogitsFn],
  attack: FullAttack,
  images: np.ndarray,
  labels: np.ndarray,
  epsilons: Sequence[float],
  *,
  key: Array,
  kept: int,
  batch_size: int | None,
  devices: Devices,
  save_as: pathlib.Path | None,
  progress: bool,
  top_k: int,
) -> AttackedPredictions:
  """As `attack_and_predict`, by AutoAttack at one epsilon after the other."""
  predictions: dict[str, list[np.ndarray]] = {name: [] for name in targets}
  found: dict[str, list[np.ndarray]] = {name: [] for name in targets}
  sizes, summaries, images_kept = [], [], images
  for index, epsilon in enumerate(epsilons):
    result = autoattack(
      source,
      images,
      labels,
      epsilon,
      key=key,
      norm=attack.norm,
      version=attack.version,
      attacks=attack.attacks,
      bounds=attack.bounds,
      batch_size=batch_size,
      devices=devices,
      path=save_as
      and save_as.with_name(f'{save_as.name}_{float(epsilon)!r}.npz'),
      progress=progress,
    )
    for name, target in targets.items():
      classes, in_it = predict_in_top_k(
        target, result.images, labels, top_k, devices=devices, check=False
      )
      predictions[name].append(classes)
      found[name].append(in_it)
    delta = result.images.astype(np.float32) - images.astype(np.float32)
    sizes.append(np.asarray(norms.get(attack.norm).size(delta)))
    summaries.append(summarise(result, epsilon, attack.norm, attack.version))
    if index == kept:
      images_kept = result.images
  return AttackedPredictions(
    {name: np.stack(parts) for name, parts in predictions.items()},
    np.stack(sizes),
    images_kept,
    tuple(summaries),
    {name: np.stack(parts) for name, parts in found.items() if top_k > 1},
  )


def _merge(
  values: Array | np.ndarray, devices: Devices, num_real: int
) -> np.ndarray:
  """Turns `[D, E, B, ...]` of the devices into the real rows `[E, N, ...]`.

  D are the devices of this process; the rows are those of all of them.
  """
  by_epsilon = np.moveaxis(gather(values, devices), 0, 1)
  merged = by_epsilon.reshape(len(by_epsilon), -1, *by_epsilon.shape[3:])
  return merged[:, :num_real]
